//! What must be known outside the process that serves a union, so that another can go on where it was killed.
//!
//! The kernel knows inodes by numbers and opens by handles: who answers next must know the same. So every change of the
//! inode table and of the handles is told to a [`Recorder`], as the state of each inode after it ([`Event::Node`]). What is
//! about to happen to names on the disk is told before it happens ([`Intent`]): a union that is resumed looks at the
//! disk whether it has happened, since each is one rename there. [`Event::Looked`], [`Event::Opened`] and [`Done`] are what a request
//! has got so far: one that is asked again, because its answer was never given, is given that, or has it taken back.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

pub use super::node::Source;
pub use super::number::PathHash;
use super::{Outcome, UnionFs};
use crate::layer::{Lower, Upper};
use crate::vfs::{Entry, Handle, Ino, Name, Timespec};

/// Who remembers what a union knows.
///
/// [`note`](Self::note) is called under locks of the union: it does no I/O on a disk, and calls nothing of the union.
/// A recorder that can remember no more says so to whoever would resume; to the union it never fails.
pub trait Recorder: Send + Sync {
    /// Notes changes that belong together, of the request that this thread works on: after a kill all or none of them are
    /// known, and none without those that were noted before.
    fn note(&self, events: &[Event<'_>]);

    /// From here on, what was noted survives a kill of this process.
    fn secure(&self);

    /// A number for an intent that no other has.
    fn next_intent(&self) -> u64;

    /// Keeps an inode of the upper open that is about to lose its last name.
    fn hold(&self, ino: Ino, object: BorrowedFd<'_>);

    /// Nobody can ask for the inode any more.
    fn let_go(&self, ino: Ino);
}

/// Names from the root of a layer.
pub type Path<'a> = Vec<&'a Bytes>;

/// A name in a directory of the view.
pub type LinkRecord<'a> = (u64, &'a Bytes);

/// The part of an inode's state that cannot be found out again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord<'a> {
    /// The file type bits of a mode.
    pub kind: u32,
    /// Which layers have it.
    pub source: Source,
    /// Of its number.
    pub generation: u64,
    /// Hash of the path in the lower.
    pub path_hash: PathHash,
    /// Lookups that the kernel has not forgotten.
    pub lookups: u64,
    /// Where the lower has a directory that was moved.
    #[serde(borrow)]
    pub moved: Option<Path<'a>>,
    /// Its names.
    #[serde(borrow)]
    pub links: Vec<LinkRecord<'a>>,
    /// Where the lower has the content that is read although no name leads to it.
    #[serde(borrow)]
    pub reads: Option<Path<'a>>,
    /// The upper's inode is kept open ([`Recorder::hold`]).
    pub held: bool,
}

/// A change of what a union knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event<'a> {
    /// An inode is known, and this is its state.
    Node {
        /// Its number.
        ino: u64,
        /// Its state.
        #[serde(borrow)]
        node: NodeRecord<'a>,
    },
    /// An inode is not known any more.
    Gone {
        /// Its number.
        ino: u64,
        /// The inode that the number still belongs to, if it has a name.
        holder: Option<u64>,
    },
    /// The request adds to the lookups of an inode, or takes back what it has added.
    Looked {
        /// The inode.
        ino: u64,
        /// How many.
        count: i64,
    },
    /// The request opens a file.
    Opened {
        /// The handle; greater than all before it.
        handle: u64,
        /// The inode.
        ino: u64,
        /// True if it is the lower's file.
        lower: bool,
    },
    /// A handle is not open any more.
    Closed {
        /// The handle.
        handle: u64,
    },
    /// Names are about to change.
    Intends {
        /// Number of the intent.
        id: u64,
        /// What will happen.
        #[serde(borrow)]
        intent: Intent<'a>,
    },
    /// An intent was carried out and is part of the state, or was given up.
    Settled {
        /// Number of the intent.
        id: u64,
        /// What the request that had the intent has got.
        done: Option<Done>,
    },
}

/// What a request that must not be carried out twice has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Done {
    /// A new name, and with it a lookup of this inode.
    Made {
        /// The inode.
        ino: u64,
        /// Of its number.
        generation: u64,
    },
    /// What it asked for.
    Changed,
}

/// A time as layers have it: seconds and nanoseconds.
pub type Moment = (i64, u32);

