//! A union whose process is killed and followed by another, as its client sees it: a request that was not answered is
//! asked again, as the kernel and the FUSE side do it (`fuse::Recorder`, `fuse::adapter`).

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, RwLock};

use crate::support::effort::nightly;
use nixview::layer::fault::{Change, FaultUpper, Faults};
use nixview::union::record::Done;
use nixview::union::{Options, UnionFs};
use nixview::vfs::{
    Attr, Caller, DirEntry, Entry, Errno, Error, FileKind, Flow, Generation, Handle, Ino, Name, OpenFlags,
    Opened, RenameMode, Result, SeekTarget, SetAttr, StatFs, Vfs, XattrMode,
};

use super::notes::{Got, Known, Notes};
use super::{Counted, Disk, unread};

/// How many names a listing answers at a time.
const BATCH: usize = 3;

/// When a process is killed; counted from its start, and in changes and requests of [`Client::armed`] times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// Before the n-th change of the upper, from 0.
    Change(u64),
    /// When the n-th request is done, before its answer is given, and before what it has noted is secured.
    Answer(u64),
    /// The same, after it is secured.
    Secured(u64),
}

/// A kill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kill {
    pub at: At,
    /// How many frames are known that were noted and not secured.
    pub known: usize,
}

/// All moments at which a process can be killed that makes these changes and gives so many answers.
pub fn moments(changes: Range<u64>, answers: u64) -> impl Iterator<Item = At> {
    changes.map(At::Change).chain((0..answers).flat_map(|n| [At::Answer(n), At::Secured(n)]))
}

/// The last of several kills; at night all of them, which takes about twice as long.
pub(crate) fn some_of<T>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    if !nightly() {
        all.drain(..all.len().saturating_sub(1));
    }
    all
}

/// The kills that follow one at this moment, of the process that goes on, which asks the same again.
pub fn again(at: At) -> impl Iterator<Item = [Kill; 2]> {
    let seconds: &[_] = match at {
        At::Change(_) => &[(At::Change(0), 0), (At::Answer(0), 0), (At::Answer(0), usize::MAX)],
        At::Answer(_) => &[(At::Answer(0), usize::MAX)],
        At::Secured(_) => &[(At::Answer(0), 0)],
    };
    let first = Kill { at, known: usize::MAX };
    seconds.iter().map(move |(at, known)| [first, Kill { at: *at, known: *known }])
}

type Fs<D> = UnionFs<<D as Disk>::L, FaultUpper<<D as Disk>::U>>;

struct State {
    kills: VecDeque<Kill>,
    faults: Arc<Faults>,
    armed: bool,
    /// Requests that this process has answered while armed.
    answers: u64,
    requests: u64,
    /// What the client knows: lookups, and the generation that it was told.
    known: HashMap<Ino, (u64, Generation)>,
    tally: Tally,
}

/// What has happened.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    pub runs: usize,
    /// How often another process went on.
    pub resumes: usize,
    /// The changes that kills prevented.
    pub ended_at: HashMap<Change, usize>,
    /// The most frames that a kill found not secured.
    pub unsecured: usize,
    /// Requests that were asked again and had been carried out.
    pub made: usize,
    pub changed: usize,
    /// Lookups and handles that were taken back.
    pub taken_back: usize,
    /// Intents that a process which went on found not settled.
    pub intents: usize,
}

impl Tally {
    /// Adds what has happened in a run.
    pub fn add(&mut self, run: &Self) {
        self.runs += 1;
        self.resumes += run.resumes;
        self.unsecured = self.unsecured.max(run.unsecured);
        self.made += run.made;
        self.changed += run.changed;
        self.taken_back += run.taken_back;
        self.intents += run.intents;
        for (change, count) in &run.ended_at {
            *self.ended_at.entry(*change).or_default() += count;
        }
    }
}

/// The client's side.
pub struct Client<'d, D: Disk> {
    disk: &'d D,
    options: Options,
    pub notes: Arc<Notes>,
    fs: RwLock<Option<Fs<D>>>,
    state: Mutex<State>,
}

