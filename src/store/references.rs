//! Where references are recorded, behind one trait.

use super::derivation::Derivation;
use super::path::StorePath;

/// Why references could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The path is not known to this source (not registered, not in the list, no such file).
    #[error("{path} is not known to {origin}")]
    Unknown {
        /// Which path.
        path: StorePath,
        /// The source, for people: `the Nix database /nix/var/nix/db/db.sqlite`.
        origin: String,
    },
    /// The source itself could not be read or is malformed.
    #[error("{origin}: {problem}")]
    Broken {
        /// The source, for people.
        origin: String,
        /// What is wrong with it, where, and what can be done.
        problem: String,
    },
    /// The source does not record what was asked for.
    #[error("{origin} does not record {what}")]
    NotRecorded {
        /// The source, for people.
        origin: String,
        /// What it lacks: `the outputs of derivations`.
        what: &'static str,
    },
}

/// An output of a derivation, as a source of references knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPath {
    /// The output's name: `out`, `dev`…
    pub name: String,
    /// Its path; `None` while it is not known (content-addressed, not built).
    pub path: Option<StorePath>,
}

/// A closure as a source computed it by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// All paths that were reached, the roots among them; sorted, each once.
    pub paths: Vec<StorePath>,
    /// Sum of the sizes of their NARs in bytes, if the source knows them all.
    pub nar_size: Option<u64>,
}

/// A source that knows which store paths a store path refers to.
pub trait References: Send + Sync {
    /// The source, for people.
    fn origin(&self) -> String;

    /// All references of `path`, sorted, with the path itself if it refers to itself.
    ///
    /// # Errors
    /// [`ReferenceError::Unknown`] if the path is not valid here.
    fn references(&self, path: &StorePath) -> Result<Vec<StorePath>, ReferenceError>;

    /// True if `path` is a valid path of the store, as far as this source knows.
    fn is_valid(&self, path: &StorePath) -> Result<bool, ReferenceError>;

    /// The outputs of a derivation, sorted by name.
    fn outputs(&self, derivation: &StorePath) -> Result<Vec<OutputPath>, ReferenceError>;

    /// True if a closure to build goes on from this member to its outputs: it is a derivation, and not a file that only has
    /// the name of one.
    fn leads_to_outputs(&self, path: &StorePath) -> bool {
        path.is_derivation()
    }

    /// What the `.drv` file of a derivation says.
    ///
    /// # Errors
    /// [`ReferenceError::NotRecorded`] where a source has no such files.
    fn derivation(&self, derivation: &StorePath) -> Result<Derivation, ReferenceError> {
        let _ = derivation;
        Err(ReferenceError::NotRecorded { origin: self.origin(), what: "what is in derivations" })
    }

    /// The size of the path's NAR in bytes, if it is recorded.
    fn nar_size(&self, path: &StorePath) -> Result<Option<u64>, ReferenceError> {
        let _ = path;
        Ok(None)
    }

    /// Everything reachable from `roots`, sorted, where the source can tell it faster than step by step; with
    /// `include_outputs` also through the valid outputs of each derivation. `None` if it cannot.
    fn closure(&self, roots: &[StorePath], include_outputs: bool) -> Result<Option<Reached>, ReferenceError> {
        let _ = (roots, include_outputs);
        Ok(None)
    }
}
