//! Small files of the store, which the kernel keeps for each view.
//!
//! A read through passthrough makes the time of access unknown, so that the kernel asks for the attributes again, in each run of a
//! program. A read of what the kernel keeps itself does not. So a small file whose content cannot change is read once by the server, at
//! its first open, and given to the kernel (`FUSE_NOTIFY_STORE`): no request reads it. That takes memory for each view, which the
//! kernel reclaims like any page cache. Larger files go through passthrough, and are in memory once for all views.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sys;
use crate::vfs::Ino;

use super::invalidate::Invalidator;

/// Up to so many bytes a file is small.
const SMALL: u64 = 64 << 10;

/// The small files that the kernel was given.
pub(super) struct Small {
    /// So that none is given twice: a page of it may be being read by then.
    given: Mutex<HashSet<Ino>>,
    kernel: Arc<Invalidator>,
}

impl Small {
    pub(super) fn new(kernel: Arc<Invalidator>) -> Self {
        Self { given: Mutex::default(), kernel }
    }

    /// True if `file`, which is the content of `ino` for good, is small; the kernel then has it. Called before the first open is answered.
    /// What cannot be read is left to the kernel to ask for.
    pub(super) fn give(&self, ino: Ino, file: BorrowedFd<'_>) -> bool {
        let Ok(size) = sys::stat::stat(file).map(|stat| stat.stx_size) else { return false };
        if size > SMALL {
            return false;
        }
        if self.given.lock().insert(ino)
            && let Ok(content) = read(file, size)
        {
            self.kernel.content(ino, &content);
        }
        true
    }

    /// The kernel has dropped what it kept of an inode.
    pub(super) fn forgotten(&self, ino: Ino) {
        self.given.lock().remove(&ino);
    }
}

/// The first `size` bytes.
fn read(file: BorrowedFd<'_>, size: u64) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let mut done = 0;
    while let Some(rest) = content.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match sys::file::read_at(file, done as u64, rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => done += got,
        }
    }
    Ok(content)
}
