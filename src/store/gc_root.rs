//! Roots of Nix's garbage collector: what they name, and all it needs, is not collected.
//!
//! Nix follows every symbolic link below `gcroots` in its state directory whose target is in the store directory
//! (manual, "Garbage Collector Roots"). The link names the path as the store does (`/nix/store/…`), also where the
//! store lies elsewhere on this machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::{StoreDir, StorePath};

/// The directory of ours below `gcroots`.
const OURS: &str = "nixview";

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
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let lock = opened.map_err(|source| GcRootError::Unwritable { path: path.clone(), source })?;
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

/// A directory of roots; removed by [`remove`], not by dropping: its holder may die and another clean up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GcRoots {
    dir: PathBuf,
    count: usize,
}

impl GcRoots {
    /// Makes one root for each of `paths`, in `GCROOTS/nixview/NAME/`. Where that exists already (a view of the same
    /// name that this host's registry does not know), `NAME.2` and so on.
    ///
    /// # Errors
    /// [`GcRootError::Unwritable`]; then nothing is left of them.
    pub fn set(
        gcroots: &Path,
        name: &str,
        store: &StoreDir,
        paths: &[StorePath],
    ) -> Result<Self, GcRootError> {
        let dir = new_dir(&gcroots.join(OURS), name)?;
        for path in paths {
            let link = dir.join(path.as_str());
            if let Err(source) = symlink(store.join(path), &link) {
                // What could not be written is the error to tell, not that it could not be undone.
                drop(remove(&dir));
                return Err(GcRootError::Unwritable { path: link, source });
            }
        }
        Ok(Self { dir, count: paths.len() })
    }

    /// The directory that holds them.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

fn new_dir(parent: &Path, name: &str) -> Result<PathBuf, GcRootError> {
    let unwritable = |path: &Path, source| GcRootError::Unwritable { path: path.to_owned(), source };
    // Not create_dir_all: that Nix's own directory is missing means that this is no Nix state.
    let exists = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    };
    fs::create_dir(parent).or_else(exists).map_err(|source| unwritable(parent, source))?;
    let mut dir = parent.join(name);
    for number in 2..1000 {
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            // The last roots of others went at this moment, and the directory of ours with them.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && parent.parent().is_some_and(Path::is_dir) =>
            {
                fs::create_dir(parent).or_else(exists).map_err(|source| unwritable(parent, source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                dir = parent.join(format!("{name}.{number}"));
            }
            Err(error) => return Err(unwritable(&dir, error)),
        }
    }
    Err(unwritable(&dir, io::ErrorKind::AlreadyExists.into()))
}

/// Removes a directory of roots, if it is there, and the one of ours above it if these were the last.
///
/// Removes symbolic links alone: a directory that holds anything else is not ours and stays (`ENOTEMPTY`).
///
/// # Errors
/// As unlink(2) and rmdir(2).
pub fn remove(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(dir)?;
    match dir.parent().filter(|parent| parent.ends_with(OURS)).map(fs::remove_dir) {
        Some(Err(error))
            if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn path(letter: char) -> StorePath {
        format!("{}-x", letter.to_string().repeat(32)).parse().unwrap()
    }

    #[test]
    fn roots_name_the_path_as_the_store_does_and_go_again() {
        let state = tempfile::tempdir().unwrap();
        let roots = GcRoots::set(state.path(), "web", &StoreDir::default(), &[path('a'), path('b')]).unwrap();
        assert_eq!(roots.dir(), state.path().join("nixview/web"));
        assert_eq!(roots.count(), 2);
        let link = roots.dir().join(path('a').as_str());
        assert_eq!(fs::read_link(link).unwrap(), StoreDir::default().join(&path('a')));
        remove(roots.dir()).unwrap();
        assert!(!state.path().join("nixview").exists());
        remove(roots.dir()).unwrap();
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let state = tempfile::tempdir().unwrap();
        let first = GcRoots::set(state.path(), "web", &StoreDir::default(), &[path('a')]).unwrap();
        let second = GcRoots::set(state.path(), "web", &StoreDir::default(), &[path('a')]).unwrap();
        assert_ne!(first.dir(), second.dir());
        remove(second.dir()).unwrap();
        assert!(first.dir().exists());
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        // The second link of the same name cannot be made.
        let twice = [path('a'), path('a')];
        let error = GcRoots::set(state.path(), "web", &StoreDir::default(), &twice).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert!(!state.path().join("nixview/web").exists());
        let missing = state.path().join("missing");
        GcRoots::set(&missing, "web", &StoreDir::default(), &[path('a')]).unwrap_err();
        assert!(!missing.exists());
    }

    #[test]
    fn foreign_files_are_not_removed() {
        let state = tempfile::tempdir().unwrap();
        let roots = GcRoots::set(state.path(), "web", &StoreDir::default(), &[path('a')]).unwrap();
        fs::write(roots.dir().join("file"), "precious").unwrap();
        remove(roots.dir()).unwrap_err();
        assert_eq!(fs::read_to_string(roots.dir().join("file")).unwrap(), "precious");
    }

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
}
