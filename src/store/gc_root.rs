//! Nix's garbage collector, kept from starting while roots are set ([`super::lease`]).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

/// Why roots could not be set.
#[derive(Debug, thiserror::Error)]
pub enum GcRootError {
    /// The directory of the roots cannot be written.
    #[error("cannot write the garbage collector roots in {path}: {source}")]
    Unwritable {
        /// Which directory or link.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something among roots that no longer count is no root of nixview's.
    #[error(
        "{path} is in nixview's directory of garbage collector roots, and is none of them: it stays; move it elsewhere"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A garbage collection is running, and did not end in time.
    #[error("a garbage collection of this store is running (it holds {lock})")]
    Collecting {
        /// Nix's lock file.
        lock: PathBuf,
    },
}

/// Keeps the collector of a store from starting, as long as it lives (Nix's `gc.lock`, held shared).
#[derive(Debug)]
pub struct CollectorPause {
    _lock: File,
}

impl CollectorPause {
    /// Takes the lock; waits up to `patience` for a collection that is running.
    ///
    /// # Errors
    /// [`GcRootError::Unwritable`] if the lock file cannot be opened, [`GcRootError::Collecting`] after `patience`.
    pub fn take(nix_state: &Path, patience: Duration) -> Result<Self, GcRootError> {
        let path = nix_state.join("gc.lock");
        // The owner of the state directory may have put a link or a FIFO there.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        let lock = opened
            .map(File::from)
            .map_err(|error| GcRootError::Unwritable { path: path.clone(), source: error.into() })?;
        let until = Instant::now() + patience;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(rustix::io::Errno::AGAIN) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::AGAIN) => return Err(GcRootError::Collecting { lock: path }),
                Err(error) => return Err(GcRootError::Unwritable { path, source: error.into() }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_running_collection_is_waited_for_and_named() {
        let state = tempfile::tempdir().unwrap();
        let collector = File::create(state.path().join("gc.lock")).unwrap();
        flock(&collector, FlockOperation::LockExclusive).unwrap();
        let error = CollectorPause::take(state.path(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("gc.lock"), "{error}");
        drop(collector);
        let pause = CollectorPause::take(state.path(), Duration::ZERO).unwrap();
        let late = File::open(state.path().join("gc.lock")).unwrap();
        flock(&late, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        drop(pause);
        flock(&late, FlockOperation::NonBlockingLockExclusive).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let state = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(state.path().join("elsewhere"), state.path().join("gc.lock")).unwrap();
        CollectorPause::take(state.path(), Duration::ZERO).unwrap_err();
        assert!(!state.path().join("elsewhere").exists());
    }
}
