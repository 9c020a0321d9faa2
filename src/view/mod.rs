//! What a view is: its specification, its lower (the closure of a store), its upper. No FUSE.

mod name;

pub use name::{ViewName, ViewNameError};
