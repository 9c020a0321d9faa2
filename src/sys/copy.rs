//! Copies of the content of a file, within the kernel where it can, and what of a file is data.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::open::retry;

/// Makes `target` share all blocks of `source` (FICLONE): constant time, the length included.
///
/// # Errors
/// Those of ioctl_ficlone(2): `EOPNOTSUPP`, `EXDEV`, `EINVAL` where the file systems cannot.
pub fn clone(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    retry(|| rustix::fs::ioctl_ficlone(target, source))
}

/// Copies up to `length` bytes at `offset` of one file to the same place of another, answers how many; 0 at the end
/// of the source.
///
/// # Errors
/// Those of copy_file_range(2): `EXDEV`, `EOPNOTSUPP`, `EINVAL` where the file systems cannot.
pub fn copy_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    offset: u64,
    length: usize,
) -> io::Result<usize> {
    retry(|| {
        let (mut from, mut to) = (offset, offset);
        rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length)
    })
}

/// The offset of the first byte of data at or after `offset`; `None` if there is only a hole up to the end.
///
/// # Errors
/// Those of lseek(2). The descriptor's own offset moves.
pub fn next_data(file: BorrowedFd<'_>, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The offset of the first hole at or after `offset`, or the end of the file; `ENXIO` past the end.
///
/// # Errors
/// Those of lseek(2). The descriptor's own offset moves.
pub fn next_hole(file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::Hole(offset))?)
}
