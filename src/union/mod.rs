//! The union of a lower and an upper layer, as a [`crate::vfs::Vfs`]. Knows neither FUSE nor Nix.
