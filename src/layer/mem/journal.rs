//! What a power cut leaves of a layer in memory: every change is kept, with what was made durable of them.
//!
//! The disk that is imitated is as bad as a file system with a journal of its metadata may be (the documentation of
//! ext4's `data=ordered`, of xfs and of btrfs's log of syncs), and no worse:
//!
//! - a change of names is one step, also one of two directories; those of one directory happen in order;
//! - a name brings the metadata (owner, mode, attributes, marks) that its inode and its directory had by then, and no
//!   content;
//! - moving a directory, or removing one, comes after all that was done to names before;
//! - content that was not synced is, byte by byte, what it was at any moment since the last sync, or zeros where it was
//!   shorter at any of them; the length is that of any of them.
//!
//! [`Order`] says what more is promised.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Body, Content, Inode, MemLayer, MemObject};
use crate::vfs::{FileKind, Name};

/// In which order a disk keeps what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Names and metadata as they were at one moment: a sync of anything brings all that came before it.
    Journal,
    /// Whatever the rules of the module allow: a sync brings what it names, and of directories alone what that needs.
    Loose,
}

/// One change that was asked of the disk.
#[derive(Clone, Debug)]
enum Change {
    /// Names of directories, by inode number, and what they stand for from now on: all or none.
    Names(Vec<(u64, Name, Option<MemObject>)>),
    /// All metadata of an inode, as it is from now on.
    Metadata(u64, Box<Body>),
    /// The content of a file, as it is from now on.
    Data(u64, Vec<u8>),
}

#[derive(Clone, Debug)]
struct Record {
    change: Change,
    durable: bool,
}

/// All changes of a layer since it was empty. A leaf among the locks.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Vec<Record>>);

impl Journal {
    fn add(&self, change: Change) {
        self.0.lock().push(Record { change, durable: false });
    }

    /// Notes names that changed in one step. The lock on names is held.
    pub(super) fn names(&self, changed: &[(&MemObject, &Name, Option<&MemObject>)]) {
        let names = changed.iter().map(|(dir, name, to)| (dir.0.ino, (*name).clone(), to.cloned()));
        self.add(Change::Names(names.collect()));
        for (dir, _, _) in changed {
            self.metadata(dir);
        }
    }

    /// Notes metadata that changed.
    pub(super) fn metadata(&self, object: &MemObject) {
        let body = object.0.body.lock().clone();
        self.add(Change::Metadata(object.0.ino, Box::new(body)));
    }

    /// Notes content that changed, and the times that changed with it.
    pub(super) fn data(&self, object: &MemObject) {
        let content = match &object.0.body.lock().content {
            Content::File(data) => data.clone(),
            _ => return,
        };
        self.add(Change::Data(object.0.ino, content));
        self.metadata(object);
    }

    /// fsync(2) of a file or directory, or fdatasync(2) of a file.
    pub(super) fn sync(&self, ino: u64, data_only: bool) {
        for record in self.0.lock().iter_mut() {
            record.durable |= match &record.change {
                Change::Names(names) => !data_only && names.iter().any(|(dir, _, _)| *dir == ino),
                Change::Metadata(of, _) => !data_only && *of == ino,
                Change::Data(of, _) => *of == ino,
            };
        }
    }
}

impl Change {
    /// The directories whose names are concerned: those that change, and those that are moved or lose their name.
    fn directories(&self, names: &BTreeMap<(u64, Name), MemObject>) -> BTreeSet<u64> {
        let Self::Names(changed) = self else { return BTreeSet::new() };
        let mut concerned = BTreeSet::new();
        for (dir, name, _) in changed {
            concerned.insert(*dir);
            if let Some(old) = names.get(&(*dir, name.clone())).filter(|old| old.is_directory()) {
                concerned.insert(old.0.ino);
            }
        }
        concerned
    }
}

impl MemObject {
    fn is_directory(&self) -> bool {
        self.0.kind == FileKind::Directory
    }
}

/// Adds to `kept` all that it needs, as the rules of the module say.
fn close(records: &[Record], kept: &mut [bool]) {
    // What each record needs was asked for before it: so from the last to the first.
    let mut names = BTreeMap::new();
    let mut concerns = Vec::new();
    let mut moves = Vec::new();
    for record in records {
        concerns.push(record.change.directories(&names));
        let mut moved = false;
        if let Change::Names(changed) = &record.change {
            for (dir, name, to) in changed {
                let old = match to {
                    Some(to) => names.insert((*dir, name.clone()), to.clone()),
                    None => names.remove(&(*dir, name.clone())),
                };
                moved |= old.is_some_and(|old| old.is_directory());
            }
        }
        moves.push(moved);
    }
    let mut everything = false;
    let mut directories: BTreeSet<u64> = BTreeSet::new();
    let mut inodes: BTreeSet<u64> = BTreeSet::new();
    let all = records.iter().zip(kept).zip(concerns.iter().zip(&moves)).rev();
    for ((record, kept), (concerned, moved)) in all {
        *kept |= record.durable;
        match &record.change {
            Change::Names(changed) => {
                *kept |= everything || concerned.iter().any(|dir| directories.contains(dir));
                if *kept {
                    everything |= *moved;
                    directories.extend(concerned);
                    inodes.extend(concerned);
                    inodes.extend(changed.iter().filter_map(|(_, _, to)| to.as_ref().map(|o| o.0.ino)));
                }
            }
            Change::Metadata(ino, _) => *kept |= inodes.contains(ino),
            Change::Data(..) => {}
        }
        if let (true, Change::Metadata(ino, _)) = (*kept, &record.change) {
            inodes.insert(*ino);
        }
    }
}

