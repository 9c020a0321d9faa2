//! A tiny deterministic Nix store with its database, made without Nix.
