//! A view that the kernel makes by itself: what overlayfs needs for it.
//!
//! A closure differs from its store in one directory, the store directory. So the *closure layer*
//! holds the names of the members and nothing else: each is an empty directory whose mark leads
//! overlayfs into the layer below, which is the store. The layer is an EROFS image, a function of
//! the closure, kept in the state directory and shared by all views.
//!
//! This module knows overlayfs's marks and EROFS's format. It knows no FUSE, no union and no
//! process of a view.

pub mod closure_layer;
pub mod erofs;
pub mod image_cache;
pub mod tree;
pub mod write_tree;
