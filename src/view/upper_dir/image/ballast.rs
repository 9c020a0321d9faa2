//! The ballast: what an image has beyond its limit, taken away by files that nobody sees.
//!
//! An ext4 cannot be made to offer a given number of blocks and inodes: its tables are rounded up, and part of it is
//! reserved. So `ballast/blocks` holds blocks that are allocated and never written (they take nothing of the disk), and
//! `ballast/0`, `ballast/1`, … hold inodes. The kernel itself then refuses what goes beyond the limit, and a limit can
//! be lowered and raised again without making the file system smaller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::super::limit::BLOCK;
use crate::sys;
use crate::vfs::Errno;

const NAME: &[u8] = b"ballast";
const BLOCKS: &[u8] = b"blocks";

/// How often the length is corrected by what the allocation itself takes.
const CORRECTIONS: u32 = 8;

/// The ballast of an image that is mounted.
pub(super) struct Ballast {
    dir: OwnedFd,
    blocks: OwnedFd,
}

impl Ballast {
    /// Opens it, or makes it, below the top of the image.
    pub(super) fn open(top: BorrowedFd<'_>) -> io::Result<Self> {
        match sys::names::create_directory(top, NAME, 0o700) {
            Err(error) if Errno::of(&error) != Errno::EEXIST => return Err(error),
            _ => {}
        }
        let dir = sys::open::open_directory(top, NAME)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let blocks = sys::open::open_beneath(dir.as_fd(), BLOCKS, flags, 0o600)?;
        Ok(Self { dir, blocks })
    }

    /// Blocks of its directory.
    pub(super) fn own_blocks(&self) -> io::Result<u64> {
        blocks_of(self.dir.as_fd())
    }

    /// Blocks that it holds.
    pub(super) fn blocks(&self) -> io::Result<u64> {
        blocks_of(self.blocks.as_fd())
    }

    /// Inodes that it holds.
    pub(super) fn inodes(&self) -> io::Result<u64> {
        let mut count = 0;
        let listing = sys::open::open_listing(self.dir.as_fd())?;
        sys::dirent::for_each_name(listing.as_fd(), |name, _, _| {
            count += u64::from(name != BLOCKS);
            Ok(())
        })?;
        Ok(count)
    }

    /// Makes it hold so many blocks; if an allocation takes a block more than is wanted, that is left out of the limit.
    ///
    /// # Errors
    /// `ENOSPC` if they are not there.
    pub(super) fn hold_blocks(&self, wanted: u64) -> io::Result<()> {
        let mut length = sys::stat::stat(self.blocks.as_fd())?.stx_size / BLOCK;
        for correction in 0..CORRECTIONS {
            let now = self.blocks()?;
            if now == wanted || (now > wanted && correction + 2 > CORRECTIONS) {
                break;
            }
            if now > wanted {
                length = length.saturating_sub(now - wanted);
                sys::file::set_length(self.blocks.as_fd(), length * BLOCK)?;
            } else {
                let more = wanted - now;
                sys::file::allocate(self.blocks.as_fd(), 0, length * BLOCK, more * BLOCK)?;
                length += more;
            }
        }
        Ok(())
    }

    /// Makes it hold so many inodes.
    ///
    /// # Errors
    /// `ENOSPC` if they are not there.
    pub(super) fn hold_inodes(&self, wanted: u64) -> io::Result<()> {
        let now = self.inodes()?;
        for number in now..wanted {
            drop(sys::names::create_file(self.dir.as_fd(), &name(number), 0o600)?);
        }
        for number in (wanted..now).rev() {
            sys::names::unlink(self.dir.as_fd(), &name(number))?;
        }
        Ok(())
    }
}

fn name(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// Blocks that an inode takes, with those that say where its blocks are.
pub(super) fn blocks_of(inode: BorrowedFd<'_>) -> io::Result<u64> {
    Ok((sys::stat::stat(inode)?.stx_blocks * 512).div_ceil(BLOCK))
}
