//! System calls, and the only unsafe code of the crate.
//!
//! Thin and total: owned and borrowed descriptors in, `io::Error` with the system's errno out, no policy.
#![allow(unsafe_code, reason = "this module is where unsafe code is allowed to be")]

pub mod attr;
pub mod copy;
pub mod descriptor;
pub mod dirent;
pub mod execute;
pub mod file;
pub mod fuse_connection;
pub mod fuse_device;
pub mod fusermount;
pub mod idmap;
pub mod inherited;
pub mod isolated_root;
pub mod leftover;
pub mod limits;
pub mod lock;
pub mod locked_mount;
pub mod loop_device;
pub mod memory;
pub mod memory_file;
pub mod mount;
pub mod mount_id;
pub mod mount_point;
pub mod mountinfo;
pub mod names;
pub mod namespace;
pub mod open;
pub mod output_file;
pub mod overlay;
pub mod overlay_use;
pub mod process;
pub mod rounds;
pub mod signals;
pub mod small_namespace;
pub mod socket;
pub mod sqlite;
pub mod stat;
pub mod xattr;
