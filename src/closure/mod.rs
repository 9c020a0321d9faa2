//! Closures: which store paths an environment consists of.
//!
//! Computed as Nix computes them, out of any [`crate::store::References`], and cached in SQLite. Knows nothing of
//! views and FUSE.

pub mod cache;
mod names;
mod quiet;
mod resolve;
mod row;
mod schema;
mod why;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::store::{ReferenceError, StorePath};

use names::Names;

pub use cache::Cache;
pub use resolve::{outputs, resolve};
pub use why::{Ways, why};

/// What a closure is to be good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Running: exactly `nix-store -qR ROOTS`.
    #[default]
    Runtime,
    /// Building: exactly `nix-store -qR --include-outputs ROOTS`; depends on what is valid at the moment.
    Build,
    /// Developing a derivation: exactly `nix-store -qR` over the outputs that it uses of each input derivation, and over
    /// its input sources.
    Dev,
}

/// A text that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no mode of a closure: use runtime, build or dev")]
pub struct ModeError(String);

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "runtime" => Ok(Self::Runtime),
            "build" => Ok(Self::Build),
            "dev" => Ok(Self::Dev),
            _ => Err(ModeError(text.chars().take(100).flat_map(char::escape_debug).collect())),
        }
    }
}

impl Mode {
    /// The name, as it is written in locks and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Build => "build",
            Self::Dev => "dev",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a closure could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// The source of references failed, or a root is not valid in it.
    #[error(transparent)]
    Source(#[from] ReferenceError),
    /// A path is referred to and not valid.
    #[error("{referrer} refers to {path}, which is not known to {origin}")]
    Missing {
        /// The missing path.
        path: StorePath,
        /// Who refers to it.
        referrer: StorePath,
        /// The source of references, for people.
        origin: String,
    },
    /// No root is a derivation.
    #[error("{0} is not a derivation: a closure for developing needs a .drv")]
    NotADerivation(StorePath),
    /// A derivation has no such output.
    #[error("{derivation} has no output '{output}'; it has {known}")]
    NoSuchOutput {
        /// The derivation.
        derivation: StorePath,
        /// The output.
        output: String,
        /// The outputs it has, for people.
        known: String,
    },
    /// An output that is needed is not in the store.
    #[error("the output '{output}' of {derivation} is not built: build it with `nix-store --realise`")]
    NotBuilt {
        /// The derivation.
        derivation: StorePath,
        /// The output.
        output: String,
        /// Its path, where that is known before it is built.
        path: Option<StorePath>,
    },
    /// More paths than a closure may have.
    #[error("the closure has more than {limit} paths")]
    TooLarge {
        /// The most it may have.
        limit: usize,
    },
}

/// The paths of a closure, sorted bytewise, each once.
///
/// Holds their names in one block; paths of their own are made when they are first asked for.
#[derive(Clone, Default)]
pub struct Closure {
    names: Names,
    nar_size: Option<u64>,
    digest: OnceLock<[u8; 32]>,
    paths: OnceLock<Vec<StorePath>>,
}

impl Closure {
    /// Makes a closure of paths in any order; `nar_size` is the sum of their NARs in bytes, where it is known.
    #[must_use]
    pub fn new(mut paths: Vec<StorePath>, nar_size: Option<u64>) -> Self {
        paths.sort_unstable();
        paths.dedup();
        Self { names: Names::of(&paths), nar_size, digest: OnceLock::new(), paths: OnceLock::from(paths) }
    }

    /// Of names and their digest.
    fn of(names: Names, digest: [u8; 32], nar_size: Option<u64>) -> Self {
        Self { names, nar_size, digest: OnceLock::from(digest), paths: OnceLock::new() }
    }

    /// The members, sorted bytewise.
    #[must_use]
    pub fn paths(&self) -> &[StorePath] {
        self.paths.get_or_init(|| self.made_paths())
    }

    /// The members, taken out.
    #[must_use]
    pub fn into_paths(mut self) -> Vec<StorePath> {
        self.paths.take().unwrap_or_else(|| self.made_paths())
    }

    fn made_paths(&self) -> Vec<StorePath> {
        // None is left out: the names were those of paths when the digest was taken that they fit.
        self.names().filter_map(|name| name.parse().ok()).collect()
    }

    /// The base names of the members, sorted bytewise. Cheaper than [`Closure::paths`] where a name is all that is
    /// needed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter()
    }

    /// The number of members.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.count()
    }

    /// True if it has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// True if `path` is a member.
    #[must_use]
    pub fn contains(&self, path: &StorePath) -> bool {
        self.names.contains(path.as_str())
    }

    /// The sum of the members' NARs in bytes, if all are known.
    #[must_use]
    pub fn nar_size(&self) -> Option<u64> {
        self.nar_size
    }

    /// The digest of the members' names: `sha256-BASE64` over the sorted base names, each followed by a newline.
    ///
    /// Covers names, not contents. Computed once.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256-{}", STANDARD.encode(self.raw_digest()))
    }

    fn raw_digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| self.names.digest())
    }
}

impl PartialEq for Closure {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names && self.nar_size == other.nar_size
    }
}

impl Eq for Closure {}

impl fmt::Debug for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closure")
            .field("paths", &self.names().collect::<Vec<_>>())
            .field("nar_size", &self.nar_size)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use sha2::{Digest, Sha256};

    fn path(letter: char) -> StorePath {
        format!("{}-{letter}", String::from(letter).repeat(32)).parse().unwrap()
    }

    #[test]
    fn modes_are_written_and_read_alike() {
        for mode in [Mode::Runtime, Mode::Build, Mode::Dev] {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{mode}\""));
        }
        assert!("Runtime".parse::<Mode>().unwrap_err().to_string().contains("dev"));
    }

    #[test]
    fn the_digest_is_of_sorted_unique_names() {
        let closure = Closure::new(vec![path('b'), path('a'), path('b')], Some(3));
        assert_eq!(closure.paths(), [path('a'), path('b')]);
        assert!(closure.contains(&path('a')) && !closure.contains(&path('c')));
        // printf '%s\n' aaa…-a bbb…-b | sha256sum | xxd -r -p | base64
        let text = format!("{}\n{}\n", path('a'), path('b'));
        assert_eq!(closure.digest(), format!("sha256-{}", STANDARD.encode(Sha256::digest(text))));
        assert_eq!(
            Closure::default().digest(),
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "the SHA-256 of nothing"
        );
    }
}
