//! Changes of the names of directories, by descriptor of the directory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use super::open::{open_beneath, proc_path, retry};

/// Makes and opens a new regular file for reading and writing.
///
/// # Errors
/// Those of openat2(2); `EEXIST` if the name is taken.
pub fn create_file(dir: BorrowedFd<'_>, name: &[u8], permissions: u16) -> io::Result<OwnedFd> {
    open_beneath(dir, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, permissions)
}

/// Makes a directory.
///
/// # Errors
/// Those of mkdirat(2).
pub fn create_directory(dir: BorrowedFd<'_>, name: &[u8], permissions: u16) -> io::Result<()> {
    retry(|| rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(permissions.into())))
}

/// Makes a symbolic link.
///
/// # Errors
/// Those of symlinkat(2); `EINVAL` for a target with a NUL.
pub fn create_symlink(dir: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
    retry(|| rustix::fs::symlinkat(target, dir, name))
}

/// Makes a device, FIFO or socket. `rdev` is as stat(2) shows it.
///
/// # Errors
/// Those of mknodat(2). Devices need `CAP_MKNOD`, except the character device 0:0, a whiteout (since Linux 5.8).
pub fn create_node(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: FileType,
    permissions: u16,
    rdev: u64,
) -> io::Result<()> {
    retry(|| rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(permissions.into()), rdev))
}

/// Gives the inode behind a descriptor of any kind, `O_PATH` too, a further name.
///
/// Through /proc/self/fd: `AT_EMPTY_PATH` needs `CAP_DAC_READ_SEARCH` of the initial user namespace before Linux 6.10.
///
/// # Errors
/// Those of linkat(2): `ENOENT` for an inode whose last name is gone, `EPERM` for a directory.
pub fn link(object: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    retry(|| rustix::fs::linkat(CWD, proc_path(object).as_str(), dir, name, AtFlags::SYMLINK_FOLLOW))
}

/// Removes a name of anything but a directory.
///
/// # Errors
/// Those of unlinkat(2): `EISDIR` for a directory.
pub fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    retry(|| rustix::fs::unlinkat(dir, name, AtFlags::empty()))
}

/// Removes an empty directory.
///
/// # Errors
/// Those of unlinkat(2).
pub fn remove_directory(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    retry(|| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
}

/// Removes the empty directory of a descriptor, wherever it is by now.
///
/// # Errors
/// Those of unlinkat(2), `ENOENT` if it was removed already; `ESTALE` if it is renamed at this moment.
pub fn remove_opened_directory(dir: BorrowedFd<'_>) -> io::Result<()> {
    let path = std::fs::read_link(proc_path(dir))?;
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let name = path.file_name().ok_or_else(invalid)?.as_bytes();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = retry(|| rustix::fs::openat(dir, "..", flags, Mode::empty()))?;
    let named = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let held = rustix::fs::fstat(dir)?;
    if (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino) {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    remove_directory(parent.as_fd(), name)
}

/// True if a name leads to the inode of a descriptor. A symbolic link is not followed.
///
/// # Errors
/// Those of stat(2), but for the name being absent.
pub fn leads_to(dir: BorrowedFd<'_>, name: &[u8], object: BorrowedFd<'_>) -> io::Result<bool> {
    let held = rustix::fs::fstat(object)?;
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves a name in one step; `flags` as renameat2(2) has them.
///
/// # Errors
/// Those of renameat2(2): `EINVAL` for a flag that the file system does not know.
pub fn rename(
    from: (BorrowedFd<'_>, &[u8]),
    to: (BorrowedFd<'_>, &[u8]),
    flags: RenameFlags,
) -> io::Result<()> {
    retry(|| rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags))
}

/// The target of the symbolic link that a descriptor refers to.
///
/// # Errors
/// Those of readlinkat(2): `ENOENT` or `EINVAL` for what is no symbolic link.
pub fn read_link(link: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(link.as_fd(), "", Vec::new())?.into_bytes())
}
