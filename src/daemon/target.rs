//! The directory that a view is mounted on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::error::{Attempt, Failure};
use super::mounted::is_view;
use crate::sys::{mount_point, mountinfo, open};

/// A directory to mount on, opened before anything is done: nobody can change its path afterwards.
#[derive(Debug)]
pub(super) struct Target {
    /// Its path, without symbolic links.
    pub(super) path: PathBuf,
    /// The directory.
    pub(super) directory: OwnedFd,
}

impl Target {
    /// The directory at `path`, on which no view is mounted.
    ///
    /// # Errors
    /// If there is none, with what can be done.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let missing = || format!("cannot mount on {}", path.display());
        let parent = parent.canonicalize().attempt(missing)?;
        let path = path.file_name().map_or_else(|| parent.clone(), |name| parent.join(name));
        // No link has got into the path since it was resolved.
        let directory = mount_point::open_at(&path).map_err(|error| {
            let failure = Failure::of(&missing(), &error);
            match error.raw_os_error() {
                Some(libc::ENOENT) => {
                    failure.hint(format!("make the directory first: mkdir -p {}", path.display()))
                }
                Some(libc::ENOTDIR | libc::ELOOP) => {
                    failure.hint("a view is mounted on a directory; it is no directory, or a symbolic link")
                }
                _ => failure,
            }
        })?;
        refuse_view(&path, directory.as_fd())?;
        Ok(Self { path, directory })
    }

    /// The directory that somebody else has opened, who calls it `named`.
    ///
    /// # Errors
    /// If it is no directory, has no path here any more, or is in another mount namespace: this process could not mount
    /// there.
    pub(super) fn opened(directory: &OwnedFd, named: &Path) -> Result<Self, Failure> {
        let missing = || format!("cannot mount on {}", named.display());
        let directory = directory.try_clone().attempt(missing)?;
        let path = std::fs::read_link(open::proc_path(directory.as_fd())).attempt(missing)?;
        refuse_view(&path, directory.as_fd())?;
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
        let held = statx(&directory, "", AtFlags::EMPTY_PATH, wanted).attempt(missing)?;
        if u32::from(held.stx_mode) & libc::S_IFMT != libc::S_IFDIR {
            return Err(Failure::new(missing()).hint("a view is mounted on a directory"));
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let found = statx(CWD, &path, flags, wanted);
        let same = found.is_ok_and(|found| {
            (found.stx_mnt_id, found.stx_ino, found.stx_dev_major, found.stx_dev_minor)
                == (held.stx_mnt_id, held.stx_ino, held.stx_dev_major, held.stx_dev_minor)
        });
        if !same {
            return Err(Failure::new(format!("{}: the daemon does not have this directory", missing()))
                .hint("it was removed, something was mounted over it, or it is in another mount namespace"));
        }
        Ok(Self { path, directory })
    }
}

/// Opens a directory to have a view mounted on it, without looking into it.
///
/// # Errors
/// If there is none, or a view is mounted on it, with what can be done.
pub fn open_target(path: &Path) -> Result<OwnedFd, Failure> {
    Target::at(path).map(|target| target.directory)
}

/// Fails if the topmost mount on a directory is a view. The mount table is read only if something is mounted there.
pub(super) fn refuse_view(path: &Path, directory: BorrowedFd<'_>) -> Result<(), Failure> {
    // Where the directory cannot be looked at, the mount table tells.
    if matches!(mount_point::has_mount(directory), Ok(false)) {
        return Ok(());
    }
    let found = mountinfo::mount_at(path).attempt(|| format!("cannot mount on {}", path.display()))?;
    if found.is_some_and(|m| is_view(&m)) {
        return Err(Failure::new(format!("a view is mounted on {} already", path.display()))
            .hint(format!("end it with 'nixview umount {}'", path.display())));
    }
    Ok(())
}
