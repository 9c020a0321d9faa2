//! The work directory: where things are before they have a name and after they lost it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{clear, unless};
use crate::sys;
use crate::vfs::Errno;

/// The work directory of an upper, and the next name in it.
#[derive(Debug)]
pub(super) struct Work {
    dir: OwnedFd,
    next: AtomicU64,
}

impl Work {
    /// Takes over a work directory, and empties it: what is there was left by a crash.
    pub(super) fn open(dir: OwnedFd) -> io::Result<Self> {
        clear::clear(dir.as_fd())?;
        Ok(Self { dir, next: AtomicU64::new(0) })
    }

    /// A work directory that is none, for an upper that is only read: whatever is tried in it is `ENOTDIR`.
    pub(super) fn none() -> io::Result<Self> {
        let dir = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { dir, next: AtomicU64::new(0) })
    }

    /// Makes something under a free name; it is removed when the answer is dropped.
    pub(super) fn create<T>(
        self: &Arc<Self>,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> io::Result<T>,
    ) -> io::Result<(Temporary, T)> {
        loop {
            let name = format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed));
            if let Some(made) = unless(make(self.dir.as_fd(), name.as_bytes()), &[Errno::EEXIST])? {
                return Ok((Temporary { work: Arc::clone(self), name, armed: true }, made));
            }
        }
    }
}

impl AsFd for Work {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A name in the work directory; what is there when this is dropped is removed.
#[derive(Debug)]
pub(super) struct Temporary {
    work: Arc<Work>,
    name: String,
    armed: bool,
}

impl Temporary {
    /// The directory and the name in it, as the calls that rename take them.
    pub(super) fn place(&self) -> (BorrowedFd<'_>, &[u8]) {
        (self.work.dir.as_fd(), self.name.as_bytes())
    }

    /// There is nothing under the name any more.
    pub(super) fn forget(mut self) {
        self.armed = false;
    }

    fn remove(&self) -> io::Result<()> {
        let (dir, name) = self.place();
        match sys::names::unlink(dir, name) {
            Err(error) if Errno::of(&error) == Errno::EISDIR => {}
            answer => return answer,
        }
        match sys::names::remove_directory(dir, name) {
            Err(error) if matches!(Errno::of(&error), Errno::ENOTEMPTY | Errno::EEXIST) => {}
            answer => return answer,
        }
        let displaced = sys::open::open_directory(dir, name)?;
        sys::attr::set_permissions(displaced.as_fd(), 0o700)?;
        clear::clear(displaced.as_fd())?;
        sys::names::remove_directory(dir, name)
    }
}

impl Drop for Temporary {
    /// A removal that fails is not an error of the operation, which is done: the next start removes what is left.
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.remove()
        {
            tracing::warn!(%error, name = self.name, "could not remove what is left in the work directory");
        }
    }
}
