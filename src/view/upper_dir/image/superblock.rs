//! What is read of an ext4 without mounting it: its superblock (Documentation/filesystems/ext4/super.rst).

use std::io;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::sys;

/// Where it is, in bytes, and how much of it is looked at.
const OFFSET: u64 = 1024;
const LENGTH: usize = 0x160;

const MAGIC: u16 = 0xEF53;
const STATE_ERRORS: u16 = 2;
const COMPAT_RESIZE_INODE: u32 = 0x10;
const INCOMPAT_RECOVER: u32 = 4;

/// The size of blocks of an image, as its superblock has it: 2^(10 + 2) bytes.
const BLOCK_SIZE: u32 = 2;

/// What an ext4 says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Superblock {
    /// All blocks.
    pub(super) blocks: u64,
    /// Free blocks, the reserved among them; true while it is not mounted and [`replayed`](Self::replayed).
    pub(super) free_blocks: u64,
    /// All inodes.
    pub(super) inodes: u64,
    /// Free ones; true as far as `free_blocks` is.
    pub(super) free_inodes: u64,
    /// False if there is a journal to be replayed, also while it is mounted.
    pub(super) replayed: bool,
    /// Blocks of its own that statfs(2) counts as used: one, by which it finds room for more groups.
    pub(super) own_blocks: u64,
    /// The kernel has found it to be broken.
    pub(super) broken: bool,
    /// The last mount that could write.
    pub(super) mounted: LastMount,
}

/// Which mount of a file system one was: how many there were since its last check, and when it was, in seconds.
///
/// Another one that can write, and a check, change it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in super::super) struct LastMount {
    count: u16,
    time: u32,
}

impl Superblock {
    /// Reads it from an image, or from the device while it is mounted: then `blocks` is true.
    ///
    /// # Errors
    /// `InvalidData`, with a message for people, if there is none of ours; those of pread(2).
    pub(in super::super) fn read(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match sys::file::read_at(file, OFFSET + done as u64, rest)? {
                0 => return Err(invalid("it is too short")),
                read => done += read,
            }
        }
        Self::parse(&bytes).ok_or_else(|| invalid("it holds no ext4 file system of nixview's"))
    }

    fn parse(bytes: &[u8; LENGTH]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let wide = |low: usize, high: usize| Some(u64::from(long(low)?) | u64::from(long(high)?) << 32);
        if short(0x38)? != MAGIC || long(0x18)? != BLOCK_SIZE {
            return None;
        }
        Some(Self {
            blocks: wide(0x04, 0x150)?,
            free_blocks: wide(0x0C, 0x158)?,
            inodes: long(0x00)?.into(),
            free_inodes: long(0x10)?.into(),
            own_blocks: u64::from(long(0x5C)? & COMPAT_RESIZE_INODE != 0 && short(0xCE)? != 0),
            replayed: long(0x60)? & INCOMPAT_RECOVER == 0,
            broken: short(0x3A)? & STATE_ERRORS != 0,
            mounted: LastMount { count: short(0x34)?, time: long(0x2C)? },
        })
    }

    /// Blocks that the kernel keeps for itself, so that what it has promised can be written on a full file system
    /// (fs/ext4/super.c, `ext4_set_resv_clusters`): nobody else ever gets them.
    pub(super) fn reserved(self) -> u64 {
        (self.blocks / 50).min(4096)
    }

    /// Blocks that statfs(2) counts, and that nobody can ever have or has.
    pub(super) fn kept(self) -> u64 {
        self.reserved() + self.own_blocks
    }

    /// Blocks that can still be had, as statfs(2) says of the mounted file system.
    pub(super) fn available(self) -> u64 {
        self.free_blocks.saturating_sub(self.reserved())
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn example() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        for (at, value) in [(0x00, 700_u32), (0x04, 1000), (0x0C, 900), (0x10, 600), (0x18, 2), (0x150, 1)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[0x38..0x3C].copy_from_slice(&[0x53, 0xEF, 1, 0]);
        bytes
    }

    #[test]
    fn numbers_are_where_ext4_has_them() {
        let read = Superblock::parse(&example()).unwrap();
        assert_eq!(
            (read.blocks, read.free_blocks, read.inodes, read.free_inodes),
            (1000 + (1 << 32), 900, 700, 600)
        );
        assert_eq!((read.own_blocks, read.replayed, read.broken), (0, true, false));
        assert_eq!((read.reserved(), read.available()), (4096, 0));
        let mut bytes = example();
        bytes[0x5C] = 0x10;
        bytes[0xCE] = 1;
        bytes[0x60] = 4;
        bytes[0x3A] = 3;
        let read = Superblock::parse(&bytes).unwrap();
        assert_eq!((read.own_blocks, read.replayed, read.broken), (1, false, true));
    }

    #[test]
    fn what_is_none_is_refused() {
        for (at, value) in [(0x38, 0), (0x18, 0)] {
            let mut bytes = example();
            bytes[at] = value;
            assert_eq!(Superblock::parse(&bytes), None);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 1100]).unwrap();
        let error = Superblock::read(file.as_fd()).unwrap_err();
        assert!(error.to_string().contains("too short"), "{error}");
    }
}
