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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn removes_deep_closed_and_odd_trees_and_nothing_behind_links() {
        let temp = tempfile::tempdir().unwrap();
        let canary = temp.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("file"), "alive").unwrap();
        let doomed = temp.path().join("doomed");
        fs::create_dir(&doomed).unwrap();
        let dir = File::open(&doomed).unwrap();

        // Deeper than any path can be long, and than descriptors could be held.
        let mut at: std::os::fd::OwnedFd = dir.try_clone().unwrap().into();
        for _ in 0..3000 {
            sys::names::create_directory(at.as_fd(), b"deep", 0o755).unwrap();
            sys::names::create_directory(at.as_fd(), b"#removed-1", 0o755).unwrap();
            sys::names::create_symlink(at.as_fd(), b"link", canary.as_os_str().as_encoded_bytes()).unwrap();
            at = sys::open::open_directory(at.as_fd(), b"deep").unwrap();
        }
        for closed in ["closed", "closed/inner"] {
            fs::create_dir(doomed.join(closed)).unwrap();
        }
        fs::write(doomed.join("closed/inner/file"), "").unwrap();
        symlink(&canary, doomed.join("closed/inner/link")).unwrap();
        for closed in ["closed/inner", "closed"] {
            fs::set_permissions(doomed.join(closed), Permissions::from_mode(0o000)).unwrap();
        }
        fs::create_dir(doomed.join("many")).unwrap();
        for i in 0..5000 {
            fs::write(doomed.join(format!("many/{i}")), "").unwrap();
        }

        clear(dir.as_fd()).unwrap();
        assert_eq!(fs::read_dir(&doomed).unwrap().count(), 0);
        assert_eq!(fs::read(canary.join("file")).unwrap(), b"alive");
        clear(dir.as_fd()).unwrap();
    }
}
