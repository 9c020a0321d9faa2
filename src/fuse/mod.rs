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
mod backing;
mod convert;
mod directory;
mod invalidate;
mod observe;
mod opens;
mod passthrough;
mod recorder;
mod requests;
mod rights;
mod small;
mod uses;

use std::collections::HashSet;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::sys::{fuse_device, memory, socket};
use crate::telemetry::metrics::Metrics;
use crate::vfs::Vfs;

use opens::Opens;
pub use passthrough::probe as probe_passthrough;
pub use recorder::{OpenFiles, Past, Recorder};
use requests::{Adapter, Shared};
pub use uses::{Use, Uses, Witness};

/// How long the kernel may take to ask its first question, which it does when the file system is made.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that one request reads or writes, in bytes. Each thread keeps as much memory for good where writes are requests:
/// 256 KiB, not the 1 MiB that the kernel would send.
const LONGEST_WRITE: usize = 256 << 10;

/// The longest answer to INIT.
const LONGEST_ANSWER: usize = 4096;

/// How far from the highest noted number unnoted ones of backing files are looked for: more than threads can be in between.
const UNKNOWN: u32 = 256;

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

/// The first words of a connection: what the kernel asked when its file system was made, and what it was answered.
///
/// Every server of a connection negotiates by them, and must come to the same answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The INIT request.
    request: Vec<u8>,
    /// The answer, once there is one.
    answer: Option<Vec<u8>>,
}

impl Greeting {
    /// Takes the INIT request from `device`, which has a file system.
    ///
    /// # Errors
    /// `ETIMEDOUT` if the kernel asks nothing; `ENOTCONN` if the file system is gone.
    pub fn hear(device: BorrowedFd<'_>) -> io::Result<Self> {
        match fuse_device::read_request(device, PATIENCE) {
            Ok(request) => Ok(Self { request, answer: None }),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                Err(io::Error::from_raw_os_error(libc::ENOTCONN))
            }
            Err(error) => Err(error),
        }
    }

    /// The same with the answer that the kernel got.
    #[must_use]
    pub fn answered(self, answer: Vec<u8>) -> Self {
        Self { answer: Some(answer), ..self }
    }
}

/// A connection to the kernel on which the protocol has been negotiated.
///
/// Dropped without [`run`](Self::run), with no other descriptor of the device, it ends the connection: every access to the mount
/// then fails with `ENOTCONN`.
pub struct Session<V: Vfs + 'static> {
    session: fuser::Session<Adapter<V>>,
    shared: Shared,
    answer: Vec<u8>,
}

impl<V: Vfs + 'static> Session<V> {
    /// Takes the INIT request from `device`, which has a file system, and answers it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if passthrough is asked for and the kernel does not have it; those of reading and writing the
    /// device, and `ENOTCONN` if its file system is gone.
    pub fn new(vfs: Arc<V>, device: OwnedFd, options: Options) -> io::Result<Self> {
        let greeting = Greeting::hear(device.as_fd())?;
        Self::first(vfs, device, &greeting, options, None, None)
    }

    /// The first session of a connection: answers the INIT request. `recorder` is told what another session needs, `uses` what is
    /// used.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn first(
        vfs: Arc<V>,
        device: OwnedFd,
        greeting: &Greeting,
        options: Options,
        recorder: Option<Arc<dyn Recorder>>,
        uses: Option<Arc<Uses>>,
    ) -> io::Result<Self> {
        let session = Self::negotiate(vfs, device, greeting, options, (recorder, uses), None)?;
        fuse_device::answer(session.session.as_fd(), &session.answer)?;
        Ok(session)
    }

    /// A further session of a connection, whose last one is dead, to the last thread. What that one had read and not answered
    /// is asked again.
    ///
    /// # Errors
    /// `InvalidData` if this session would negotiate something else; `EINVAL` if the kernel cannot ask again; those of
    /// writing the device.
    pub fn next(
        vfs: Arc<V>,
        device: OwnedFd,
        greeting: &Greeting,
        options: Options,
        recorder: Arc<dyn Recorder>,
        uses: Option<Arc<Uses>>,
        files: &OpenFiles,
    ) -> io::Result<Self> {
        let session = Self::negotiate(vfs, device, greeting, options, (Some(recorder), uses), Some(files))?;
        if greeting.answer.as_deref() != Some(session.answer.as_slice()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "this server would serve the view otherwise than the one before",
            ));
        }
        close_unknown(session.session.as_fd(), files);
        fuse_device::resend(session.session.as_fd())?;
        Ok(session)
    }

    /// Has `fuser` negotiate with what the kernel said, at a socket in the place of the device, which it gets afterwards.
    fn negotiate(
        vfs: Arc<V>,
        device: OwnedFd,
        greeting: &Greeting,
        options: Options,
        (recorder, uses): (Option<Arc<dyn Recorder>>, Option<Arc<Uses>>),
        files: Option<&OpenFiles>,
    ) -> io::Result<Self> {
        if options.io == Io::Cached {
            memory::expect_requests(LONGEST_WRITE);
        }
        let shared = Shared::default();
        let device = Arc::new(device);
        let mut opens = Opens::new(Arc::clone(&device), recorder.clone(), Arc::clone(&shared.invalidator));
        if let Some(files) = files {
            opens.restore(files);
        }
        let adapter = Adapter::new(vfs, options.io, opens, (recorder, uses), shared.clone());
        let mut config = fuser::Config::default();
        config.n_threads = Some(options.threads.get());
        let (here, there) = socket::pair()?;
        socket::send(&here, &greeting.request, None)?;
        // Who may use the mount is the kernel's to decide (`allow_other`).
        let session = fuser::Session::from_fd(adapter, there, fuser::SessionACL::All, config)?;
        let (answer, _) = socket::receive(&here, LONGEST_ANSWER)?;
        fuse_device::replace(session.as_fd(), device.as_fd())?;
        shared.invalidator.connect(session.notifier());
        Ok(Self { session, shared, answer })
    }

    /// What the INIT request was answered with, for [`Greeting::answered`].
    #[must_use]
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// True if another session can go on where this one is killed: the kernel can ask again what was not answered.
    #[must_use]
    pub fn can_be_followed(&self) -> bool {
        self.shared.asks_again.load(Ordering::Relaxed)
    }

    /// Asks the kernel whether it would serve `file` through passthrough on this connection. Registers it for no
    /// longer than the question takes.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN in the initial user namespace, `ELOOP` if `file` lies on a stacked file system,
    /// `EOPNOTSUPP` for a session without passthrough.
    pub fn takes_backing(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let id = fuser::BackingId::create_raw(self.session.as_fd(), file)?;
        fuse_device::close_backing(self.session.as_fd(), id)
    }

    /// The counters of this session's requests.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// Serves requests until the file system is unmounted for good or the connection is aborted.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn run(self) -> io::Result<()> {
        self.session.run()
    }
}

/// Closes the backing files that a session registered which died before it could note them. Numbers go up, so that they
/// are near the highest that was noted (fs/fuse/backing.c, `idr_alloc_cyclic`).
fn close_unknown(device: BorrowedFd<'_>, files: &OpenFiles) {
    let known: HashSet<u32> = files.inodes.iter().filter_map(|(_, _, id)| *id).collect();
    let (first, last) = (files.highest.saturating_sub(UNKNOWN), files.highest.saturating_add(UNKNOWN));
    for id in (first.max(1)..=last).filter(|id| !known.contains(id)) {
        match fuse_device::close_backing(device, id) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOTTY)) =>
            {
                return;
            }
            // There is none of that number.
            _ => {}
        }
    }
}
