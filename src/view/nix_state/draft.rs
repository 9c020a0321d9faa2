//! A template that is being made.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};

use super::error::{NixStateError, Tried};
use super::template::{self, is_at, lock_alone};
use crate::sys;
use crate::sys::lock::{Flock, flock_within};

/// What the names of drafts begin with.
pub(super) const PREFIX: &str = "draft-";

/// What the names of private copies of the host's database begin with: a copy of a reader that was killed is swept as a draft.
pub(super) const COPY: &str = "draft-db-";

/// How long another is waited for who makes a template, maybe the same. After that both make one: a maker that was stopped
/// must not stop others.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until nobody else makes a template in `dir`, and keeps others from it as long as the answer lives; `None` if that
/// takes too long.
///
/// # Errors
/// Those of open(2) and flock(2).
pub(super) fn turn(dir: &Path) -> io::Result<Option<File>> {
    let lock = File::open(dir)?;
    Ok(flock_within(&lock, Flock::Alone, PATIENCE)?.then_some(lock))
}

/// A directory that becomes a template; removed when it is dropped before that.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    opened: OwnedFd,
    published: bool,
}

impl Draft {
    /// Makes an empty one in `dir`, locked as long as its maker lives.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(dir: &Path) -> Result<Self, NixStateError> {
        let mut number = 0_u64;
        loop {
            let path = dir.join(format!("{PREFIX}{}-{number}", std::process::id()));
            number += 1;
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                answer => answer.tried("make", &path)?,
            }
            // Whoever sweeps may have taken it for that of a dead maker, before it was locked.
            let Some(opened) = template::open(&path).tried("open", &path)? else { continue };
            if lock_alone(&opened).tried("lock", &path)?
                && is_at(opened.as_fd(), &path).tried("open", &path)?
            {
                return Ok(Self { path, opened, published: false });
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, unless there is one already: then it goes.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn publish(mut self, key: &str) -> Result<(), NixStateError> {
        const ACTION: &str = "publish";
        let target = self.path.with_file_name(key);
        sys::attr::set_permissions(self.opened.as_fd(), 0o755).tried(ACTION, &self.path)?;
        rustix::fs::fsync(&self.opened).map_err(io::Error::from).tried(ACTION, &self.path)?;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => self.published = true,
            Err(rustix::io::Errno::EXIST) => return Ok(()),
            Err(error) => return Err(io::Error::from(error)).tried(ACTION, &target),
        }
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|dir| dir.sync_all()).tried(ACTION, dir)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = template::remove(&self.opened, &self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "could not remove a draft of Nix's state");
        }
    }
}
