//! The references of a store from the best that records them.

use std::path::Path;

use super::error::LockError;
use crate::closure::{Cache, Closure, Mode, resolve};
use crate::store::scan::cache::ScanCache;
use crate::store::{Database, Location, Recorded, References, StorePath, Unrecorded};

/// What is known of a store: its database, else what was written down in a given file, else its files.
pub enum Known {
    /// Nix's database.
    Database(Database),
    /// A registration or path-info JSON, for a store without a database.
    Recorded(Recorded),
    /// The store's files alone.
    Files(Unrecorded),
}

impl Known {
    /// Opens what there is; `recorded` is used where there is no database.
    ///
    /// # Errors
    /// If a database is there and cannot be used, or there is none and the store cannot be read.
    pub fn open(
        location: &Location,
        recorded: Option<Recorded>,
        state_dir: &Path,
    ) -> Result<Self, LockError> {
        if location.database_file().is_some_and(|file| file.exists()) {
            return Ok(Self::Database(Database::open(location)?));
        }
        match recorded {
            Some(recorded) => Ok(Self::Recorded(recorded)),
            None => {
                tracing::info!(store = %location.real.display(), "no database: looking for references in the files");
                Ok(Self::Files(Unrecorded::open(location, ScanCache::open(state_dir))?))
            }
        }
    }

    /// As a source of references.
    #[must_use]
    pub fn references(&self) -> &dyn References {
        match self {
            Self::Database(database) => database,
            Self::Recorded(recorded) => recorded,
            Self::Files(files) => files,
        }
    }

    /// The closure of `roots`; from the cache where that can answer.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn closure(&self, cache: &Cache, roots: &[StorePath], mode: Mode) -> Result<Closure, LockError> {
        match self {
            Self::Database(database) => Ok(cache.closure(database, roots, mode)?),
            other => Ok(resolve(other.references(), roots, mode)?),
        }
    }

    /// True if references were looked for in the files.
    #[must_use]
    pub fn is_scan(&self) -> bool {
        matches!(self, Self::Files(_))
    }
}
