//! What a Nix store records about itself: names, derivations, references.
//!
//! Knows the formats of Nix and nothing of views, FUSE and closures.

pub mod gc_root;
pub mod path;
pub mod references;

pub use path::{StoreDir, StorePath, StorePathError};
pub use references::{ReferenceError, References};
