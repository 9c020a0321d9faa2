//! The names of a directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// Size of the buffer for getdents64(2); on the heap.
const BUFFER: usize = 32 * 1024;

/// Calls `each` with every name of a directory except `.` and `..`, its inode number, and its type as far as the file
/// system told it. `dir` must be open for reading ([`super::open::open_listing`]); its offset moves.
///
/// # Errors
/// Those of getdents64(2), and those of `each`, which end the listing.
pub fn for_each_name(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8], u64, FileType) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            each(name, entry.ino(), entry.file_type())?;
        }
    }
    Ok(())
}
