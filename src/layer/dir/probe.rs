//! Which format a file system and this process's privilege allow: found out by trying, in the work directory.
//!
//! As few inodes as possible are made for it, and no directories: to find a free inode can take half a millisecond on a
//! full ext4, and directories have blocks, whose freeing costs milliseconds on a busy disk with `discard`. That would be
//! most of what a mount takes.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{RenameFlags, XattrFlags};

use super::work::{Temporary, Work};
use super::{Format, unless, whiteout};
use crate::sys;
use crate::vfs::Errno;
use crate::vfs::access_list::{ACCESS_LIST, DEFAULT_LIST};

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
///
/// # Errors
/// As [`works`].
pub(super) fn best(work: &Arc<Work>) -> io::Result<Format> {
    let whiteouts = names(work)?;
    for format in Format::ALL {
        if format == Format::Files || (whiteouts && has_marks(work, format)?) {
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
    let whiteouts = names(work)?;
    Ok(format == Format::Files || (whiteouts && has_marks(work, format)?))
}

/// True if this process may set the marks of a format, on a file system that keeps them.
///
/// # Errors
/// Those of setxattr(2) and its like, but for a disk that is full.
pub(super) fn may_mark(work: &Arc<Work>, format: Format) -> io::Result<bool> {
    let marks = || Ok(format == Format::Files || has_marks(work, format)?);
    Ok(unless(marks(), &[Errno::ENOSPC, Errno::EDQUOT])?.unwrap_or(true))
}

/// Makes sure that names can be exchanged; true if whiteouts can be made besides.
///
/// Where they can, the two that come into being in the two ways there are (made, and left by a rename) are the names
/// that are exchanged: the fewer inodes are made, the sooner a view is mounted.
fn names(work: &Arc<Work>) -> io::Result<bool> {
    if let Some((made, moved)) = whiteouts(work)? {
        for place in [made.place(), moved.place()] {
            if !whiteout::is_one(&sys::stat::stat_name(place.0, place.1)?) {
                return exchange_files(work).map(|()| false);
            }
        }
        return exchange(&made, &moved).map(|()| true);
    }
    exchange_files(work).map(|()| false)
}

/// A whiteout that was made and moved away, and the one that this left in its place.
fn whiteouts(work: &Arc<Work>) -> io::Result<Option<(Temporary, Temporary)>> {
    let Some((made, ())) = unless(work.create(whiteout::create_device), REFUSED)? else {
        return Ok(None);
    };
    let (moved, ()) = work.create(|_, _| Ok(()))?;
    let left = sys::names::rename(made.place(), moved.place(), RenameFlags::WHITEOUT);
    match unless(left, REFUSED) {
        Ok(Some(())) => Ok(Some((made, moved))),
        answer => {
            moved.forget();
            answer.map(|_| None)
        }
    }
}

fn exchange_files(work: &Arc<Work>) -> io::Result<()> {
    let (file, _) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    let (other, _) = work.create(|dir, name| sys::names::create_file(dir, name, 0o600))?;
    exchange(&file, &other)
}

fn exchange(one: &Temporary, other: &Temporary) -> io::Result<()> {
    let exchanged = sys::names::rename(one.place(), other.place(), RenameFlags::EXCHANGE);
    unless(exchanged, REFUSED)?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "its file system cannot exchange two names (RENAME_EXCHANGE): put the upper on ext4, xfs, btrfs or tmpfs",
        )
    })
}

/// Tried on the work directory itself, where an opaque mark means nothing.
fn has_marks(work: &Arc<Work>, format: Format) -> io::Result<bool> {
    let name = [format.overlay_prefix().as_bytes(), b"opaque"].concat();
    let set = sys::xattr::set(work.as_fd(), &name, b"y", XattrFlags::empty());
    if unless(set, REFUSED)?.is_none() {
        return Ok(false);
    }
    let kept = sys::xattr::get(work.as_fd(), &name)? == b"y";
    sys::xattr::remove(work.as_fd(), &name)?;
    Ok(kept)
}

/// True if the file system has access control lists. What is drafted in the work directory then inherits none from it.
///
/// # Errors
/// Those of getxattr(2) and removexattr(2).
pub(super) fn keeps_access_lists(root: &impl AsFd, work: &impl AsFd) -> io::Result<bool> {
    const NONE: &[Errno] = &[Errno::ENODATA];
    match unless(sys::xattr::get(root.as_fd(), ACCESS_LIST), NONE) {
        Err(error) if Errno::of(&error) == Errno::EOPNOTSUPP => return Ok(false),
        answer => drop(answer?),
    }
    unless(sys::xattr::remove(work.as_fd(), DEFAULT_LIST), NONE)?;
    Ok(true)
}
