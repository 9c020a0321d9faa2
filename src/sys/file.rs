//! What is done with an open regular file.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, Mode};

use super::open::retry;

/// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
///
/// # Errors
/// Those of pread(2).
pub fn read_at(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| rustix::io::pread(file, &mut *buffer, offset))
}

/// Writes at `offset`, answers how much.
///
/// # Errors
/// Those of pwrite(2).
pub fn write_at(file: BorrowedFd<'_>, offset: u64, data: &[u8]) -> io::Result<usize> {
    retry(|| rustix::io::pwrite(file, data, offset))
}

/// Sets the length.
///
/// # Errors
/// Those of ftruncate(2).
pub fn set_length(file: BorrowedFd<'_>, length: u64) -> io::Result<()> {
    retry(|| rustix::fs::ftruncate(file, length))
}

/// Sets the permission bits (the low 12 bits of the mode).
///
/// # Errors
/// Those of fchmod(2).
pub fn set_permissions(file: BorrowedFd<'_>, permissions: u16) -> io::Result<()> {
    retry(|| rustix::fs::fchmod(file, Mode::from_raw_mode(permissions.into())))
}

/// Makes content and metadata durable; with `data_only`, what is needed to read the content back.
///
/// # Errors
/// Those of fsync(2).
pub fn sync(file: BorrowedFd<'_>, data_only: bool) -> io::Result<()> {
    retry(|| if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) })
}

/// Makes everything durable that was written to the file system of a file or directory.
///
/// # Errors
/// Those of syncfs(2).
pub fn sync_filesystem(file: BorrowedFd<'_>) -> io::Result<()> {
    retry(|| rustix::fs::syncfs(file))
}

/// Allocates or frees space, `mode` as fallocate(2) has it.
///
/// # Errors
/// Those of fallocate(2); `EOPNOTSUPP` for bits of `mode` that are not known here.
pub fn allocate(file: BorrowedFd<'_>, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let flags = u32::try_from(mode).ok().and_then(FallocateFlags::from_bits);
    let flags = flags.ok_or(rustix::io::Errno::OPNOTSUPP)?;
    retry(|| rustix::fs::fallocate(file, flags, offset, length))
}
