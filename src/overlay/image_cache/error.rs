//! Why there is no image.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::overlay::closure_layer::ClosureLayerError;
use crate::overlay::erofs::TooLarge;

/// The image of a closure layer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The names of the members are not known.
    #[error("cannot tell the members of the closure: {0}")]
    Names(Box<dyn Error + Send + Sync>),
    /// The store does not have what the closure names.
    #[error(transparent)]
    Layer(#[from] ClosureLayerError),
    /// The format cannot hold it.
    #[error(transparent)]
    Format(#[from] TooLarge),
    /// The system failed.
    #[error("cannot {action} '{path}': {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The directory of the images.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

/// Makes the errors of system calls into [`ImageError::Io`].
pub(super) trait Tried<T> {
    /// What was tried, and where.
    fn tried(self, action: &'static str, path: &Path) -> Result<T, ImageError>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Io { action, path: path.to_owned(), source })
    }
}
