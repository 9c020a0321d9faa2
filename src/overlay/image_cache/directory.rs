//! The directory of all images.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::DIRECTORY;
use super::error::{ImageError, Tried};
use crate::sys::lock::{Flock, flock_within};
use crate::vfs::Errno;

/// How long a lock is waited for. After that a process does the work itself: one that was stopped
/// must not stop others.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// `STATE/closures`, open.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    opened: File,
}

impl Directory {
    /// Opens it, and makes it if it is missing: it belongs to its user alone.
    pub(super) fn make(state: &Path) -> Result<Self, ImageError> {
        let path = state.join(DIRECTORY);
        match open(&path) {
            Err(error) if Errno::of(&error) == Errno::ENOENT => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
                made.tried("make the directory", &path)?;
                Ok(Self { opened: open(&path).tried("open", &path)?, path })
            }
            answer => Ok(Self { opened: answer.tried("open", &path)?, path }),
        }
    }

    /// Opens it; `None` if it is missing.
    pub(super) fn existing(state: &Path) -> Result<Option<Self>, ImageError> {
        let path = state.join(DIRECTORY);
        match open(&path) {
            Err(error) if Errno::of(&error) == Errno::ENOENT => Ok(None),
            answer => Ok(Some(Self { opened: answer.tried("open", &path)?, path })),
        }
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other process builds an image, and keeps others from it as long as the answer
    /// lives; `None` if that takes too long.
    pub(super) fn turn(&self) -> Result<Option<File>, ImageError> {
        let lock = open(&self.path).tried("open", &self.path)?;
        let ours = flock_within(&lock, Flock::Alone, PATIENCE).tried("lock", &self.path)?;
        Ok(ours.then_some(lock))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.as_fd()
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}
