//! Backing files of passthrough: registered with the kernel, known by numbers, and closed when nobody uses them.
//!
//! A number belongs to the connection, not to the process: it stays when the server dies, and an open file must be served
//! from the same one by the next. `fuser`'s own type cannot be made from a number that another process got but by an
//! unsafe call, which this file is for.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fuser::{BackingId, ReplyCreate, ReplyOpen};

use crate::sys::fuse_device;

/// A registered backing file; dropped, it is closed for further opens.
#[derive(Debug)]
pub(super) struct Backing {
    device: Arc<OwnedFd>,
    id: u32,
}

impl Backing {
    /// Registers `file`.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN in the initial user namespace, `ELOOP` if it lies on a stacked file system,
    /// `EOPNOTSUPP` for a connection without passthrough.
    pub(super) fn register(device: &Arc<OwnedFd>, file: BorrowedFd<'_>) -> io::Result<Self> {
        let id = BackingId::create_raw(device.as_fd(), file)?;
        Ok(Self { device: Arc::clone(device), id })
    }

    /// One that is registered already, perhaps by another process.
    pub(super) fn known(device: &Arc<OwnedFd>, id: u32) -> Self {
        Self { device: Arc::clone(device), id }
    }

    /// Its number on the connection; never 0.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// For an answer that opens a file.
    #[allow(unsafe_code, reason = "see the head of the file")]
    pub(super) fn for_open(&self, reply: &ReplyOpen) -> Lent<'_> {
        // SAFETY: the number is open on the connection of the reply as long as `self` is; what is lent does not close it.
        Lent(Some(unsafe { reply.wrap_backing(self.id) }), PhantomData)
    }

    /// For an answer that makes and opens a file.
    #[allow(unsafe_code, reason = "see the head of the file")]
    pub(super) fn for_create(&self, reply: &ReplyCreate) -> Lent<'_> {
        // SAFETY: as above.
        Lent(Some(unsafe { reply.wrap_backing(self.id) }), PhantomData)
    }
}

/// A backing file in the form that answers take.
pub(super) struct Lent<'a>(Option<BackingId>, PhantomData<&'a Backing>);

impl Lent<'_> {
    pub(super) fn id(&self) -> Option<&BackingId> {
        self.0.as_ref()
    }
}

impl Drop for Lent<'_> {
    /// `fuser`'s type would close it.
    fn drop(&mut self) {
        self.0.take().map(BackingId::into_raw);
    }
}

impl Drop for Backing {
    /// A file system that is gone has closed it.
    fn drop(&mut self) {
        if let Err(error) = fuse_device::close_backing(self.device.as_fd(), self.id) {
            tracing::debug!(id = self.id, %error, "a backing file was not closed");
        }
    }
}
