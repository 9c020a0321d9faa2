//! Changes of metadata in an upper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};

use super::{DirObject, Format, error, escape, marks, read};
use crate::sys;
use crate::vfs::{Errno, FileKind, SetAttr, SetTime, XattrMode};

/// Changes metadata: length, owner, mode, times, in this order, since each of them can change the next.
pub(super) fn set_attr(object: &DirObject, changes: &SetAttr, format: Format) -> io::Result<()> {
    let fd = object.as_fd();
    if let Some(length) = changes.size {
        match read::stat_upper(object, format)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(error(Errno::EISDIR)),
            _ => return Err(error(Errno::EINVAL)),
        }
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let file = marks::owner_may_write(fd, || sys::open::reopen(fd, flags))?;
        sys::file::set_length(file.as_fd(), length)?;
    }
    if changes.uid.is_some() || changes.gid.is_some() {
        sys::attr::set_owner(fd, changes.uid, changes.gid)?;
    }
    if let Some(permissions) = changes.permissions {
        sys::attr::set_permissions(fd, permissions)?;
    }
    set_times(fd, changes)
}

/// Sets the times that are to change, if any.
pub(super) fn set_times(fd: BorrowedFd<'_>, changes: &SetAttr) -> io::Result<()> {
    if changes.atime.is_none() && changes.mtime.is_none() {
        return Ok(());
    }
    let time = |wanted: Option<SetTime>| match wanted {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(t)) => Timespec { tv_sec: t.seconds, tv_nsec: t.nanoseconds.into() },
    };
    let times = Timestamps { last_access: time(changes.atime), last_modification: time(changes.mtime) };
    sys::attr::set_times(fd, &times)
}

/// Sets an extended attribute, whose name may not be a mark's on the disk.
pub(super) fn set_xattr(
    object: &DirObject,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
    format: Format,
) -> io::Result<()> {
    let flags = match mode {
        XattrMode::Set => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    };
    marks::set(object.as_fd(), &escape::stored(name, format)?, value, flags)
}

/// Removes an extended attribute, as [`set_xattr`] names it.
pub(super) fn remove_xattr(object: &DirObject, name: &[u8], format: Format) -> io::Result<()> {
    let name = escape::stored(name, format)?;
    marks::owner_may_write(object.as_fd(), || sys::xattr::remove(object.as_fd(), &name))
}
