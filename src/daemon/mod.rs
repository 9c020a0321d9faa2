//! Serves views: the composition root that joins [`crate::view`] and [`crate::fuse`].

pub mod record;
pub mod registry;
