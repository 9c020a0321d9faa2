//! Why there is no closure layer.

use std::io;

use crate::overlay::tree::Double;
use crate::vfs::{Errno, Name};

/// A member that cannot be in a closure layer.
#[derive(Debug, thiserror::Error)]
pub enum ClosureLayerError {
    /// The store does not have it.
    #[error("the store has no '{0}', which the closure names")]
    Missing(Name),
    /// No store path is of this kind.
    #[error(
        "'{name}' of the store is a {kind}, and a view shows directories, files and symbolic links alone"
    )]
    Kind {
        /// The member.
        name: Name,
        /// What it is.
        kind: &'static str,
    },
    /// It is not a name of a store path.
    #[error("'{0}' cannot be the name of a member")]
    Name(String),
    /// It was written while the layer was made.
    #[error("'{0}' of the store changed while it was read")]
    Changed(Name),
    /// The system failed.
    #[error("cannot {action} '{name}' of the store: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The member.
        name: Name,
        /// How it failed.
        source: io::Error,
    },
}

impl ClosureLayerError {
    /// What the system said, where it did.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Missing(_) => Errno::ENOENT,
            Self::Kind { .. } | Self::Name(_) => Errno::EINVAL,
            Self::Changed(_) => Errno::ESTALE,
            Self::Io { source, .. } => Errno::of(source),
        }
    }
}

impl From<Double> for ClosureLayerError {
    fn from(double: Double) -> Self {
        Self::Name(double.0.to_string())
    }
}
