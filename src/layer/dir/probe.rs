//! Which format a file system and this process's privilege allow: found out by trying, in the work directory.
//!
//! All is tried on empty files, not on directories: these have blocks, and freeing them costs milliseconds on a busy
//! disk (ext4 with `discard`), which is most of what a mount takes.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{RenameFlags, XattrFlags};

use super::work::Work;
use super::{Format, unless, whiteout};
use crate::sys;
use crate::vfs::Errno;

/// How a file system or the kernel says that it cannot or may not.
const REFUSED: &[Errno] = &[
    Errno::EPERM,
    Errno::EACCES,
    Errno::EINVAL,
    Errno::EOPNOTSUPP,
    Errno::ENOSYS,
    Errno::ENODEV,
    Errno::ENXIO,
];

/// The best format that works here.
pub(super) fn best(work: &Arc<Work>) -> io::Result<Format> {
    for format in Format::ALL {
        if works(work, format)? {
            return Ok(format);
        }
    }
    Ok(Format::Files)
}

/// True if this format works here.
///
/// # Errors
/// `Unsupported`, with a message for people, if the file system cannot exchange two names, which all formats need.
pub(super) fn works(work: &Arc<Work>, format: Format) -> io::Result<bool> {
    if !can_exchange(work)? {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "its file system cannot exchange two names (RENAME_EXCHANGE): put the upper on ext4, xfs, btrfs or tmpfs",
        ));
    }
    Ok(format == Format::Files || (has_whiteouts(work)? && has_marks(work, format)?))
}

fn can_exchange(work: &Arc<Work>) -> io::Result<bool> {
    let (file, _) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    let (other, _) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    let exchanged = sys::names::rename(file.place(), other.place(), RenameFlags::EXCHANGE);
    Ok(unless(exchanged, REFUSED)?.is_some())
}

/// Both ways in which whiteouts come into being, and whether they are then what was asked for.
fn has_whiteouts(work: &Arc<Work>) -> io::Result<bool> {
    let (moved, _) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    let Some((made, ())) = unless(work.create(whiteout::create_device), REFUSED)? else {
        return Ok(false);
    };
    let (target, _) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    let left = sys::names::rename(moved.place(), target.place(), RenameFlags::WHITEOUT);
    if unless(left, REFUSED)?.is_none() {
        return Ok(false);
    }
    for place in [made.place(), moved.place()] {
        if !whiteout::is_one(&sys::stat::stat_name(place.0, place.1)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_marks(work: &Arc<Work>, format: Format) -> io::Result<bool> {
    let (_made, file) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    let name = [format.overlay_prefix().as_bytes(), b"opaque"].concat();
    let set = sys::xattr::set(file.as_fd(), &name, b"y", XattrFlags::empty());
    Ok(unless(set, REFUSED)?.is_some() && sys::xattr::get(file.as_fd(), &name)? == b"y")
}
