//! What every request goes through between `fuser` and the [`Vfs`]: it is counted, taken back if it is asked again, and noted
//! before it is answered.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fuser::{INodeNo, Request};

use crate::telemetry::metrics::{Metrics, Operation};
use crate::vfs::{self, OpenFlags, Vfs};

use super::invalidate::Invalidator;
use super::observe::Observer;
use super::opens::Opens;
use super::recorder::{Recorder, Turn};
use super::uses::{Intended, Use, Uses};
use super::{Io, convert, rights};

/// Serves a file system to `fuser`.
pub(super) struct Adapter<V> {
    pub(super) vfs: Arc<V>,
    pub(super) io: Io,
    /// True if the kernel can go without opening directories.
    pub(super) opens_no_directories: bool,
    /// True if the kernel leaves the umask to the file system.
    pub(super) masks: bool,
    pub(super) opens: Opens,
    pub(super) recorder: Option<Arc<dyn Recorder>>,
    pub(super) uses: Option<Arc<Uses>>,
    /// True once the kernel is found to ask again what a server that is dead did not answer.
    pub(super) asks_again: Arc<AtomicBool>,
    pub(super) observer: Observer,
    pub(super) invalidator: Arc<Invalidator>,
}

/// What an adapter shares with its session.
#[derive(Clone, Default)]
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) invalidator: Arc<Invalidator>,
    pub(super) asks_again: Arc<AtomicBool>,
}

impl<V: Vfs> Adapter<V> {
    /// `opens` are those of the connection; `asks_again` becomes true if the kernel can ask again.
    pub(super) fn new(
        vfs: Arc<V>,
        io: Io,
        opens: Opens,
        (recorder, uses): (Option<Arc<dyn Recorder>>, Option<Arc<Uses>>),
        shared: Shared,
    ) -> Self {
        Self {
            vfs,
            io,
            opens_no_directories: false,
            masks: false,
            opens,
            recorder,
            uses,
            asks_again: shared.asks_again,
            observer: Observer::new(shared.metrics),
            invalidator: shared.invalidator,
        }
    }

    /// Notes that something was used.
    pub(super) fn used(&self, how: Use, ino: vfs::Ino) {
        if let Some(uses) = &self.uses {
            uses.note(how, ino, || self.vfs.whereabouts(ino));
        }
    }

    /// Uses something by `logic`, and notes where it was before.
    pub(super) fn using<T>(
        &self,
        how: Use,
        ino: vfs::Ino,
        logic: impl FnOnce() -> vfs::Result<T>,
    ) -> vfs::Result<T> {
        let intended: Option<Intended> =
            self.uses.as_ref().and_then(|uses| uses.intend(how, ino, || self.vfs.whereabouts(ino)));
        let answer = logic()?;
        if let (Some(uses), Some(intended)) = (&self.uses, intended) {
            uses.made(intended);
        }
        Ok(answer)
    }

    /// True if the kernel is told to open files without asking.
    pub(super) fn opens_unasked(&self) -> bool {
        self.io == Io::Cached && !self.uses.as_ref().is_some_and(|uses| uses.every_open())
    }

    /// Ends an open, and with the last one of an inode its backing file.
    pub(super) fn close(&self, ino: vfs::Ino, handle: vfs::Handle) {
        if self.vfs.is_open(handle) {
            self.opens.leave(ino);
            self.vfs.release(ino, handle);
        }
    }

    /// Runs the logic of a request about `ino`; what it has noted is secure before it is answered.
    pub(super) fn run<T>(
        &self,
        operation: Operation,
        request: &Request,
        ino: INodeNo,
        logic: impl FnOnce(&Turn) -> vfs::Result<T>,
    ) -> Result<T, fuser::Errno> {
        self.observer.run(operation, convert::ino(ino), || {
            let close = |ino, handle| self.close(ino, handle);
            let turn = Turn::begin(self.recorder.as_ref(), request, &*self.vfs, close);
            let answer = logic(&turn);
            // Nobody waits for the answer to a forget, and one that is lost costs memory alone.
            if let Some(recorder) = self.recorder.as_ref().filter(|_| operation != Operation::Forget) {
                recorder.secure();
            }
            answer
        })
    }

    /// Runs the logic of a request about the name `name` in `parent`.
    pub(super) fn run_named<T>(
        &self,
        operation: Operation,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        logic: impl FnOnce(&Turn, vfs::Ino, &vfs::Name) -> vfs::Result<T>,
    ) -> Result<T, fuser::Errno> {
        self.run(operation, request, parent, |turn| {
            let name = convert::name(operation.name(), parent, name)?;
            logic(turn, convert::ino(parent), &name)
        })
    }

    /// Runs the logic of a request that makes an entry; one that has made it already is answered with that.
    pub(super) fn run_making(
        &self,
        operation: Operation,
        request: &Request,
        place: (INodeNo, &OsStr),
        logic: impl FnOnce(vfs::Ino, &vfs::Name) -> vfs::Result<vfs::Entry>,
    ) -> Result<vfs::Entry, fuser::Errno> {
        self.run_named(operation, request, place, |turn, parent, name| {
            turn.made(&*self.vfs).unwrap_or_else(|| logic(parent, name))
        })
    }

    /// Runs the logic of a request that removes or moves a name; one that has done so already is answered with that.
    pub(super) fn run_changing(
        &self,
        operation: Operation,
        request: &Request,
        place: (INodeNo, &OsStr),
        logic: impl FnOnce(vfs::Ino, &vfs::Name) -> vfs::Result<()>,
    ) -> Result<(), fuser::Errno> {
        self.run_named(
            operation,
            request,
            place,
            |turn, parent, name| {
                if turn.done { Ok(()) } else { logic(parent, name) }
            },
        )
    }

    /// Opens what a server that is dead has made, and perhaps opened.
    pub(super) fn reopen(
        &self,
        entry: vfs::Entry,
        flags: OpenFlags,
    ) -> vfs::Result<(vfs::Entry, vfs::Opened)> {
        match self.vfs.open(entry.attr.ino, OpenFlags(flags.0 & !(libc::O_CREAT | libc::O_EXCL))) {
            Ok(opened) => Ok((entry, opened)),
            Err(error) => {
                self.vfs.forget(entry.attr.ino, 1);
                Err(error)
            }
        }
    }

    /// Notes that the request of this thread is about to be carried out, and must not be twice.
    pub(super) fn start(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.start();
            recorder.secure();
        }
    }

    /// Who makes something in `parent`.
    ///
    /// Ids that a mount has no place for make nothing: the kernel sees to that, and an owner that it did not tell would be
    /// the server's own.
    pub(super) fn maker(
        &self,
        operation: &'static str,
        request: &Request,
        parent: vfs::Ino,
        umask: u32,
    ) -> vfs::Result<vfs::Caller> {
        if request.uid() == rights::UNTOLD || request.gid() == rights::UNTOLD {
            return Err(vfs::Error::new(operation, parent, vfs::Errno::EOVERFLOW));
        }
        Ok(convert::maker(request, if self.masks { umask } else { 0 }))
    }
}
