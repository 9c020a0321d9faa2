//! What a Nix store records about itself: names, derivations, references.
//!
//! Knows the formats of Nix and nothing of views, FUSE and closures.

pub mod database;
pub mod derivation;
pub mod gc_root;
pub mod location;
pub mod path;
pub mod references;

pub use database::Database;
pub use derivation::Derivation;
pub use location::{Location, LocationError};
pub use path::{StoreDir, StorePath, StorePathError};
pub use references::{OutputPath, Reached, ReferenceError, References};
