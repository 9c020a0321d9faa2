//! The rim towards the kernel: a [`Vfs`] served over FUSE.
//!
//! Knows the protocol (through `fuser`, which is used here alone), and nothing of layers, stores and views. It does not
//! mount: a [`Session`] serves a device whose file system somebody else made ([`crate::sys::mount::new_fuse`]) and
//! somebody else takes away, so that what is mounted at a path next is never touched.
//!
//! **Caching.** The file system behind changes only through this kernel, so entries, attributes, the absence of names,
//! listings and link targets are kept by the kernel for ever; see `docs/mechanisms.md`.

mod adapter;
mod answer;
mod convert;
mod directory;
mod invalidate;
mod observe;
mod passthrough;
mod rights;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::telemetry::metrics::Metrics;
use crate::vfs::Vfs;

use adapter::Adapter;
use invalidate::Invalidator;
pub use passthrough::probe as probe_passthrough;

/// Who reads and writes the content of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Io {
    /// The kernel, from the layer's own file (passthrough): no request, one page cache for all views. Needs Linux 6.9
    /// and CAP_SYS_ADMIN: ask [`probe_passthrough`] first. A file that the kernel refuses is served by requests.
    #[default]
    Passthrough,
    /// The server, by requests into a page cache of the view's own; opening costs no request.
    Cached,
}

impl Io {
    /// The name, as options have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
        }
    }
}

/// How a file system is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Who reads and writes.
    pub io: Io,
    /// How many requests are worked on at once.
    pub threads: NonZeroUsize,
}

/// A connection to the kernel on which the protocol has been negotiated.
///
/// Dropped without [`run`](Self::run), it ends the connection: every access to the mount then fails with `ENOTCONN`.
pub struct Session<V: Vfs + 'static> {
    session: fuser::Session<Adapter<V>>,
    metrics: Arc<Metrics>,
}

impl<V: Vfs + 'static> Session<V> {
    /// Takes the INIT request from `device`, which has a file system, and answers it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if passthrough is asked for and the kernel does not have it; those of reading and writing the
    /// device, and `ENOTCONN` if its file system is gone.
    pub fn new(vfs: Arc<V>, device: OwnedFd, options: Options) -> io::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let invalidator = Arc::new(Invalidator::default());
        let adapter = Adapter::new(vfs, options.io, Arc::clone(&metrics), Arc::clone(&invalidator));
        let mut config = fuser::Config::default();
        config.n_threads = Some(options.threads.get());
        // Who may use the mount is the kernel's to decide (`allow_other`).
        let session = fuser::Session::from_fd(adapter, device, fuser::SessionACL::All, config)?;
        invalidator.connect(session.notifier());
        Ok(Self { session, metrics })
    }

    /// Asks the kernel whether it would serve `file` through passthrough on this connection. Registers it for no
    /// longer than the question takes.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN in the initial user namespace, `ELOOP` if `file` lies on a stacked file system,
    /// `EOPNOTSUPP` for a session without passthrough.
    pub fn takes_backing(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        fuser::BackingId::create_raw(self.session.as_fd(), file).map(drop)
    }

    /// The counters of this session's requests.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Serves requests until the file system is unmounted for good or the connection is aborted.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn run(self) -> io::Result<()> {
        self.session.run()
    }
}
