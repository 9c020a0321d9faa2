//! Derivations: what a `.drv` file says.

mod modulo;
mod parse;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::location::Location;
use super::path::{StoreDir, StorePath};
use super::references::{OutputPath, ReferenceError};

pub use modulo::Modulo;
pub use parse::ParseError;

/// The longest `.drv` file that is read, in bytes; the largest of nixpkgs has 1.1 MB.
pub const SIZE_MAX: u64 = 64 << 20;

/// A derivation, as its `.drv` file (an ATerm) says it.
///
/// Strings are bytes: Nix allows any, also NUL and what is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// The outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// The derivations that are needed for the build, and which of their outputs are used.
    pub input_derivations: BTreeMap<StorePath, BTreeSet<String>>,
    /// The other store paths that are needed for the build.
    pub input_sources: BTreeSet<StorePath>,
    /// The system it is built on.
    pub system: Vec<u8>,
    /// The program that builds it.
    pub builder: Vec<u8>,
    /// The builder's arguments.
    pub arguments: Vec<Vec<u8>>,
    /// The builder's environment.
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One output of a derivation, of the kinds that Nix knows (`DerivationOutput` in `src/libstore/derivations.hh`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Its path is computed from the derivation.
    InputAddressed(StorePath),
    /// Its contents are known beforehand.
    Fixed {
        /// Its path.
        path: StorePath,
        /// `sha256`, or `r:sha256` for the hash of a NAR.
        algorithm: String,
        /// The hash as it is written, usually in base 16.
        hash: String,
    },
    /// Its path is computed from its contents after the build.
    Floating {
        /// `sha256`, or `r:sha256` for the hash of a NAR.
        algorithm: String,
    },
    /// Its path is computed when the floating inputs of the derivation are built.
    Deferred,
    /// It is built anew each time.
    Impure {
        /// `sha256`, or `r:sha256` for the hash of a NAR.
        algorithm: String,
    },
}

impl Output {
    /// The path, where the `.drv` file knows it.
    #[must_use]
    pub fn path(&self) -> Option<&StorePath> {
        match self {
            Self::InputAddressed(path) | Self::Fixed { path, .. } => Some(path),
            Self::Floating { .. } | Self::Deferred | Self::Impure { .. } => None,
        }
    }
}

/// Why the `.drv` file of a store path could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("the derivation {0} is not in the store")]
    Missing(StorePath),
    /// The path is no derivation.
    #[error("{0} is not a derivation: its name does not end in .drv")]
    NotADerivation(StorePath),
    /// The file could not be read.
    #[error("cannot read the derivation {path}: {source}")]
    Io {
        /// Which one.
        path: StorePath,
        /// Why.
        source: std::io::Error,
    },
    /// The file is malformed.
    #[error(
        "the derivation {path} is malformed: {source}; its file is damaged, `nix-store --verify-path` tells more"
    )]
    Malformed {
        /// Which one.
        path: StorePath,
        /// What, and where in the file.
        source: ParseError,
    },
}

impl ReadError {
    /// The same as an error of a source of references.
    #[must_use]
    pub fn into_reference_error(self, location: &Location) -> ReferenceError {
        let origin = format!("the store {}", location.real.display());
        match self {
            Self::Missing(path) => ReferenceError::Unknown { path, origin },
            other => ReferenceError::Broken { origin, problem: other.to_string() },
        }
    }
}

impl Derivation {
    /// Reads the ATerm of a derivation of `/nix/store`.
    ///
    /// Accepts and rejects what Nix does, and stays within a small multiple of the input in memory. Bytes after the
    /// last `)` are ignored, as Nix ignores them.
    ///
    /// # Errors
    /// With the offset of the first byte that does not fit; for a truncated text that is its length.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        Self::parse_in(&StoreDir::default(), text)
    }

    /// Reads the ATerm of a derivation of a store with another store directory.
    ///
    /// # Errors
    /// As [`Derivation::parse`].
    pub fn parse_in(dir: &StoreDir, text: &[u8]) -> Result<Self, ParseError> {
        parse::derivation(dir, text)
    }

    /// Reads the `.drv` file of a store path; never through a symlink, and only if it is a regular file.
    ///
    /// # Errors
    /// If it is missing, cannot be read, is longer than [`SIZE_MAX`], or malformed.
    pub fn read(location: &Location, path: &StorePath) -> Result<Self, ReadError> {
        if !path.is_derivation() {
            return Err(ReadError::NotADerivation(path.clone()));
        }
        let io = |source: std::io::Error| {
            if source.kind() == std::io::ErrorKind::NotFound {
                ReadError::Missing(path.clone())
            } else {
                ReadError::Io { path: path.clone(), source }
            }
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::openat2(
            CWD,
            location.real_path(path),
            flags,
            Mode::empty(),
            ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(|e| io(e.into()))?;
        let file = std::fs::File::from(fd);
        let found = file.metadata().map_err(io)?;
        if !found.is_file() {
            return Err(io(std::io::Error::other("it is not a regular file")));
        }
        let mut text = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut text).map_err(io)?;
        if text.len() as u64 > SIZE_MAX {
            return Err(io(std::io::Error::other("it is longer than 64 MiB")));
        }
        Self::parse_in(&location.dir, &text)
            .map_err(|source| ReadError::Malformed { path: path.clone(), source })
    }

    /// The outputs as a source of references tells them, sorted by name.
    #[must_use]
    pub fn output_paths(&self) -> Vec<OutputPath> {
        let told = |(name, output): (&String, &Output)| OutputPath {
            name: name.clone(),
            path: output.path().cloned(),
        };
        self.outputs.iter().map(told).collect()
    }

    /// What the `.drv` refers to as a store path: its input derivations and sources, sorted, each once.
    #[must_use]
    pub fn references(&self) -> Vec<StorePath> {
        let all: BTreeSet<&StorePath> = self.input_derivations.keys().chain(&self.input_sources).collect();
        all.into_iter().cloned().collect()
    }
}
