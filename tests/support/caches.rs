//! The kernel's caches of names and inodes, which all tests of a machine share.
//!
//! Some tests empty them to see what stays, and some count the requests of warm accesses. A file lock keeps them apart,
//! between threads as between processes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FlockOperation, flock};

fn lock(how: FlockOperation) -> File {
    let path = std::env::temp_dir().join("nixview-test-caches.lock");
    let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    // Whoever made it may open it to all, and others need not.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).ok();
    flock(&file, how).unwrap();
    file
}

/// Keeps caches as they are, but for what the kernel itself needs, until the file is closed.
pub(crate) fn keep() -> File {
    lock(FlockOperation::LockShared)
}

/// Lets the kernel forget all inodes and names that nothing uses.
pub(crate) fn drop_inodes() {
    let _alone = lock(FlockOperation::LockExclusive);
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}
