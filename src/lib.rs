//! nixview gives each container a `/nix` of its own out of one shared Nix store.
//!
//! ```text
//!  kernel FUSE            mount(8) / OCI runtime / shell
//!      |                               |
//!  fuse::Adapter<V: Vfs>    control   cli     (control: messages over a Unix socket)
//!      |                               |
//!      |          daemon: serves a view, registry, recovery (the composition root)
//!      |            |            |            |
//!      |          view        closure        lock
//!      |          /   \           \          /
//!      +--> union   ClosureLower   store          (union: no Nix; store, closure, lock: no FUSE)
//!              |      |
//!             layer: Lower, Upper   (dir | mem | fault)
//!              |
//!             sys = the only unsafe        vfs = the vocabulary; depends on nothing
//! ```
//!
//! Which module may use which is kept by `tests/architecture.rs`; `docs/architecture.md` says why.

pub mod cli;
pub mod closure;
pub mod control;
pub mod daemon;
pub mod fuse;
pub mod json;
pub mod layer;
pub mod lock;
pub mod overlay;
pub mod printable;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod trace;
pub mod union;
pub mod usage;
pub mod vfs;
pub mod view;

#[path = "../tests/support/skip.rs"]
#[cfg(test)]
mod skip;
