//! What the programs that mount(8) and container runtimes run have in common.
//!
//! They are started for each view, so they are small: they ask the daemon, or where none runs a `nixview` of their own,
//! over [`nixview::control`], and know nothing of stores and FUSE themselves.

pub mod mount;
pub mod options;
pub mod service;
