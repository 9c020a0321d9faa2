//! `env.lock`: an environment pinned in a file.
//!
//! A lock says from which roots an environment starts, which closure they had, and what decided that. It is a claim that
//! is checked, never a permission: a mount computes the closure from the roots and [`verify`] compares.
//! [`make`] makes one out of what [`Given`] recognised. Knows what can be locked and nothing of views.

pub mod digest;
pub mod environment;
mod error;
mod evaluate;
pub mod format;
mod given;
pub mod inputs;
mod known;
mod link;
mod make;
pub mod memory;
mod only;
mod pinned;
mod realise;
mod remember;
mod search_path;
pub mod source;
mod starts;
mod surroundings;
mod verified;
mod verify;

pub use digest::Digest;
pub use environment::Environment;
pub use error::LockError;
pub use evaluate::Argument;
pub use format::{EnvLock, ExtraRoot, LockedClosure, Recorded, Root};
pub use given::Given;
pub use known::Known;
pub use make::{Evaluation, Made, Request, make};
pub use memory::Memory;
pub use only::Only;
pub use source::Source;
pub use starts::{Chain, Chains, Starts};
pub use verified::{VerifiedClosure, sweep_verified};
pub use verify::{verify, verify_store};
