//! A layer on a disk.
