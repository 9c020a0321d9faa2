//! Metadata of inodes and file systems, by descriptor.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatVfs, Statx, StatxFlags};

/// The metadata of what a descriptor of any kind, `O_PATH` too, refers to.
///
/// # Errors
/// Those of statx(2).
pub fn stat(fd: BorrowedFd<'_>) -> io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::statx(fd, "", flags, StatxFlags::BASIC_STATS)?)
}

/// The metadata of a name in a directory; a symbolic link is not followed.
///
/// # Errors
/// Those of statx(2).
pub fn stat_name(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Statx> {
    Ok(rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?)
}

/// When an inode was made, in seconds and nanoseconds; `None` where the file system does not keep that.
///
/// # Errors
/// Those of statx(2).
pub fn birth(fd: BorrowedFd<'_>) -> io::Result<Option<(i64, u32)>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::fs::statx(fd, "", flags, StatxFlags::BTIME)?;
    let kept = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(kept.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)))
}

/// Sizes of the file system that a descriptor of any kind is on.
///
/// # Errors
/// Those of fstatfs(2).
pub fn stat_filesystem(fd: BorrowedFd<'_>) -> io::Result<StatVfs> {
    Ok(rustix::fs::fstatvfs(fd)?)
}

/// Sizes of the file system that a descriptor of another process is on.
///
/// # Errors
/// Those of statfs(2); `ENOENT` if there is no such process or descriptor, `EACCES` if it is another user's.
pub fn stat_filesystem_of(pid: u32, descriptor: u32) -> io::Result<StatVfs> {
    Ok(rustix::fs::statvfs(format!("/proc/{pid}/fd/{descriptor}"))?)
}
