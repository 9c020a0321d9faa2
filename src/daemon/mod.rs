//! Serves views: the composition root that joins [`crate::view`] and [`crate::fuse`].

mod claim;
pub mod doctor;
mod error;
mod hidden;
pub mod keeper;
pub mod launch;
pub mod leftovers;
pub mod log;
pub mod mounted;
pub mod old_roots;
pub mod order;
mod overlay_probe;
mod pin;
pub mod prepare;
pub mod record;
pub mod registry;
pub mod run;
pub mod service;
mod start;
pub mod stop;
mod target;
pub mod trace;

pub use error::Failure;
pub use order::Order;
pub use start::{mount, mount_in_foreground, run};
pub use target::open_target;
