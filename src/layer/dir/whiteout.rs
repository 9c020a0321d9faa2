//! Marks in place of names: what hides a name of the lower layer.
//!
//! Usually a character device 0:0, as the kernel's overlayfs has it. Where a file system or the privilege refuses
//! those ([`Format::Files`]), an empty file `.wh.NAME` beside the name, and `.wh..wh..opq` within an opaque directory.
//! There **an object wins over a whiteout file of the same name**: so the mark can be made before the object goes, and
//! removed after the object has come, and each change is still one step: the one that concerns the object. In that
//! format names that start with `.wh.` do not exist for anybody else, and cannot be made (`EPERM`); names longer than
//! 251 bytes cannot be hidden (`ENAMETOOLONG`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Statx};

use super::{DirObject, Format, error, unless};
use crate::sys;
use crate::vfs::{Errno, Name};

/// What names of marks start with in [`Format::Files`].
pub(super) const PREFIX: &[u8] = b".wh.";

/// The mark of an opaque directory in [`Format::Files`].
pub(super) const OPAQUE_FILE: &[u8] = b".wh..wh..opq";

/// True for a character device 0:0.
pub(super) fn is_one(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice
        && stat.stx_rdev_major == 0
        && stat.stx_rdev_minor == 0
}

/// The name of the whiteout file of a name.
pub(super) fn file_name(name: &Name) -> Vec<u8> {
    [PREFIX, name.as_bytes()].concat()
}

/// True for a name that only marks can have in this format.
pub(super) fn is_reserved(format: Format, name: &Name) -> bool {
    format == Format::Files && name.as_bytes().starts_with(PREFIX)
}

/// `EPERM` for a name that only marks can have in this format.
pub(super) fn refuse_reserved(format: Format, name: &Name) -> io::Result<()> {
    if is_reserved(format, name) { Err(error(Errno::EPERM)) } else { Ok(()) }
}

/// True if there is a whiteout file for a name.
pub(super) fn has_file(dir: &DirObject, name: &Name) -> io::Result<bool> {
    let found = sys::stat::stat_name(dir.as_fd(), &file_name(name));
    Ok(unless(found, &[Errno::ENOENT, Errno::ENAMETOOLONG])?.is_some())
}

/// Makes the whiteout file of a name; it may be there already.
pub(super) fn create_file(dir: &DirObject, name: &Name) -> io::Result<()> {
    let made = sys::names::create_file(dir.as_fd(), &file_name(name), 0);
    unless(made, &[Errno::EEXIST]).map(drop)
}

/// Removes the whiteout file of a name, answers whether there was one.
pub(super) fn remove_file(dir: &DirObject, name: &Name) -> io::Result<bool> {
    let removed = sys::names::unlink(dir.as_fd(), &file_name(name));
    Ok(unless(removed, &[Errno::ENOENT, Errno::ENAMETOOLONG])?.is_some())
}

/// Makes a whiteout device.
pub(super) fn create_device(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    sys::names::create_node(dir, name, FileType::CharacterDevice, 0, 0)
}

/// True if nothing is in a directory but whiteouts and marks.
pub(super) fn only(dir: BorrowedFd<'_>, format: Format) -> io::Result<bool> {
    let listing = sys::open::open_listing(dir)?;
    let mut only = true;
    sys::dirent::for_each_name(listing.as_fd(), |name, _, kind| {
        only = only
            && match kind {
                _ if format == Format::Files && name.starts_with(PREFIX) => true,
                FileType::CharacterDevice | FileType::Unknown => is_one(&sys::stat::stat_name(dir, name)?),
                _ => false,
            };
        Ok(())
    })?;
    Ok(only)
}

/// Removes all whiteout devices of a directory in which nothing else is.
pub(super) fn remove_devices(dir: BorrowedFd<'_>) -> io::Result<()> {
    let listing = sys::open::open_listing(dir)?;
    let mut names = Vec::new();
    sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
        names.push(name.to_vec());
        Ok(())
    })?;
    names.iter().try_for_each(|name| sys::names::unlink(dir, name))
}