/// A request in the hands of a process.
#[derive(Default)]
struct Turn {
    got: Got,
}

impl Turn {
    fn made(&self, fs: &impl Vfs) -> Option<Result<Entry>> {
        let (ino, generation) = self.got.made()?;
        Some(fs.getattr(ino, None).map(|attr| Entry { attr, generation }))
    }

    fn is_done(&self) -> bool {
        self.got.done == Some(Done::Changed)
    }
}

/// What an inode is to the client.
#[derive(PartialEq, Debug)]
struct Seen {
    attr: std::result::Result<Attr, Errno>,
    content: std::result::Result<Vec<u8>, Errno>,
    names: Vec<(Name, Ino, Generation)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    parent: std::result::Result<Ino, Errno>,
}

impl<'d, D: Disk + Sync> Client<'d, D> {
    pub fn new(disk: &'d D, options: Options, notes: Arc<Notes>, kills: &[Kill]) -> Self {
        let mut state = State {
            kills: kills.iter().copied().collect(),
            faults: Faults::none(),
            armed: false,
            answers: 0,
            requests: 0,
            known: HashMap::new(),
            tally: Tally::default(),
        };
        let faults = state.next_life();
        notes.live(faults.clone());
        let upper = FaultUpper::new(disk.upper(), faults);
        let fs = UnionFs::new(disk.lower(), Some(upper), options).unwrap().recorded(notes.clone());
        Self { disk, options, notes, fs: RwLock::new(Some(fs)), state: Mutex::new(state) }
    }

    /// From here on requests count for kills, or not.
    pub fn armed(&self, armed: bool) {
        self.state.lock().unwrap().armed = armed;
    }

    pub fn tally(&self) -> Tally {
        self.state.lock().unwrap().tally.clone()
    }

