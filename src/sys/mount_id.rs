//! Numbers of mounts.
//!
//! The numbers in /proc/self/mountinfo and those of FUSE connections are used again as soon as a mount is gone, often by
//! the very next one. Linux 6.8 has numbers that no mount gets twice; they begin above 2^31, where the others end, so that
//! a number tells of which kind it is (fs/namespace.c, `MNT_UNIQUE_ID_OFFSET`).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// `STATX_MNT_ID_UNIQUE` (linux/stat.h), which rustix does not name.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The largest number that mountinfo shows.
const LARGEST_REUSED: u64 = 1 << 31;

/// The number of a mount: one that no other mount ever gets, or before Linux 6.8 the one in mountinfo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountId(u64);

impl MountId {
    /// The number of the mount that a descriptor leads into, attached or not.
    ///
    /// Asks the file system nothing: a FUSE server gets no request.
    ///
    /// # Errors
    /// Those of statx(2); `EOPNOTSUPP` before Linux 5.8, which tells no number.
    pub fn of(mount: BorrowedFd<'_>) -> io::Result<Self> {
        match asked(mount, UNIQUE)? {
            Some(number) => Ok(Self(number)),
            None => Self::in_mountinfo(mount),
        }
    }

    /// The number that mountinfo shows for the mount that a descriptor leads into; as [`of`](Self::of).
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn in_mountinfo(mount: BorrowedFd<'_>) -> io::Result<Self> {
        asked(mount, StatxFlags::MNT_ID)?
            .map(Self)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    /// A number that was noted down.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// True if no other mount ever gets it.
    #[must_use]
    pub fn is_unique(self) -> bool {
        self.0 > LARGEST_REUSED
    }

    /// True if the descriptor leads into the mount of this number, which is asked for by the number's own kind.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn is_of(self, mount: BorrowedFd<'_>) -> io::Result<bool> {
        let mask = if self.is_unique() { UNIQUE } else { StatxFlags::MNT_ID };
        Ok(asked(mount, mask)? == Some(self.0))
    }
}

/// The number of one kind; `None` where the kernel has none.
fn asked(mount: BorrowedFd<'_>, kind: StatxFlags) -> io::Result<Option<u64>> {
    let found = statx(mount, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, kind)?;
    Ok((found.stx_mask & kind.bits() != 0).then_some(found.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::sys::mountinfo;

    #[test]
    fn mounts_differ_by_either_kind_of_number() {
        let (root, proc) = (File::open("/").unwrap(), File::open("/proc").unwrap());
        let again = File::open("/").unwrap();
        for kind in [MountId::of, MountId::in_mountinfo] {
            let id = kind(root.as_fd()).unwrap();
            assert_eq!(kind(again.as_fd()).unwrap(), id);
            assert!(id.is_of(root.as_fd()).unwrap() && !id.is_of(proc.as_fd()).unwrap());
            assert_eq!(MountId::from_number(id.number()), id);
        }
    }

    #[test]
    fn the_reused_number_is_that_of_mountinfo() {
        let proc = mountinfo::mount_at(Path::new("/proc")).unwrap().unwrap();
        let id = MountId::in_mountinfo(File::open("/proc").unwrap().as_fd()).unwrap();
        assert_eq!(id.number(), proc.id);
        assert!(id.number() <= LARGEST_REUSED);
    }
}
