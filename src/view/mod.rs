//! What a view is: its specification, its lower (the closure of a store), its upper. No FUSE.

pub mod build;
pub mod changes;
pub mod late;
pub mod late_members;
pub mod members;
mod name;
pub mod nix_state;
pub mod oci_layer;
mod read_only;
pub mod spec;
pub mod store_root;
pub mod upper_dir;

pub use name::{ViewName, ViewNameError};
pub use read_only::open_read_only;
