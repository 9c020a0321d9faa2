//! Unmounting by descriptor: what is unmounted is what was looked at, whatever others do to the path meanwhile.
//!
//! A path leads elsewhere as soon as one directory above the mount point is exchanged with a symbolic link. A descriptor
//! leads to the same mount and directory for ever, and its link in /proc/self/fd is followed by umount2(2) without a walk
//! over names. The kernel then only crosses to what is mounted on top (fs/namei.c, `LOOKUP_MOUNTPOINT`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::UnmountFlags;

use super::mount::Unmount;
use super::open::{proc_path, retry};

/// How often an `EAGAIN` of openat2(2) (a rename somewhere raced with the walk) is tried again.
const RETRIES: u32 = 10_000;

/// Says whether a descriptor leads to the root of the mount that is meant.
pub type IsMeant<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<bool>;

/// A directory that something is mounted on: the directory itself, which the mount hides.
///
/// It keeps the file system of the directory busy, but not that of the mount.
#[derive(Debug)]
pub struct MountPoint(OwnedFd);

impl MountPoint {
    /// The directory of a descriptor that was opened before the mount.
    #[must_use]
    pub fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// The root of the topmost mount on the directory; the directory itself if nothing is mounted on it.
    ///
    /// `..` of a root is that root, and the walk then crosses to what is mounted on it: no name is looked up.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn top(&self) -> io::Result<OwnedFd> {
        open(self.0.as_fd(), Path::new(".."), OFlags::empty(), ResolveFlags::IN_ROOT)
    }

    /// Unmounts the topmost mount on the directory, if it is the one that is meant; `false` if it is another, or none.
    ///
    /// [`Unmount::Now`] looks first and unmounts then: callers that unmount at the same directory take turns.
    ///
    /// # Errors
    /// As [`unmount_at`].
    pub fn unmount(&self, is_meant: IsMeant<'_>, how: Unmount) -> io::Result<bool> {
        let top = self.top()?;
        if !is_meant(top.as_fd())? {
            return Ok(false);
        }
        if how == Unmount::Now {
            // A descriptor of the mount would keep it busy.
            drop(top);
            rustix::mount::unmount(proc_path(self.0.as_fd()), how.flags())?;
        } else {
            rustix::mount::unmount(proc_path(top.as_fd()), how.flags())?;
        }
        Ok(true)
    }
}

impl AsFd for MountPoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// True if a directory is the root of a mount, or something is mounted on it; also where that cannot be told (before Linux 5.8).
/// No mount table is read.
///
/// # Errors
/// Those of openat2(2) and statx(2).
pub fn has_mount(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let top = open(directory, Path::new(".."), OFlags::empty(), ResolveFlags::IN_ROOT)?;
    let found = statx(&top, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    let root = StatxAttributes::MOUNT_ROOT;
    Ok(!found.stx_attributes_mask.contains(root) || found.stx_attributes.contains(root))
}

/// Unmounts the topmost mount at `path` (absolute), if it is the one that is meant; `false` if it is another.
///
/// No symbolic link is followed. [`Unmount::Lazy`] and [`Unmount::Abort`] unmount by the descriptor that was looked at.
/// [`Unmount::Now`] cannot, since that descriptor would keep the mount busy: it unmounts by the last name, from a
/// descriptor of the directory that holds it. While something is mounted on a name, the kernel renames it only for
/// processes of other mount namespaces.
///
/// # Errors
/// `EBUSY` if the mount is used, `EPERM` without privilege, `EINVAL` if it went meanwhile or is in another mount
/// namespace; those of openat2(2): `ELOOP` for a symbolic link in the path.
pub fn unmount_at(path: &Path, is_meant: IsMeant<'_>, how: Unmount) -> io::Result<bool> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let parent = open_at(parent)?;
    let top = open(parent.as_fd(), Path::new(name), OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)?;
    if !is_meant(top.as_fd())? {
        return Ok(false);
    }
    if how == Unmount::Now {
        drop(top);
        let path = Path::new(&proc_path(parent.as_fd())).join(name);
        rustix::mount::unmount(path, how.flags() | UnmountFlags::NOFOLLOW)?;
    } else {
        rustix::mount::unmount(proc_path(top.as_fd()), how.flags())?;
    }
    Ok(true)
}

/// Opens a directory as a reference by a path (absolute) that has no symbolic link in it: the root of what is mounted there,
/// or the directory itself. The file system of the directory is asked nothing.
///
/// # Errors
/// Those of openat2(2): `ELOOP` if a symbolic link has got into the path.
pub fn open_at(path: &Path) -> io::Result<OwnedFd> {
    open(CWD, path, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)
}

/// Opens a directory as a reference, without asking the file system of the directory itself anything.
fn open(from: BorrowedFd<'_>, path: &Path, more: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
    for _ in 0..RETRIES {
        match retry(|| rustix::fs::openat2(from, path, flags, Mode::empty(), resolve)) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            answer => return answer,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}
