//! Closures: which store paths an environment consists of.
//!
//! Computed as Nix computes them, out of any [`crate::store::References`], and cached in SQLite. Knows nothing of
//! views and FUSE.
