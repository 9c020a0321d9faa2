//! Passthrough: the kernel reads and writes the layer's file by itself (Documentation/filesystems/fuse/fuse-passthrough.rst).
//!
//! The kernel allows one backing file per inode at a time, and does not mix passthrough with cached I/O on one inode:
//! an open that disagrees with the others fails with `EIO` (fs/fuse/iomode.c). So the first open of an inode decides
//! for all opens until the last of them is released.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use fuser::{BackingId, InitFlags, KernelConfig, Request};
use parking_lot::Mutex;

use crate::sys::{fuse_device, mount};
use crate::vfs::Ino;

/// How the opens of one inode are served.
pub(super) enum Mode<B> {
    /// By the kernel, from this backing file.
    Passthrough(Arc<B>),
    /// By requests to the server.
    Plain,
}

impl<B> Clone for Mode<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Passthrough(id) => Self::Passthrough(Arc::clone(id)),
            Self::Plain => Self::Plain,
        }
    }
}

struct Shared<B> {
    mode: Mode<B>,
    opens: u64,
}

/// The inodes that are open, with the mode of each.
///
/// The lock is a leaf: nothing is asked of the kernel under it. `B` is [`Backing`](super::backing::Backing), which closes
/// itself when dropped.
pub(super) struct OpenInodes<B> {
    table: Mutex<HashMap<Ino, Shared<B>>>,
}

impl<B> Default for OpenInodes<B> {
    fn default() -> Self {
        Self { table: Mutex::new(HashMap::new()) }
    }
}

impl<B> OpenInodes<B> {
    /// Counts an open of `ino` and answers how it is served. `register` makes a backing id, `None` if that cannot be;
    /// it is asked only if the inode is not open, and what it made is dropped if another open was faster. `tell` is called
    /// with what is used from here on, before anybody else can use it.
    pub(super) fn enter(
        &self,
        ino: Ino,
        register: impl FnOnce() -> Option<B>,
        tell: impl FnOnce(&B),
    ) -> Mode<B> {
        if let Some(shared) = self.table.lock().get_mut(&ino) {
            shared.opens += 1;
            return shared.mode.clone();
        }
        let made = register().map_or(Mode::Plain, |id| Mode::Passthrough(Arc::new(id)));
        let mut table = self.table.lock();
        match table.entry(ino) {
            Entry::Occupied(mut other) => {
                other.get_mut().opens += 1;
                let mode = other.get().mode.clone();
                drop(table);
                drop(made);
                mode
            }
            Entry::Vacant(place) => {
                if let Mode::Passthrough(id) = &made {
                    tell(id);
                }
                place.insert(Shared { mode: made, opens: 1 }).mode.clone()
            }
        }
    }

    /// Puts an inode back that another process had open so often, from this backing file if it had one.
    pub(super) fn restore(&mut self, ino: Ino, opens: u64, backing: Option<B>) {
        let mode = backing.map_or(Mode::Plain, |id| Mode::Passthrough(Arc::new(id)));
        self.table.get_mut().insert(ino, Shared { mode, opens });
    }

    /// Takes back one open; the last one closes the backing file, after `tell` was called.
    pub(super) fn leave(&self, ino: Ino, tell: impl FnOnce()) {
        let mut table = self.table.lock();
        if let Entry::Occupied(mut place) = table.entry(ino) {
            place.get_mut().opens -= 1;
            if place.get().opens == 0 {
                let last = place.remove();
                if matches!(last.mode, Mode::Passthrough(_)) {
                    tell();
                }
                drop(table);
                drop(last);
            }
        }
    }
}

/// Asks the kernel whether it would let this process serve `file` through passthrough, on a connection that is made
/// for this question and goes with it. Nothing is mounted anywhere.
///
/// # Errors
/// `EOPNOTSUPP` from a kernel without passthrough (before 6.9), `EPERM` without CAP_SYS_ADMIN in the initial user
/// namespace (or as for [`mount::new_fuse`]), `ELOOP` if `file` lies on a stacked file system such as overlayfs.
pub fn probe(file: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsFd;
    let device = mount::open_fuse_device()?;
    let keeps_connection: OwnedFd = mount::new_fuse(device.as_fd(), mount::FuseOptions::default())?;
    let session = fuser::Session::from_fd(Probe, device, fuser::SessionACL::All, fuser::Config::default())?;
    let id = BackingId::create_raw(session.as_fd(), file)?;
    fuse_device::close_backing(session.as_fd(), id)?;
    drop(session);
    drop(keeps_connection);
    Ok(())
}

/// A file system that only negotiates passthrough.
struct Probe;

impl fuser::Filesystem for Probe {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config)
    }
}

/// Asks for passthrough, of files on file systems that are not stacked themselves: so a container can still put an
/// overlayfs on top of the view.
///
/// # Errors
/// `EOPNOTSUPP` if the kernel does not offer it.
pub(super) fn negotiate(config: &mut KernelConfig) -> io::Result<()> {
    let unsupported = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| unsupported())?;
    config.set_max_stack_depth(1).map_err(|_| unsupported())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "test code")]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Id<'a>(u32, &'a AtomicUsize);
    impl Drop for Id<'_> {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn quiet<B>(_: &B) {}

    fn number(mode: &Mode<Id<'_>>) -> Option<u32> {
        match mode {
            Mode::Passthrough(id) => Some(id.0),
            Mode::Plain => None,
        }
    }

    #[test]
    fn all_opens_of_an_inode_share_the_first_mode_until_the_last_release() {
        let closed = AtomicUsize::new(0);
        let open = OpenInodes::default();
        assert_eq!(number(&open.enter(Ino(5), || Some(Id(1, &closed)), quiet)), Some(1));
        assert_eq!(number(&open.enter(Ino(5), || panic!("the inode is open"), quiet)), Some(1));
        assert_eq!(number(&open.enter(Ino(6), || None, quiet)), None);
        assert_eq!(number(&open.enter(Ino(6), || panic!("the inode is open"), quiet)), None);
        open.leave(Ino(5), || {});
        assert_eq!(closed.load(Ordering::Relaxed), 0);
        open.leave(Ino(5), || {});
        assert_eq!(closed.load(Ordering::Relaxed), 1, "the last release closes the backing file");
        open.leave(Ino(5), || {});
        open.leave(Ino(6), || {});
        open.leave(Ino(6), || {});
        assert_eq!(number(&open.enter(Ino(5), || None, quiet)), None, "the next first open decides anew");
        assert_eq!(number(&open.enter(Ino(6), || Some(Id(2, &closed)), quiet)), Some(2));
    }

    #[test]
    fn of_two_first_opens_at_once_one_backing_file_is_used() {
        let closed = AtomicUsize::new(0);
        let open = OpenInodes::default();
        let slower = open.enter(
            Ino(5),
            || {
                assert_eq!(number(&open.enter(Ino(5), || Some(Id(1, &closed)), quiet)), Some(1));
                Some(Id(2, &closed))
            },
            quiet,
        );
        assert_eq!(number(&slower), Some(1));
        assert_eq!(closed.load(Ordering::Relaxed), 1, "the superfluous one is closed");
        drop(slower);
        open.leave(Ino(5), || {});
        open.leave(Ino(5), || {});
        assert_eq!(closed.load(Ordering::Relaxed), 2);
    }
}
