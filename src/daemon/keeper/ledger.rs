//! What a server notes of its view, so that the next one can go on where it is killed.
//!
//! Notes are gathered, and written into [`Memory`] before anything is answered that depends on them. When there are many
//! more than are still true, they are written anew. If there is no memory for them, nothing is noted any more, and the
//! keeper is told that this server cannot be followed; the view goes on.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::link::{Link, Word};
use super::memory::{Log, Memory, begin_frame, end_frame};
use super::past::{Got, Note, Past};
use crate::fuse::{self, OpenFiles};
use crate::union::record::{self, Event, HeldOpen};
use crate::vfs::Ino;

/// Bytes of notes up to which nothing is written anew.
const SMALL: u64 = 1 << 20;

/// Bytes of notes that wait for an answer that depends on them: none does on what the kernel has forgotten, of which there
/// can be much.
const UNWRITTEN: usize = 4096;

thread_local! {
    /// The request that this thread works on, for the ledger of the process.
    static REQUEST: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };

    /// Something was noted of it.
    static NOTED: Cell<bool> = const { Cell::new(false) };
}

/// The notes of one server.
///
/// The locks of `working` and `before` may be taken under that of `written`, never the other way round.
pub(super) struct Ledger {
    written: Mutex<Written>,
    next_intent: AtomicU64,
    /// The requests that threads work on, or worked on last.
    working: Mutex<Vec<Arc<AtomicU64>>>,
    /// What requests had got from a server before this one.
    before: Mutex<Before>,
    link: Arc<Link>,
    held: Mutex<HashSet<Ino>>,
}

struct Written {
    /// `None` once there was no memory.
    log: Option<Log>,
    buffer: Vec<u8>,
    /// Length at which the log is written anew.
    limit: u64,
}

#[derive(Default)]
struct Before {
    got: HashMap<u64, Got>,
    handles: std::collections::BTreeMap<u64, (u64, bool)>,
    /// The requests of intents that are not settled yet.
    unsettled: HashMap<u64, u64>,
}

impl Ledger {
    /// A ledger for the first server of a view.
    ///
    /// # Errors
    /// Those of the memory.
    pub(super) fn first(memory: Memory, link: Arc<Link>) -> io::Result<Self> {
        let (log, _) = Log::open(memory)?;
        Ok(Self::new(log, 0, Before::default(), link, HashSet::new()))
    }

