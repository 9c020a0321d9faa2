//! Removal of all that is in a directory, whatever it is and however deep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::RenameFlags;

use super::unless;
use crate::sys;
use crate::vfs::Errno;

/// How many names are read at a time.
const BATCH: usize = 4096;

/// Removes all that is in a directory. Follows no symbolic link, crosses no mount point (`EBUSY`, `EXDEV`).
///
/// Few descriptors and little memory whatever the shape of the tree: directories that are not empty are moved up into
/// `dir` itself before they are emptied, so that nothing is ever more than two levels deep.
///
/// # Errors
/// The first that occurs; the rest is then still there.
pub fn clear(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let names = some_names(dir)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            discard(dir, &name, &mut moved)?;
        }
    }
}

/// Removes one name and all below it; directories further down may be left in `dir`, under names of their own.
fn discard(dir: BorrowedFd<'_>, name: &[u8], moved: &mut u64) -> io::Result<()> {
    if is_gone(dir, name)? {
        return Ok(());
    }
    let doomed = open_doomed(dir, name)?;
    loop {
        let names = some_names(doomed.as_fd())?;
        if names.is_empty() {
            return sys::names::remove_directory(dir, name);
        }
        for inner in names {
            if !is_gone(doomed.as_fd(), &inner)? {
                // Moving a directory changes its own "..": its owner must be allowed to write to it.
                drop(open_doomed(doomed.as_fd(), &inner)?);
                move_up((doomed.as_fd(), &inner), dir, moved)?;
            }
        }
    }
}

/// Removes a name if that takes no more than one call: anything but a directory with names in it.
fn is_gone(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let removed = match sys::names::unlink(dir, name) {
        Err(error) if Errno::of(&error) == Errno::EISDIR => sys::names::remove_directory(dir, name),
        answer => answer,
    };
    match removed {
        Err(error) if matches!(Errno::of(&error), Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        answer => unless(answer, &[Errno::ENOENT]).map(|_| true),
    }
}

/// Opens a directory that is to go, and lets its owner write to it.
fn open_doomed(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<std::os::fd::OwnedFd> {
    let doomed = sys::open::open_directory(dir, name)?;
    sys::attr::set_permissions(doomed.as_fd(), 0o700)?;
    Ok(doomed)
}

fn move_up(from: (BorrowedFd<'_>, &[u8]), dir: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let name = format!("#removed-{moved}");
        let answer = sys::names::rename(from, (dir, name.as_bytes()), RenameFlags::NOREPLACE);
        if unless(answer, &[Errno::EEXIST])?.is_some() {
            return Ok(());
        }
    }
}

/// Some of the names of a directory; none only if there are none.
fn some_names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let listing = sys::open::open_listing(dir)?;
    let mut names = Vec::new();
    let listed = sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
        names.push(name.to_vec());
        if names.len() < BATCH { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    });
    match listed {
        Err(error) if names.len() < BATCH => Err(error),
        _ => Ok(names),
    }
}