/// The content that a file may have after its last sync, out of what it had since.
fn content(since: &[&Vec<u8>], choose: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut pick = || since.get(choose(since.len())).copied();
    let length = pick().map_or(0, Vec::len);
    (0..length).map(|at| pick().and_then(|data| data.get(at).copied()).unwrap_or(0)).collect()
}

impl MemLayer {
    /// Makes everything durable, as sync(2).
    pub fn sync_all(&self) {
        for record in self.tree.journal.0.lock().iter_mut() {
            record.durable = true;
        }
    }

    /// A disk as it may be found after the power failed now; this layer is not changed. `choose(n)` answers a number
    /// below `n`, and so which of the many disks that may be found it is; always 0 for as little as possible.
    #[must_use]
    pub fn after_power_cut(&self, order: Order, choose: &mut dyn FnMut(usize) -> usize) -> Self {
        let records = self.tree.journal.0.lock().clone();
        let mut kept = vec![false; records.len()];
        match order {
            Order::Journal => {
                let synced = records.iter().rposition(|record| record.durable).map_or(0, |last| last + 1);
                let end = synced + choose(records.len() - synced + 1);
                kept.iter_mut().take(end).for_each(|kept| *kept = true);
            }
            Order::Loose => {
                // From a few to most: both kinds of disks find defects.
                let share = choose(8);
                kept.iter_mut().for_each(|kept| *kept = choose(8) < share);
                close(&records, &mut kept);
            }
        }
        let disk = Self::new();
        let mut images = Images::default();
        for (record, kept) in records.iter().zip(&kept) {
            images.take(record, *kept);
        }
        images.restore(&disk, choose);
        disk.tree.next.store(self.tree.next.load(super::Ordering::SeqCst), super::Ordering::SeqCst);
        disk
    }
}

/// What a file holds that was never written.
static EMPTY: Vec<u8> = Vec::new();

/// What is found on the disk, by inode number.
#[derive(Default)]
struct Images<'r> {
    names: BTreeMap<u64, BTreeMap<Name, MemObject>>,
    metadata: BTreeMap<u64, &'r Body>,
    /// What the content was since the last sync.
    data: BTreeMap<u64, Vec<&'r Vec<u8>>>,
}

impl<'r> Images<'r> {
    fn take(&mut self, record: &'r Record, kept: bool) {
        match &record.change {
            Change::Names(changed) if kept => {
                for (dir, name, to) in changed {
                    let names = self.names.entry(*dir).or_default();
                    match to {
                        Some(to) => drop(names.insert(name.clone(), to.clone())),
                        None => drop(names.remove(name)),
                    }
                }
            }
            Change::Metadata(ino, body) if kept => drop(self.metadata.insert(*ino, body)),
            Change::Data(ino, data) => {
                let since = self.data.entry(*ino).or_insert_with(|| vec![&EMPTY]);
                if record.durable {
                    since.clear();
                }
                since.push(data);
            }
            _ => {}
        }
    }

    /// Fills an empty layer.
    fn restore(&self, disk: &MemLayer, choose: &mut dyn FnMut(usize) -> usize) {
        let mut made: HashMap<u64, MemObject> = HashMap::new();
        let mut todo = vec![disk.tree.root.clone()];
        made.insert(disk.tree.root.0.ino, disk.tree.root.clone());
        let mut restored = Vec::new();
        while let Some(at) = todo.pop() {
            let ino = at.0.ino;
            let old = &mut *at.0.body.lock();
            let nlink = old.nlink;
            if let Some(body) = self.metadata.get(&ino) {
                *old = (*body).clone();
            }
            old.nlink = nlink;
            match &mut old.content {
                Content::File(data) => {
                    *data = self.data.get(&ino).map_or_else(Vec::new, |since| content(since, choose));
                }
                Content::Directory(names) => {
                    names.clear();
                    for (name, object) in self.names.get(&ino).into_iter().flatten() {
                        let child = made.entry(object.0.ino).or_insert_with(|| {
                            let child = object.stand_in();
                            todo.push(child.clone());
                            child
                        });
                        names.insert(name.clone(), child.clone());
                    }
                }
                Content::Symlink(_) | Content::Special => {}
            }
            restored.push(at.clone());
        }
        // What is found is durable, and the links are those that are found.
        for at in &restored {
            let names: Vec<_> = match &at.0.body.lock().content {
                Content::Directory(names) => names.clone().into_iter().collect(),
                _ => Vec::new(),
            };
            for (name, child) in &names {
                child.0.body.lock().nlink += 1;
                disk.tree.journal.names(&[(at, name, Some(child))]);
            }
        }
        for at in &restored {
            disk.tree.journal.metadata(at);
            disk.tree.journal.data(at);
        }
        disk.sync_all();
    }
}

impl MemObject {
    /// The same inode on another disk, without a link.
    fn stand_in(&self) -> Self {
        let mut body = self.0.body.lock().clone();
        body.nlink = 0;
        Self(Arc::new(Inode {
            ino: self.0.ino,
            kind: self.0.kind,
            body: Mutex::new(body),
            descriptor: OnceLock::new(),
        }))
    }
}
