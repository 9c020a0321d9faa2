//! `env.lock`: an environment pinned in a file.
//!
//! A lock says from which roots an environment starts, which closure they had, and what decided that. It is a claim that
//! is checked, never a permission: a mount computes the closure from the roots and [`verify`] compares.
//! Knows what can be locked and nothing of views.

pub mod digest;
mod error;
pub mod format;
pub mod source;
mod verify;

pub use digest::Digest;
pub use error::LockError;
pub use format::{EnvLock, LockedClosure, Recorded, Root};
pub use source::Source;
pub use verify::{verify, verify_store};
