//! The rim towards the kernel: a [`crate::vfs::Vfs`] served over FUSE.
