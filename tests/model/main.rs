//! The library without privilege, Nix or a program: random histories against models, damage, the rules of the source.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test code"
)]

#[path = "../architecture.rs"]
mod architecture;
mod changes;
mod closures;
mod damage;
mod deep_trees;
mod derivations;
mod documents;
mod layer_conformance;
mod parse_memory;
mod realisations;
mod union_concurrency;
mod union_crash;
mod union_kill;
mod union_model;
mod union_power;
mod union_redirect;
mod union_resume;
mod union_semantics;
mod union_whole;
mod verified_closures;

#[path = "../support"]
#[allow(dead_code, reason = "each binary uses a part of it")]
mod support {
    pub(crate) mod effort;
    pub(crate) mod layer_suite;
    pub(crate) mod quick_start;
    pub(crate) mod skip;
    pub(crate) mod union_support;
}