    /// How many changes were made, and how many requests answered, in the life of the process of now.
    pub fn count(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.faults.changes(), state.answers)
    }

    fn with<T>(&self, f: impl FnOnce(&Fs<D>) -> T) -> T {
        f(self.fs.read().unwrap().as_ref().unwrap())
    }

    /// Asks, and asks again until there is an answer that no kill prevents.
    fn ask<T>(&self, logic: impl Fn(&Turn, &Fs<D>) -> Result<T>) -> Result<T> {
        let request = {
            let mut state = self.state.lock().unwrap();
            state.requests += 1;
            state.requests
        };
        self.notes.begin(request);
        let mut answer = self.with(|fs| logic(&Turn::default(), fs));
        while self.is_killed() {
            drop(answer);
            self.go_on().unwrap_or_else(|error| panic!("the next process does not start: {error}"));
            self.notes.begin(request);
            answer = self.with(|fs| logic(&self.turn(request, fs), fs));
        }
        answer
    }

    /// Secures what a request has noted, unless the process is killed now.
    fn is_killed(&self) -> bool {
        use nixview::union::record::Recorder;
        let mut state = self.state.lock().unwrap();
        let number = state.answers;
        state.answers += u64::from(state.armed);
        let due = state.kills.front().copied().filter(|_| state.armed);
        let killed = state.faults.crashed() || due.is_some_and(|kill| kill.at == At::Answer(number));
        if !killed {
            self.notes.secure();
        }
        let killed = killed || due.is_some_and(|kill| kill.at == At::Secured(number));
        if killed {
            state.die(&self.notes);
        }
        killed
    }

    /// Starts the process that follows one that was killed.
    fn go_on(&self) -> std::result::Result<(), std::io::Error> {
        loop {
            drop(self.fs.write().unwrap().take());
            let frames = self.notes.frames();
            let known = Known::read(&frames);
            let faults = {
                let mut state = self.state.lock().unwrap();
                state.tally.resumes += 1;
                state.tally.intents += known.intents();
                state.next_life()
            };
            self.notes.live(faults.clone());
            let upper = Some(FaultUpper::new(self.disk.upper(), faults.clone()));
            let (lower, held) = (self.disk.lower(), self.notes.held());
            let resumed =
                UnionFs::resume(lower, upper, self.options, self.notes.clone(), &known.past(), held);
            if faults.crashed() {
                self.state.lock().unwrap().die(&self.notes);
                continue;
            }
            *self.fs.write().unwrap() = Some(resumed?);
            return Ok(());
        }
    }

    /// Takes back what a request had got and the client does not know of.
    fn turn(&self, request: u64, fs: &Fs<D>) -> Turn {
        let frames = self.notes.frames();
        let (got, handles) = Known::read(&frames).of_request(request);
        self.notes.taken_back(request);
        let lookups = got.lookups();
        {
            let tally = &mut self.state.lock().unwrap().tally;
            tally.taken_back += handles.len() + lookups.len();
            tally.made += usize::from(got.made().is_some());
            tally.changed += usize::from(got.done == Some(Done::Changed));
        }
        for (ino, handle) in handles {
            fs.release(ino, handle);
        }
        for (ino, count) in lookups {
            fs.forget(ino, count);
        }
        Turn { got }
    }

    /// The answer tells the client of an inode.
    fn told(&self, entry: &Entry) {
        let known = &mut self.state.lock().unwrap().known;
        let (count, generation) = known.entry(entry.attr.ino).or_insert((0, entry.generation));
        *count += 1;
        assert_eq!(*generation, entry.generation, "{}: a known inode has one generation", entry.attr.ino);
    }

    fn entry(&self, answer: Result<Entry>) -> Result<Entry> {
        if let Ok(entry) = &answer {
            self.told(entry);
        }
        answer
    }

    /// What is known must be what is noted.
    pub fn check(&self) -> std::result::Result<(), String> {
        let frames = self.notes.frames();
        let known = Known::read(&frames);
        let noted = (known.nodes.len() + 1, known.handles.len(), known.intents());
        let (inodes, handles) = (self.known_inodes(), self.open_handles());
        if noted != (inodes, handles, 0) {
            return Err(format!("{noted:?} noted inodes, handles, intents; there are {inodes}, {handles}"));
        }
        for ino in self.notes.held().keys() {
            if !known.nodes.contains_key(&ino.0) {
                return Err(format!("{ino} is kept open, and not known"));
            }
        }
        for (ino, (count, _)) in &self.state.lock().unwrap().known {
            let noted = known.nodes.get(&ino.0).map(|node| node.lookups);
            if *ino != Ino::ROOT && noted != Some(*count) {
                return Err(format!("{ino}: {noted:?} lookups are noted, the client has {count}"));
            }
        }
        Ok(())
    }

    /// The process is killed between two requests, and another goes on: the client must see no difference.
    pub fn resume(&self) -> std::result::Result<(), String> {
        self.check()?;
        let frames = self.notes.frames();
        let known = Known::read(&frames);
        let before = self.seen();
        let open = self.seen_open(&known);
        let counts = (self.known_inodes(), self.open_handles());
        self.state.lock().unwrap().die(&self.notes);
        self.go_on().map_err(|error| error.to_string())?;
        self.check()?;
        let after = self.seen();
        for (ino, before) in &before {
            let after = &after[ino];
            if before != after && !(self.may_be_lost(*ino, &known) && after.attr == Err(Errno::ESTALE)) {
                return Err(format!("{ino} was {before:?}, is {after:?}"));
            }
        }
        let after = self.seen_open(&known);
        if open != after {
            return Err(format!("the open files were {open:?}, are {after:?}"));
        }
        let now = (self.known_inodes(), self.open_handles());
        if counts == now { Ok(()) } else { Err(format!("{counts:?} inodes and handles were, {now:?} are")) }
    }

    /// An inode of the upper that lost its last name while nobody had it open, where the kernel opens by request.
    fn may_be_lost(&self, ino: Ino, known: &Known<'_>) -> bool {
        use nixview::union::Io;
        use nixview::union::record::Source;
        let node = &known.nodes[&ino.0];
        let open = known.handles.values().any(|(of, _)| *of == ino.0);
        self.options.io == Io::Passthrough
            && node.links.is_empty()
            && node.source != Source::Lower
            && node.kind != FileKind::Directory.mode_bits()
            && !open
    }

    /// Inodes of which the kernel keeps nothing: files without a name that nobody has open, where it opens by request.
    pub fn evictable(&self) -> Vec<Ino> {
        let frames = self.notes.frames();
        let known = Known::read(&frames);
        let inos = known.nodes.keys().map(|ino| Ino(*ino));
        inos.filter(|ino| self.may_be_lost(*ino, &known)).collect()
    }

    fn seen(&self) -> HashMap<Ino, Seen> {
        let inos: Vec<Ino> = self.state.lock().unwrap().known.keys().copied().collect();
        self.with(|fs| inos.into_iter().map(|ino| (ino, see(fs, ino))).collect())
    }

    fn seen_open(&self, known: &Known<'_>) -> Vec<(u64, std::result::Result<Attr, Errno>, Vec<u8>)> {
        let see = |(handle, (ino, _)): (&u64, &(u64, bool))| {
            let (ino, open) = (Ino(*ino), Handle(*handle));
            self.with(|fs| {
                let attr = fs.getattr(ino, Some(open)).map(unread).map_err(|e| e.errno());
                (*handle, attr, read(fs, ino, Some(open)).unwrap_or_default())
            })
        };
        known.handles.iter().map(see).collect()
    }
}

