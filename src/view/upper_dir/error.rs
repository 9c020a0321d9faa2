//! Why an upper cannot be had.

use std::io;
use std::path::{Path, PathBuf};

use super::overlay::told;
use crate::layer::dir::Objections;
use crate::vfs::Errno;

/// An upper that cannot be opened, made or removed. What to do depends on the command.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// Somebody serves it.
    #[error("the upper '{path}' is in use{}", holder(*.pid))]
    Busy {
        /// The upper.
        path: PathBuf,
        /// The process that holds it, as it wrote into the file `lock`; unknown for the instant before it did.
        pid: Option<u32>,
    },
    /// There is none.
    #[error("there is no upper at '{path}'")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("'{path}' is not an upper: {why}")]
    NotAnUpper {
        /// What is there.
        path: PathBuf,
        /// How it was found out.
        why: String,
    },
    /// Other users could read or change it.
    #[error("the upper '{path}' is not private: {why}")]
    NotPrivate {
        /// The upper.
        path: PathBuf,
        /// Who could, and what to do about it.
        why: String,
    },
    /// Its `meta.json` is none of ours.
    #[error("'{path}/meta.json' cannot be used: {why}")]
    Meta {
        /// The upper.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Its `view.json` is none of ours.
    #[error("'{path}/view.json' cannot be used: {why}")]
    LastView {
        /// The upper.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It belongs to another store.
    #[error(
        "the upper '{path}' was made over the store directory '{was}', and this closure is one of '{wanted}'"
    )]
    OtherStore {
        /// The upper.
        path: PathBuf,
        /// The store directory it was made over.
        was: String,
        /// That of the closure.
        wanted: String,
    },
    /// It cannot be read rightly, or its file system cannot hold one.
    #[error("the upper '{path}' is not supported: {why}")]
    Unsupported {
        /// The upper.
        path: PathBuf,
        /// What is.
        why: String,
    },
    /// What it holds could lead the kernel's overlayfs to what the closure does not have.
    #[error("{}", told(.path, .objections))]
    Refused {
        /// The upper.
        path: PathBuf,
        /// What, and why.
        objections: Objections,
    },
    /// It cannot have the limit that is asked for, or it has.
    #[error("the upper '{path}' cannot have this limit: {why}")]
    Limit {
        /// The upper.
        path: PathBuf,
        /// What keeps it from that, and what to do about it.
        why: String,
    },
    /// Its `upper.img` is not usable.
    #[error("'{path}/upper.img' cannot be used: {why}")]
    Image {
        /// The upper.
        path: PathBuf,
        /// What is wrong with it, and what to do about it.
        why: String,
    },
    /// The system failed.
    #[error("cannot {action} in the upper '{path}': {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The upper.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl UpperError {
    /// True if there was no space.
    pub(super) fn is_full(&self) -> bool {
        let full = |error| matches!(Errno::of(error), Errno::ENOSPC | Errno::EDQUOT);
        matches!(self, Self::Io { source, .. } if full(source))
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// Makes the errors of system calls into [`UpperError::Io`].
pub(super) trait Tried<T> {
    /// What was tried, and in which upper.
    fn tried(self, action: &'static str, path: &Path) -> Result<T, UpperError>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T, UpperError> {
        self.map_err(|source| UpperError::Io { action, path: path.to_owned(), source })
    }
}
