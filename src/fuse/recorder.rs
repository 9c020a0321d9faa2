//! What must be known of a connection outside the process that serves it, so that another can go on.

use std::sync::Arc;

use fuser::Request;

use crate::sys::fuse_device::RESENT;
use crate::vfs::{self, Entry, Generation, Handle, Ino, Vfs};

/// Who remembers what requests have got, and which backing files are registered.
pub trait Recorder: Send + Sync {
    /// This thread works on the request of this number from here on: what is noted belongs to it.
    fn begin(&self, request: u64);

    /// What a request that is asked again had got. From here on it has not got it any more, but for what was done for good.
    fn past(&self, request: u64) -> Past;

    /// The request of this thread is about to be carried out, and must not be twice.
    fn start(&self);

    /// A file of the inode is served by the kernel from this backing file.
    fn backed(&self, ino: Ino, id: u32);

    /// It is not any more.
    fn unbacked(&self, ino: Ino);

    /// From here on, what was noted survives a kill of this process.
    fn secure(&self);
}

/// What a request had got from a server that was killed before the kernel had its answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Past {
    /// Lookups that the kernel does not know of.
    pub lookups: Vec<(Ino, u64)>,
    /// Handles that the kernel does not know of.
    pub handles: Vec<(Ino, Handle)>,
    /// What it made, for good, and with one lookup counted.
    pub made: Option<(Ino, Generation)>,
    /// What it asked for was done, for good.
    pub changed: bool,
    /// It was about to be carried out ([`Recorder::start`]).
    pub started: bool,
}

/// Files that are open, as another process left them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenFiles {
    /// Of each inode: how many handles, and from which backing file the kernel serves them.
    pub inodes: Vec<(Ino, u64, Option<u32>)>,
    /// The highest number of a backing file that was ever noted.
    pub highest: u32,
}

/// A request in the hands of this thread.
#[derive(Debug, Default)]
pub(super) struct Turn {
    made: Option<(Ino, Generation)>,
    /// It was carried out by a server that was killed, whose answer was not given.
    pub(super) done: bool,
    /// A server that was killed was about to carry it out, and may have.
    pub(super) perhaps: bool,
}

impl Turn {
    /// Begins the work on a request. Of one that is asked again, what it had got and the kernel does not know of is taken
    /// back: handles by `close`.
    pub(super) fn begin(
        recorder: Option<&Arc<dyn Recorder>>,
        request: &Request,
        vfs: &impl Vfs,
        close: impl Fn(Ino, Handle),
    ) -> Self {
        let Some(recorder) = recorder else { return Self::default() };
        let number = u64::from(request.unique());
        recorder.begin(number & !RESENT);
        if number & RESENT == 0 {
            return Self::default();
        }
        let past = recorder.past(number & !RESENT);
        for (ino, handle) in past.handles {
            close(ino, handle);
        }
        for (ino, count) in past.lookups {
            vfs.forget(ino, count);
        }
        tracing::debug!(request = number & !RESENT, made = ?past.made, changed = past.changed, "asked again");
        Self { made: past.made, done: past.changed, perhaps: past.started }
    }

    /// The entry that the request has made already.
    pub(super) fn made(&self, vfs: &impl Vfs) -> Option<vfs::Result<Entry>> {
        let (ino, generation) = self.made?;
        Some(vfs.getattr(ino, None).map(|attr| Entry { attr, generation }))
    }
}
