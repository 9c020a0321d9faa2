//! What a Nix store records about itself: names, derivations, references.
//!
//! Knows the formats of Nix and nothing of views, FUSE and closures.

pub mod cache_file;
pub mod database;
pub mod derivation;
pub mod derivation_files;
pub mod gc_root;
mod graph;
pub mod lease;
pub mod location;
pub mod new_database;
pub mod nixbase32;
pub mod parallel;
pub mod path;
pub mod path_info;
pub mod path_list;
pub mod recorded;
pub mod references;
pub mod registration;
pub mod scan;
pub mod stamped;
pub mod temp_roots;
pub mod unrecorded;

pub use database::Database;
pub use derivation::Derivation;
pub use derivation_files::DerivationFiles;
pub use location::{Location, LocationError};
pub use path::{StoreDir, StorePath, StorePathError};
pub use recorded::Recorded;
pub use references::{OutputPath, Reached, ReferenceError, References};
pub use unrecorded::Unrecorded;