/// A change of names on the disk: one step there. Inode numbers of the upper tell whether it has happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Intent<'a> {
    /// An object gets a name where none shows.
    Make {
        /// Where.
        #[serde(borrow)]
        link: LinkRecord<'a>,
        /// The object, in the upper.
        object: u64,
    },
    /// A copy of a lower inode gets the name of that.
    CopyUp {
        /// Which inode of the view.
        ino: u64,
        /// Its name.
        #[serde(borrow)]
        link: LinkRecord<'a>,
        /// The copy, in the upper.
        object: u64,
        /// The kernel reads the lower's file at this moment.
        busy: bool,
        /// The copy becomes an inode of its own.
        split: bool,
        /// Access and change time that the directory keeps.
        times: (Moment, Moment),
    },
    /// A name is removed.
    Remove {
        /// The name.
        #[serde(borrow)]
        link: LinkRecord<'a>,
        /// What the upper has there.
        object: Option<u64>,
        /// The inode, if it is known.
        ino: Option<u64>,
    },
    /// A name is moved over another, or to where none is; or two are exchanged.
    Move {
        /// From where.
        #[serde(borrow)]
        from: LinkRecord<'a>,
        /// To where.
        #[serde(borrow)]
        to: LinkRecord<'a>,
        /// What the upper has at `from`.
        object: u64,
        /// The inode at `from`, if it is known, and where the lower has a directory that it shows.
        #[serde(borrow)]
        source: (Option<u64>, Option<Path<'a>>),
        /// The inode at `to` likewise.
        #[serde(borrow)]
        target: (Option<u64>, Option<Path<'a>>),
        /// Both names stay.
        exchange: bool,
        /// One of them is a directory's.
        directories: bool,
    },
}

/// What is known of the union that is to be resumed.
#[derive(Clone, Debug, Default)]
pub struct Past<'a> {
    /// All inodes but the root.
    pub nodes: Vec<(u64, NodeRecord<'a>)>,
    /// Numbers of inodes that are not known but have names, with the inodes that they belong to.
    pub reserved: Vec<(u64, u64)>,
    /// The highest generation that was given.
    pub generations: u64,
    /// All open handles: number, inode, and whether it is the lower's file.
    pub handles: Vec<(Handle, Ino, bool)>,
    /// The highest handle that was given.
    pub last_handle: u64,
    /// Intents of which is not known whether they were carried out, by their numbers.
    pub intents: Vec<(u64, Intent<'a>)>,
}

/// A name, as it is remembered.
pub(super) fn link(parent: Ino, name: &Name) -> LinkRecord<'_> {
    (parent.0, Bytes::new(name.as_bytes()))
}

/// A time, as it is remembered.
pub(super) fn moment(time: Timespec) -> Moment {
    (time.seconds, time.nanoseconds)
}

/// What a request has got that made an entry.
pub(super) fn made(entry: &Entry) -> Done {
    Done::Made { ino: entry.attr.ino.0, generation: entry.generation.0 }
}

/// The inodes of the upper that were kept open ([`Recorder::hold`]).
pub type HeldOpen = HashMap<Ino, OwnedFd>;

/// An intent that was told, until it is said what came of it; dropped, it was given up.
pub(super) struct Intending<'a> {
    recorder: Option<(&'a Arc<dyn Recorder>, u64)>,
}

impl Intending<'_> {
    /// Its number, if it was told.
    pub(super) fn id(&self) -> Option<u64> {
        self.recorder.map(|(_, id)| id)
    }

    /// What came of it was told already.
    pub(super) fn settled(mut self) {
        self.recorder = None;
    }

    /// It was carried out, and the table knows.
    pub(super) fn done(mut self, done: Option<Done>) {
        if let Some((recorder, id)) = self.recorder.take() {
            recorder.note(&[Event::Settled { id, done }]);
        }
    }
}

impl Drop for Intending<'_> {
    fn drop(&mut self) {
        if let Some((recorder, id)) = self.recorder.take() {
            recorder.note(&[Event::Settled { id, done: None }]);
        }
    }
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Tells what is about to be done to names, whose directories' locks are held; `intent` is asked if somebody listens.
    pub(super) fn intend<'i>(&self, intent: impl FnOnce() -> Outcome<Intent<'i>>) -> Outcome<Intending<'_>> {
        let Some(recorder) = &self.recorder else { return Ok(Intending { recorder: None }) };
        let intent = intent()?;
        let id = recorder.next_intent();
        recorder.note(&[Event::Intends { id, intent }]);
        recorder.secure();
        Ok(Intending { recorder: Some((recorder, id)) })
    }

    /// Has an object of the upper kept open that is about to lose a name, if that is its last and the kernel may still ask for
    /// it: a directory somebody is in, a file somebody has open.
    pub(super) fn hold(&self, ino: Option<Ino>, object: Option<&U::Object>) {
        let (Some(recorder), Some(ino), Some(object)) = (&self.recorder, ino, object) else { return };
        let wanted =
            self.table.lock().get(ino).is_ok_and(|node| node.outlives_its_name(self.passes_through()));
        if wanted && let Some(descriptor) = self.upper.as_ref().and_then(|upper| upper.descriptor(object)) {
            recorder.hold(ino, descriptor);
        }
    }

    /// Has an object of the upper kept open that an inode without a name of its own goes on with. Another may be kept for
    /// it: a copy of which a process that was killed could not tell any more.
    pub(super) fn hold_always(&self, ino: Ino, object: &U::Object) {
        let Some(recorder) = &self.recorder else { return };
        recorder.let_go(ino);
        if let Some(descriptor) = self.upper.as_ref().and_then(|upper| upper.descriptor(object)) {
            recorder.hold(ino, descriptor);
        }
    }

    /// Tells of a change that concerns no inode's state.
    pub(super) fn note(&self, events: &[Event<'_>]) {
        if let Some(recorder) = &self.recorder {
            recorder.note(events);
        }
    }
}
