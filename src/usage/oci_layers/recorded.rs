//! The graph of a closure as Nix's database has it.

use super::{Graph, LayoutError};
use crate::store::database::Links;
use crate::store::{Database, ReferenceError, StorePath};

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The database does not answer.
    #[error(transparent)]
    Database(#[from] ReferenceError),
    /// It has no size of a path.
    #[error("the Nix database {database} does not say how large {path} is")]
    NoSize {
        /// The database's file.
        database: String,
        /// The path.
        path: StorePath,
    },
    /// The closure is none that tools order.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The graph of a closure, sorted and each path once; what leads out of one that is only a part is left out. `tops` are what it starts from.
///
/// # Errors
/// [`RecordedError`].
pub fn graph(database: &Database, closure: &[StorePath], tops: &[StorePath]) -> Result<Graph, RecordedError> {
    let records = database.records(closure, Links::Within)?;
    let members = records.paths.into_iter().map(|record| {
        // 0 is what Nix stores for an unknown size.
        match record.nar_size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0) {
            Some(size) => Ok((record.path, size)),
            None => Err(RecordedError::NoSize {
                database: database.file().display().to_string(),
                path: record.path,
            }),
        }
    });
    let members = members.collect::<Result<Vec<_>, _>>()?;
    Ok(Graph::new(database.location().dir.clone(), members, &records.references, tops)?)
}