impl State {
    /// The faults of the next process.
    fn next_life(&mut self) -> Arc<Faults> {
        self.answers = 0;
        self.faults = match self.kills.front().map(|kill| kill.at) {
            Some(At::Change(n)) => Faults::crash_at(n),
            _ => Faults::none(),
        };
        self.faults.clone()
    }

    /// The process is killed, by the next of the kills if it is due, else with all known that was secured.
    fn die(&mut self, notes: &Notes) {
        if let Some(change) = self.faults.ended_at() {
            *self.tally.ended_at.entry(change).or_default() += 1;
        }
        let kill = self.kills.pop_front();
        let unsecured = notes.kill(kill.map_or(0, |kill| kill.known));
        self.tally.unsecured = self.tally.unsecured.max(unsecured);
    }
}

fn read(fs: &impl Vfs, ino: Ino, handle: Option<Handle>) -> std::result::Result<Vec<u8>, Errno> {
    let mut content = vec![0; 4096];
    let got = fs.read(ino, handle, 0, &mut content).map_err(|e| e.errno())?;
    content.truncate(got);
    Ok(content)
}

fn see(fs: &impl Vfs, ino: Ino) -> Seen {
    let attr = fs.getattr(ino, None).map(unread).map_err(|e| e.errno());
    let mut names = Vec::new();
    let content = match attr.map(|attr| attr.kind) {
        Ok(FileKind::Regular) => read(fs, ino, None),
        Ok(FileKind::Symlink) => fs.readlink(ino).map_err(|e| e.errno()),
        Ok(FileKind::Directory) => {
            let mut sink = |entry: &DirEntry| {
                names.push((entry.name.clone(), entry.entry.attr.ino, entry.entry.generation));
                Flow::Continue
            };
            fs.readdir(ino, 0, false, &mut sink).map(|()| Vec::new()).map_err(|e| e.errno())
        }
        _ => Ok(Vec::new()),
    };
    let xattrs = fs.listxattr(ino).unwrap_or_default();
    let xattrs = xattrs.into_iter().map(|name| {
        let value = fs.getxattr(ino, &name).unwrap_or_default();
        (name, value)
    });
    let parent = fs.parent(ino).map_err(|e| e.errno());
    Seen { attr, content, names, xattrs: xattrs.collect(), parent }
}

