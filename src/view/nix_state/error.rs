//! Why there is no template.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::ReferenceError;
use crate::store::new_database::NewDatabaseError;
use crate::vfs::Errno;

/// Why Nix's state for a view could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NixStateError {
    /// The store's database does not say what is needed.
    #[error(transparent)]
    Store(#[from] ReferenceError),
    /// The view's own database could not be written.
    #[error(transparent)]
    Database(#[from] NewDatabaseError),
    /// The members of the closure are not known.
    #[error(transparent)]
    Members(Box<dyn Error + Send + Sync>),
    /// The system failed.
    #[error("cannot {action} '{path}': {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl NixStateError {
    /// What a request in the view answers: the system's errno where there was one, else `EIO`.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Store(_) | Self::Members(_) => Errno::EIO,
            Self::Database(error) => Errno::of(&io::Error::from_raw_os_error(error.raw_os_error())),
            Self::Io { source, .. } => Errno::of(source),
        }
    }
}

/// Makes the errors of system calls into [`NixStateError::Io`].
pub(super) trait Tried<T> {
    /// What was tried, and where.
    fn tried(self, action: &'static str, path: &Path) -> Result<T, NixStateError>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T, NixStateError> {
        self.map_err(|source| NixStateError::Io { action, path: path.to_owned(), source })
    }
}
