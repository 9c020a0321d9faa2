//! Serves views: the composition root that joins [`crate::view`] and [`crate::fuse`].

mod claim;
pub mod doctor;
mod error;
pub mod launch;
pub mod leftovers;
mod pin;
pub mod record;
pub mod registry;
pub mod run;
pub mod server;
mod start;
pub mod stop;

pub use error::Failure;
pub use start::{mount, mount_in_foreground, run};