impl<D: Disk + Sync> Counted for Client<'_, D> {
    fn known_inodes(&self) -> usize {
        self.with(UnionFs::known_inodes)
    }

    fn open_handles(&self) -> usize {
        self.with(UnionFs::open_handles)
    }

    fn reads_lower(&self, handle: Handle) -> bool {
        let frames = self.notes.frames();
        Known::read(&frames).handles.get(&handle.0).is_some_and(|(_, lower)| *lower)
    }
}

impl<D: Disk + Sync> Vfs for Client<'_, D> {
    fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Entry>> {
        let found = self.ask(|_, fs| fs.lookup(parent, name))?;
        if let Some(entry) = &found {
            self.told(entry);
        }
        Ok(found)
    }

    /// Nobody waits for an answer: here it is not lost.
    fn forget(&self, ino: Ino, count: u64) {
        use nixview::union::record::Recorder;
        {
            let known = &mut self.state.lock().unwrap().known;
            let left = known.get(&ino).map_or(0, |(all, _)| all - count);
            if left == 0 {
                known.remove(&ino);
            } else if let Some((all, _)) = known.get_mut(&ino) {
                *all = left;
            }
        }
        self.notes.begin(0);
        self.with(|fs| fs.forget(ino, count));
        self.notes.secure();
    }

    fn getattr(&self, ino: Ino, handle: Option<Handle>) -> Result<Attr> {
        self.ask(|_, fs| fs.getattr(ino, handle))
    }

    fn setattr(&self, caller: Caller, ino: Ino, handle: Option<Handle>, changes: &SetAttr) -> Result<Attr> {
        self.ask(|_, fs| fs.setattr(caller, ino, handle, changes))
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.ask(|_, fs| fs.readlink(ino))
    }

    fn keeps_access_lists(&self) -> bool {
        self.with(Vfs::keeps_access_lists)
    }

    fn mknod(&self, caller: Caller, parent: Ino, name: &Name, mode: u32, rdev: u64) -> Result<Entry> {
        let make = |fs: &Fs<D>| fs.mknod(caller, parent, name, mode, rdev);
        self.entry(self.ask(|turn, fs| turn.made(fs).unwrap_or_else(|| make(fs))))
    }

    fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, permissions: u16) -> Result<Entry> {
        let make = |fs: &Fs<D>| fs.mkdir(caller, parent, name, permissions);
        self.entry(self.ask(|turn, fs| turn.made(fs).unwrap_or_else(|| make(fs))))
    }

    fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry> {
        let make = |fs: &Fs<D>| fs.symlink(caller, parent, name, target);
        self.entry(self.ask(|turn, fs| turn.made(fs).unwrap_or_else(|| make(fs))))
    }

    fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry> {
        let make = |fs: &Fs<D>| fs.link(ino, parent, name);
        self.entry(self.ask(|turn, fs| turn.made(fs).unwrap_or_else(|| make(fs))))
    }

    fn unlink(&self, parent: Ino, name: &Name) -> Result<()> {
        self.ask(|turn, fs| if turn.is_done() { Ok(()) } else { fs.unlink(parent, name) })
    }

    fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        self.ask(|turn, fs| if turn.is_done() { Ok(()) } else { fs.rmdir(parent, name) })
    }

    fn rename(&self, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Result<()> {
        self.ask(|turn, fs| if turn.is_done() { Ok(()) } else { fs.rename(from, to, mode) })
    }

    fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        let created = self.ask(|turn, fs| match turn.made(fs) {
            None => fs.create(caller, parent, name, permissions, flags),
            Some(made) => {
                let made = made?;
                match fs.open(made.attr.ino, OpenFlags(flags.0 & !(libc::O_CREAT | libc::O_EXCL))) {
                    Ok(opened) => Ok((made, opened)),
                    Err(error) => {
                        fs.forget(made.attr.ino, 1);
                        Err(error)
                    }
                }
            }
        })?;
        self.told(&created.0);
        Ok(created)
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        self.ask(|_, fs| fs.open(ino, flags))
    }

    fn read(&self, ino: Ino, handle: Option<Handle>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = buffer.len();
        let content = self.ask(|_, fs| {
            let mut content = vec![0; size];
            let got = fs.read(ino, handle, offset, &mut content)?;
            content.truncate(got);
            Ok(content)
        })?;
        buffer[..content.len()].copy_from_slice(&content);
        Ok(content.len())
    }

    fn write(&self, ino: Ino, handle: Option<Handle>, offset: u64, data: &[u8]) -> Result<usize> {
        self.ask(|_, fs| fs.write(ino, handle, offset, data))
    }

    fn is_open(&self, handle: Handle) -> bool {
        self.with(|fs| fs.is_open(handle))
    }

    fn release(&self, ino: Ino, handle: Handle) {
        let released = self.ask(|_, fs| {
            if fs.is_open(handle) {
                fs.release(ino, handle);
            }
            Ok(())
        });
        released.unwrap();
    }

    fn fsync(&self, ino: Ino, handle: Option<Handle>, data_only: bool) -> Result<()> {
        self.ask(|_, fs| fs.fsync(ino, handle, data_only))
    }

    fn fsyncdir(&self, ino: Ino) -> Result<()> {
        self.ask(|_, fs| fs.fsyncdir(ino))
    }

    fn readdir(
        &self,
        ino: Ino,
        after: u64,
        lookups: bool,
        sink: &mut dyn FnMut(&DirEntry) -> Flow,
    ) -> Result<()> {
        let entries = self.ask(|_, fs| {
            let mut entries: Vec<DirEntry> = Vec::new();
            fs.readdir(ino, after, lookups, &mut |entry| {
                if entries.len() == BATCH {
                    return Flow::Full;
                }
                entries.push(entry.clone());
                Flow::Continue
            })?;
            Ok(entries)
        })?;
        for entry in &entries {
            if lookups {
                self.told(&entry.entry);
            }
            assert_eq!(sink(entry), Flow::Continue, "who lists takes as many as are answered");
        }
        Ok(())
    }

    fn parent(&self, ino: Ino) -> Result<Ino> {
        self.ask(|_, fs| fs.parent(ino))
    }

    fn statfs(&self) -> Result<StatFs> {
        self.ask(|_, fs| fs.statfs())
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.ask(|_, fs| fs.getxattr(ino, name))
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.ask(|_, fs| fs.listxattr(ino))
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.ask(|turn, fs| {
            // What fails anyway is not begun.
            let absent = |errno| errno == Errno::ENODATA;
            if mode == XattrMode::Create && fs.getxattr(ino, name).is_err_and(|e| absent(e.errno())) {
                self.notes.start();
            }
            match fs.setxattr(ino, name, value, mode) {
                Err(error) if turn.got.started && error.errno() == Errno::EEXIST => {
                    if fs.getxattr(ino, name)? == value { Ok(()) } else { Err(error) }
                }
                answer => answer,
            }
        })
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.ask(|turn, fs| {
            if fs.getxattr(ino, name).is_ok() {
                self.notes.start();
            }
            match fs.removexattr(ino, name) {
                Err(error) if turn.got.started && error.errno() == Errno::ENODATA => Ok(()),
                answer => answer,
            }
        })
    }

    fn fallocate(&self, ino: Ino, handle: Option<Handle>, mode: i32, offset: u64, length: u64) -> Result<()> {
        self.ask(|_, fs| fs.fallocate(ino, handle, mode, offset, length))
    }

    fn lseek(&self, ino: Ino, handle: Option<Handle>, offset: u64, target: SeekTarget) -> Result<u64> {
        self.ask(|_, fs| fs.lseek(ino, handle, offset, target))
    }
}

/// What an answer is without what it was of.
pub fn errno<T>(answer: Result<T>) -> std::result::Result<T, Errno> {
    answer.map_err(|error: Error| error.errno())
}
