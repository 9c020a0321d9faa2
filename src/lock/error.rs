//! Why something cannot be locked, or a lock not be used.

use std::io;
use std::path::PathBuf;

use crate::store::StorePathError;

/// Why something cannot be locked, or a lock not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {error}", .path.display())]
    File {
        /// `read`, `write`…
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A lock, or what is to be locked, is larger than any may be.
    #[error("{} is larger than {} MiB, the most that is read of such a file", .path.display(), .limit >> 20)]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A lock is malformed, or says what no lock may say.
    #[error("{origin} is not a usable lock: {problem}")]
    Malformed {
        /// Which lock, for people: its file.
        origin: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// A lock of a version that this program does not know.
    #[error("{origin} has version {version} of the lock format, and this nixview knows version {known} only")]
    Version {
        /// Which lock, for people: its file.
        origin: String,
        /// Its version.
        version: u64,
        /// The version that is known.
        known: u64,
    },
    /// A lock keeps what the closure of its roots does not have.
    #[error("it keeps {path}, which is not in the closure of its roots")]
    Foreign {
        /// What.
        path: crate::store::StorePath,
    },
    /// The closure is another one than the one that was locked.
    #[error(
        "the closure has {actual_count} paths ({actual}), but the lock has {locked_count} ({locked}): it was made \
         for another store, or was changed"
    )]
    Differs {
        /// The digest in the lock.
        locked: String,
        /// The number of paths in the lock.
        locked_count: u64,
        /// The digest of the closure as it is.
        actual: String,
        /// The number of paths as it is.
        actual_count: u64,
    },
    /// The lock is of a store with another directory.
    #[error("the lock is of the store {locked}, and this store is {actual}")]
    StoreDir {
        /// What the lock says.
        locked: String,
        /// What the store says.
        actual: String,
    },
    /// What was given is nothing that can be locked.
    #[error("'{given}': {problem}")]
    Source {
        /// What was given.
        given: String,
        /// Why, and what to do.
        problem: String,
    },
    /// A text that should be a store path is none.
    #[error("{origin}: {error}")]
    Path {
        /// Where it stands: a file and line, or what was given.
        origin: String,
        /// What is wrong with it.
        error: StorePathError,
    },
    /// A program could not be run, or failed.
    #[error("{program} {problem}")]
    Program {
        /// `nix-instantiate`, `git`…
        program: &'static str,
        /// What went wrong, with the last of what it said.
        problem: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    References(#[from] crate::store::ReferenceError),
    /// The closure could not be told.
    #[error(transparent)]
    Closure(#[from] crate::closure::ClosureError),
}

impl LockError {
    /// An error of reading or writing a file.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { action, path, error }
    }
}
