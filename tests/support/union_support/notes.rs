//! A recorder in memory: what a union tells, as bytes, until the process that tells is said to be killed.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nixview::layer::fault::Faults;
use nixview::union::record::{Done, Event, HeldOpen, Intent, NodeRecord, Past, Recorder};
use nixview::vfs::{Generation, Handle, Ino};
use serde::{Deserialize, Serialize};

/// What a recorder fails to do, to check that the tests find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    Intends,
    Settled,
    Node,
    Gone,
    Looked,
    Opened,
    Closed,
    Held,
    /// [`Recorder::secure`] does nothing before an answer is given.
    Secure,
    TakenBack,
}

impl Loss {
    pub const ALL: [Self; 10] = [
        Self::Intends,
        Self::Settled,
        Self::Node,
        Self::Gone,
        Self::Looked,
        Self::Opened,
        Self::Closed,
        Self::Held,
        Self::Secure,
        Self::TakenBack,
    ];

    fn of(event: &Event<'_>) -> Self {
        match event {
            Event::Node { .. } => Self::Node,
            Event::Gone { .. } => Self::Gone,
            Event::Looked { .. } => Self::Looked,
            Event::Opened { .. } => Self::Opened,
            Event::Closed { .. } => Self::Closed,
            Event::Intends { .. } => Self::Intends,
            Event::Settled { .. } => Self::Settled,
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Note<'a> {
    #[serde(borrow)]
    Union(Event<'a>),
    /// The request must not be carried out twice, and is about to be.
    Start,
    /// What this request had got and the client does not know of is taken back.
    TakenBack { request: u64 },
}

/// Notes that belong together, and the request that they are of; 0: of none.
#[derive(Clone)]
pub struct Frame {
    request: u64,
    notes: Vec<Vec<u8>>,
}

#[derive(Default)]
struct State {
    frames: Vec<Frame>,
    /// How many of them survive a kill.
    secured: usize,
    held: HashMap<Ino, OwnedFd>,
    request: u64,
    intents: u64,
    /// The process is dead: nothing that it still does is noted.
    dead: bool,
    faults: Option<Arc<Faults>>,
}

/// The recorder.
#[derive(Default)]
pub struct Notes {
    state: Mutex<State>,
    loss: Option<Loss>,
}

impl Notes {
    pub fn new(loss: Option<Loss>) -> Arc<Self> {
        Arc::new(Self { loss, ..Self::default() })
    }

    /// The state, if the process lives.
    fn alive(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap();
        let dead = state.dead || state.faults.as_ref().is_some_and(|faults| faults.crashed());
        (!dead).then_some(state)
    }

    fn add(&self, notes: &[Note<'_>]) {
        let Some(mut state) = self.alive() else { return };
        let notes = notes.iter().map(|note| postcard::to_stdvec(note).unwrap()).collect();
        let request = state.request;
        state.frames.push(Frame { request, notes });
    }

    /// What is noted from here on is of this request.
    pub fn begin(&self, request: u64) {
        self.state.lock().unwrap().request = request;
    }

    /// The request of now must not be carried out twice.
    pub fn start(&self) {
        self.add(&[Note::Start]);
        self.secure();
    }

    pub fn taken_back(&self, request: u64) {
        if self.loss != Some(Loss::TakenBack) {
            self.add(&[Note::TakenBack { request }]);
        }
    }

    /// The process is killed now. Of what it has noted and not secured, this many frames are known nevertheless;
    /// answers how many there were.
    pub fn kill(&self, known: usize) -> usize {
        let mut state = self.state.lock().unwrap();
        let open = state.frames.len() - state.secured;
        let kept = state.secured + known.min(open);
        state.frames.truncate(kept);
        state.secured = kept;
        state.dead = true;
        open
    }

    /// Another process goes on, whose upper has these faults.
    pub fn live(&self, faults: Arc<Faults>) {
        let mut state = self.state.lock().unwrap();
        state.dead = false;
        state.request = 0;
        state.faults = Some(faults);
    }

    pub fn frames(&self) -> Vec<Frame> {
        self.state.lock().unwrap().frames.clone()
    }

    /// The descriptors that are kept, for another process.
    pub fn held(&self) -> HeldOpen {
        let state = self.state.lock().unwrap();
        state.held.iter().map(|(ino, open)| (*ino, open.try_clone().unwrap())).collect()
    }
}

impl Recorder for Notes {
    fn note(&self, events: &[Event<'_>]) {
        let kept = events.iter().filter(|event| self.loss != Some(Loss::of(event)));
        let kept: Vec<Note<'_>> = kept.cloned().map(Note::Union).collect();
        if !kept.is_empty() {
            self.add(&kept);
        }
    }

    fn secure(&self) {
        if let Some(mut state) = self.alive()
            && self.loss != Some(Loss::Secure)
        {
            state.secured = state.frames.len();
        }
    }

    fn next_intent(&self) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.intents += 1;
        state.intents
    }

    fn hold(&self, ino: Ino, object: BorrowedFd<'_>) {
        if let Some(mut state) = self.alive()
            && self.loss != Some(Loss::Held)
        {
            state.held.entry(ino).or_insert_with(|| object.try_clone_to_owned().unwrap());
        }
    }

    fn let_go(&self, ino: Ino) {
        if let Some(mut state) = self.alive() {
            state.held.remove(&ino);
        }
    }
}

/// What a request has got.
#[derive(Clone, Default, Debug)]
pub struct Got {
    lookups: BTreeMap<u64, i64>,
    handles: Vec<u64>,
    pub done: Option<Done>,
    pub started: bool,
}

impl Got {
    /// What it made.
    pub fn made(&self) -> Option<(Ino, Generation)> {
        match self.done {
            Some(Done::Made { ino, generation }) => Some((Ino(ino), Generation(generation))),
            _ => None,
        }
    }

    /// Lookups that the client does not know of: one of what was made is given with the answer.
    pub fn lookups(&self) -> Vec<(Ino, u64)> {
        let made = self.made();
        let kept = |ino: u64| i64::from(made.is_some_and(|(made, _)| made.0 == ino));
        let taken = self.lookups.iter().map(|(ino, n)| (Ino(*ino), n - kept(*ino)));
        taken.filter(|(_, n)| *n > 0).map(|(ino, n)| (ino, n as u64)).collect()
    }
}

/// What the notes come to.
#[derive(Default, Debug)]
pub struct Known<'a> {
    pub nodes: BTreeMap<u64, NodeRecord<'a>>,
    pub handles: BTreeMap<u64, (u64, bool)>,
    reserved: BTreeMap<u64, u64>,
    intents: BTreeMap<u64, (u64, Intent<'a>)>,
    got: HashMap<u64, Got>,
    generation: u64,
    handle: u64,
}

impl<'a> Known<'a> {
    pub fn read(frames: &'a [Frame]) -> Self {
        let mut known = Self::default();
        for Frame { request, notes } in frames {
            for note in notes {
                match postcard::from_bytes(note).unwrap() {
                    Note::Union(event) => known.add(*request, event),
                    Note::Start => known.got(*request, |got| got.started = true),
                    Note::TakenBack { request } => known.got(request, |got| {
                        got.lookups.clear();
                        got.handles.clear();
                    }),
                }
            }
        }
        known
    }

    fn got(&mut self, request: u64, change: impl FnOnce(&mut Got)) {
        if request != 0 {
            change(self.got.entry(request).or_default());
        }
    }

    fn add(&mut self, request: u64, event: Event<'a>) {
        match event {
            Event::Node { ino, node } => {
                self.generation = self.generation.max(node.generation);
                self.nodes.insert(ino, node);
                self.reserved.remove(&ino);
            }
            Event::Gone { ino, holder } => {
                self.nodes.remove(&ino);
                self.reserved.extend(holder.map(|holder| (ino, holder)));
            }
            Event::Looked { ino, count } => {
                self.got(request, |got| *got.lookups.entry(ino).or_default() += count);
            }
            Event::Opened { handle, ino, lower } => {
                assert!(handle > self.handle, "handles count up");
                self.handles.insert(handle, (ino, lower));
                self.handle = handle;
                self.got(request, |got| got.handles.push(handle));
            }
            Event::Closed { handle } => drop(self.handles.remove(&handle)),
            Event::Intends { id, intent } => drop(self.intents.insert(id, (request, intent))),
            Event::Settled { id, done } => {
                let request = self.intents.remove(&id).map_or(request, |(request, _)| request);
                if done.is_some() {
                    self.got(request, |got| got.done = done);
                }
            }
        }
    }

    /// What a request has got, and which handles.
    pub fn of_request(&self, request: u64) -> (Got, Vec<(Ino, Handle)>) {
        let got = self.got.get(&request).cloned().unwrap_or_default();
        let open = |handle: &u64| Some((Ino(self.handles.get(handle)?.0), Handle(*handle)));
        let handles = got.handles.iter().filter_map(open).collect();
        (got, handles)
    }

    /// How many intents are not settled.
    pub fn intents(&self) -> usize {
        self.intents.len()
    }

    /// For [`nixview::union::UnionFs::resume`].
    pub fn past(&self) -> Past<'a> {
        let handles = self.handles.iter().map(|(handle, (ino, lower))| (Handle(*handle), Ino(*ino), *lower));
        Past {
            nodes: self.nodes.iter().map(|(ino, node)| (*ino, node.clone())).collect(),
            reserved: self.reserved.clone().into_iter().collect(),
            generations: self.generation,
            handles: handles.collect(),
            last_handle: self.handle,
            intents: self.intents.iter().map(|(id, (_, intent))| (*id, intent.clone())).collect(),
        }
    }
}
