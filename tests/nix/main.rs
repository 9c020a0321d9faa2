//! Beside real Nix: as root, one at a time, as its collector takes what any process has open for a root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test code"
)]

mod environment;
mod gcroots;
mod inside;
mod leases;
mod lock;
mod mini_store;
mod quick_start;
mod repair;
mod second_machine;
mod trace;
mod usage;

#[path = "../support"]
#[allow(dead_code, reason = "each binary uses a part of it")]
mod support {
    pub(crate) mod effort;
    pub(crate) mod quick_start;
    pub(crate) mod scene;
    pub(crate) mod skip;
    pub(crate) mod wait;
}
