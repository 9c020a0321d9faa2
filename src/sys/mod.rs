//! System calls, and the only unsafe code of the crate.
//!
//! Thin and total: owned and borrowed descriptors in, `io::Error` with the system's errno out, no policy.
#![allow(unsafe_code, reason = "this module is where unsafe code is allowed to be")]

pub mod fuse_connection;
pub mod fusermount;
pub mod mount;
pub mod mountinfo;
