//! The commands, run as a program on a tiny store: without privilege, without Nix.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test code"
)]

mod cdi;
mod changes;
mod closure_images;
mod duplicates;
mod export;
mod failures;
mod hostile_names;
mod inputs;
mod layers;
mod lock;
mod outputs;
mod report;
mod traces;
mod uppers;

#[path = "../support"]
#[allow(dead_code, reason = "each binary uses a part of it")]
mod support {
    pub(crate) mod changed;
    pub(crate) mod effort;
    pub(crate) mod hostile;
    pub(crate) mod scene;
    pub(crate) mod skip;
    pub(crate) mod union_support;
    pub(crate) mod wait;
}
