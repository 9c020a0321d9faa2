//! Numbers of mounts that are never given twice.
//!
//! The numbers in /proc/self/mountinfo and those of FUSE connections are used again as soon as a mount is gone, often by
//! the very next one.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// `STATX_MNT_ID_UNIQUE` (linux/stat.h), which rustix does not name.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The number of the mount that a descriptor leads into, attached or not; `None` before Linux 6.8.
///
/// Asks the file system nothing: a FUSE server gets no request.
///
/// # Errors
/// Those of statx(2).
pub fn of_mount(mount: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    number(statx(mount, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, UNIQUE))
}

/// The number of the topmost mount at a path; as [`of_mount`].
///
/// # Errors
/// Those of statx(2).
pub fn at(path: &Path) -> io::Result<Option<u64>> {
    number(statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC, UNIQUE))
}

fn number(answer: rustix::io::Result<rustix::fs::Statx>) -> io::Result<Option<u64>> {
    let found = answer?;
    let known = found.stx_mask & UNIQUE.bits() != 0;
    Ok(known.then_some(found.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_path_and_a_descriptor_have_the_same_and_other_mounts_another() {
        let root = at(Path::new("/")).unwrap();
        assert_eq!(of_mount(File::open("/").unwrap().as_fd()).unwrap(), root);
        if root.is_some() {
            assert_ne!(at(Path::new("/proc")).unwrap(), root);
        }
    }
}