    /// A ledger for a further server, and `with` what is known from those before: of the union, and of the connection.
    ///
    /// # Errors
    /// Those of the memory; `InvalidData` if it holds no notes; what `with` answers.
    pub(super) fn next<T>(
        memory: Memory,
        link: Arc<Link>,
        held: &HeldOpen,
        with: impl FnOnce(Arc<Self>, &record::Past<'_>, &OpenFiles) -> io::Result<T>,
    ) -> io::Result<T> {
        let (mut log, bytes) = Log::open(memory)?;
        let past = Past::read(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let asked: HashSet<u64> = past.got.keys().copied().collect();
        log.compact(&past.write(&asked).map_err(io::Error::other)?)?;
        let before =
            Before { got: past.got.clone(), handles: past.handles.clone(), unsettled: past.unsettled() };
        let ledger = Self::new(log, past.intent, before, link, held.keys().copied().collect());
        with(Arc::new(ledger), &past.of_union(), &past.of_connection())
    }

    fn new(log: Log, intent: u64, before: Before, link: Arc<Link>, held: HashSet<Ino>) -> Self {
        let limit = limit(&log);
        Self {
            written: Mutex::new(Written { log: Some(log), buffer: Vec::new(), limit }),
            next_intent: AtomicU64::new(intent),
            working: Mutex::default(),
            before: Mutex::new(before),
            link,
            held: Mutex::new(held),
        }
    }

    fn request() -> u64 {
        REQUEST.with_borrow(|slot| slot.as_ref().map_or(0, |slot| slot.load(Ordering::Relaxed)))
    }

    /// Adds notes to what will be written, as one frame.
    fn add<'a>(&self, notes: impl Iterator<Item = Note<'a>>) {
        let request = Self::request();
        NOTED.set(true);
        let mut written = self.written.lock();
        if written.log.is_none() {
            return;
        }
        let start = begin_frame(&mut written.buffer, request);
        for note in notes {
            match postcard::to_extend(&note, std::mem::take(&mut written.buffer)) {
                Ok(buffer) => written.buffer = buffer,
                Err(error) => return self.lose(&mut written, &error),
            }
        }
        end_frame(&mut written.buffer, start);
        if written.buffer.len() > UNWRITTEN {
            self.write(&mut written);
        }
    }

    fn write(&self, written: &mut Written) {
        let Written { log: Some(log), buffer, limit: most } = &mut *written else { return };
        if buffer.is_empty() {
            return;
        }
        let mut done = log.write(buffer);
        buffer.clear();
        if done.is_ok() && log.length() > *most {
            done = self.compact(log);
            *most = limit(log);
        }
        if let Err(error) = done {
            self.lose(written, &error);
        }
    }

    fn compact(&self, log: &mut Log) -> io::Result<()> {
        let bytes = log.read()?;
        let past = Past::read(&bytes).map_err(io::Error::other)?;
        let mut asked: HashSet<u64> =
            self.working.lock().iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
        asked.extend(self.before.lock().got.keys());
        log.compact(&past.write(&asked).map_err(io::Error::other)?)
    }

    /// Nothing is noted from here on.
    fn lose(&self, written: &mut Written, error: &dyn std::fmt::Display) {
        tracing::error!(%error, "no memory for what another server would need: if this one dies, the view ends");
        written.log = None;
        written.buffer = Vec::new();
        self.link.tell(&Word::CannotBeFollowed, None);
    }
}

/// The length of a log that has become as long as this is worth to be written anew.
fn limit(log: &Log) -> u64 {
    (2 * log.length()).max(SMALL)
}

impl record::Recorder for Ledger {
    fn note(&self, events: &[Event<'_>]) {
        self.add(events.iter().cloned().map(Note::Union));
        for event in events {
            // What is found out about the intents of a server that is dead belongs to requests that are not here yet.
            if let Event::Settled { id, done } = event
                && Self::request() == 0
            {
                let mut before = self.before.lock();
                if let (Some(request), Some(done)) = (before.unsettled.remove(id), done) {
                    before.got.entry(request).or_default().finish(*done);
                }
            }
        }
    }

    fn secure(&self) {
        self.write(&mut self.written.lock());
    }

    fn next_intent(&self) -> u64 {
        self.next_intent.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn hold(&self, ino: Ino, object: BorrowedFd<'_>) {
        if self.held.lock().insert(ino) {
            self.link.tell(&Word::Hold { ino: ino.0 }, Some(object));
        }
    }

    fn let_go(&self, ino: Ino) {
        let mut held = self.held.lock();
        if !held.is_empty() && held.remove(&ino) {
            drop(held);
            self.link.tell(&Word::LetGo { ino: ino.0 }, None);
        }
    }
}

impl fuse::Recorder for Ledger {
    fn begin(&self, request: u64) {
        let last = REQUEST.with_borrow_mut(|slot| {
            let slot = slot.get_or_insert_with(|| {
                let slot = Arc::new(AtomicU64::new(0));
                self.working.lock().push(Arc::clone(&slot));
                slot
            });
            slot.swap(request, Ordering::Relaxed)
        });
        // A thread answers one request before it takes the next.
        if NOTED.get() && last != 0 {
            self.add(std::iter::once(Note::Answered { request: last }));
        }
        NOTED.set(false);
    }

    fn past(&self, request: u64) -> fuse::Past {
        let past = {
            let mut before = self.before.lock();
            let Before { got, handles, .. } = &mut *before;
            got.get_mut(&request).map(|got| got.take(handles))
        };
        let Some(past) = past else { return fuse::Past::default() };
        // First this, then the taking back: a kill in between costs memory, the other way round a lookup.
        self.add(std::iter::once(Note::TakenBack { request }));
        past
    }

    fn start(&self) {
        self.add(std::iter::once(Note::Start));
    }

    fn backed(&self, ino: Ino, id: u32) {
        self.add(std::iter::once(Note::Backed { ino: ino.0, id }));
    }

    fn unbacked(&self, ino: Ino) {
        self.add(std::iter::once(Note::Unbacked { ino: ino.0 }));
    }

    fn secure(&self) {
        self.write(&mut self.written.lock());
    }
}

/// The inodes that are kept open, for another owner in this process.
///
/// # Errors
/// As dup(2).
pub(super) fn clone_held(held: &HeldOpen) -> io::Result<HeldOpen> {
    held.iter().map(|(ino, open): (&Ino, &OwnedFd)| Ok((*ino, open.try_clone()?))).collect()
}
