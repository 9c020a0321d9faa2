//! A template that is whole: found, and held.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::error::{NixStateError, Tried};
use crate::sys;
use crate::sys::lock::{Flock, flock_within};
use crate::vfs::Errno;

/// A template that nobody removes while this is there.
#[derive(Debug)]
pub(super) struct Template {
    lock: OwnedFd,
}

impl Template {
    /// Holds the template with this key, and notes that it was used now; `None` if there is none.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(dir: &Path, key: &str) -> Result<Option<Self>, NixStateError> {
        let path = dir.join(key);
        Self::hold(&path).tried("use", &path)
    }

    fn hold(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let Some(lock) = open(path)? else { return Ok(None) };
            // Only who removes it has another lock, and not for long.
            rustix::fs::flock(&lock, FlockOperation::LockShared)?;
            if !is_at(lock.as_fd(), path)? {
                continue;
            }
            let now = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            };
            rustix::fs::futimens(&lock, &now)?;
            return Ok(Some(Self { lock }));
        }
    }

    /// A path that leads to its directory as long as this is there, whatever its name is.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(sys::open::proc_path(self.lock.as_fd()))
    }

    /// What holds it.
    pub(super) fn into_lock(self) -> OwnedFd {
        self.lock
    }
}

/// Opens a directory of ours; `None` if it is not there.
///
/// # Errors
/// Those of open(2), among them `ELOOP` or `ENOTDIR` for what is none.
pub(super) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// True if what was opened is still what is at this path.
///
/// # Errors
/// Those of stat(2), but for nothing being there.
pub(super) fn is_at(opened: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
    sys::names::leads_to(CWD, path.as_os_str().as_bytes(), opened)
}

/// Makes the directory of all templates, which is nobody else's business.
///
/// # Errors
/// Those of mkdir(2), but for its being there.
pub(super) fn make_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes the lock of a directory for oneself, if nobody else has any; `false` if somebody has.
///
/// # Errors
/// Those of flock(2).
pub(super) fn lock_alone(opened: &OwnedFd) -> io::Result<bool> {
    flock_within(opened, Flock::Alone, Duration::ZERO)
}

/// Removes a directory of ours and all that is in it.
///
/// # Errors
/// The first that occurs.
pub(super) fn remove(opened: &OwnedFd, path: &Path) -> io::Result<()> {
    crate::layer::dir::clear(opened.as_fd())?;
    match std::fs::remove_dir(path) {
        Err(error) if Errno::of(&error) != Errno::ENOENT => Err(error),
        _ => Ok(()),
    }
}
