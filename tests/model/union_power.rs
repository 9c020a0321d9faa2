//! The power fails at every change of random histories: what was synced is there, and everything else is what it was at
//! one of the moments that a disk may remember (`nixview::layer::mem::Order`).
//!
//! What may be found is worked out from the history of the plain tree and what was acknowledged:
//!
//! - a name, since its directory was last synced, is anything that it was;
//! - mode and attributes, since the file or directory was last synced, are those of one moment;
//! - each byte of a file, since it was last synced, is what it was at some moment, or zero where the file was shorter;
//! - on a disk that keeps the order of changes, the tree is as it was at one moment.
//!
//! What the view does by itself, such as a copy of a file of the lower, must not be seen in this: it is durable before
//! it shows, without anybody asking for it.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::support::effort::pick;
use crate::support::union_support::defect::{DefectDisk, UNSYNCED};
use crate::support::union_support::model::{Inode, LETTERS, Model, Op, Run, op};
use crate::support::union_support::{Disk, FaultDisk, MemDisk, Shown, View, options};
use nixview::layer::fault::Faults;
use nixview::layer::mem::{MemLayer, Order};
use nixview::union::{Io, Options};
use nixview::vfs::{FileKind, OpenFlags, Vfs};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    /// fsync(2), or fdatasync(2), of a file.
    Sync {
        of: Index,
        data_only: bool,
    },
    /// fsync(2) of a directory.
    SyncDir {
        of: Index,
    },
    /// A file and the directory that names it.
    Commit {
        of: Index,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // One change of the view an operation: what is a series of them has states in between.
    let single = op().prop_filter("one step", |op| !matches!(op, Op::Renew { .. } | Op::Remount));
    prop_oneof![
        8 => single.prop_map(Step::Do),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(of, data_only)| Step::Sync { of, data_only }),
        2 => any::<Index>().prop_map(|of| Step::SyncDir { of }),
        2 => any::<Index>().prop_map(|of| Step::Commit { of }),
    ]
}

/// The plain tree after each step, and the step at which parts of it were last acknowledged as durable.
#[derive(Clone)]
struct Facts {
    history: Vec<Model>,
    contents: HashMap<usize, usize>,
    metadata: HashMap<usize, usize>,
    names: HashMap<usize, usize>,
}

impl Facts {
    fn new(model: &Model) -> Self {
        let facts = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { history: vec![model.clone()], contents: facts.0, metadata: facts.1, names: facts.2 }
    }

    fn synced(&mut self, at: usize, data_only: bool) {
        let now = self.history.len() - 1;
        self.contents.insert(at, now);
        if !data_only {
            self.metadata.insert(at, now);
        }
    }

    fn synced_dir(&mut self, at: usize) {
        let now = self.history.len() - 1;
        self.names.insert(at, now);
        self.metadata.insert(at, now);
    }

    /// What an inode was since a sync, from the first moment on at which it existed.
    fn since(&self, synced: &HashMap<usize, usize>, at: usize) -> impl Iterator<Item = &Inode> {
        let from = synced.get(&at).copied().unwrap_or(0);
        self.history[from..].iter().filter_map(move |model| model.inodes.get(at))
    }

    /// Checks a directory that is found at a path, and all below it.
    fn check_names(&self, at: usize, path: &str, tree: &BTreeMap<String, Shown>) -> Result<(), String> {
        for name in LETTERS {
            let path = format!("{path}/{name}");
            let mut allowed: Vec<Option<usize>> =
                self.since(&self.names, at).map(|inode| inode.names.get(name).copied()).collect();
            allowed.dedup();
            let mut wrong = Vec::new();
            let fits = allowed.iter().any(|allowed| match (allowed, tree.get(&path)) {
                (None, None) => true,
                (Some(at), Some(shown)) => match self.check(*at, &path, shown, tree) {
                    Ok(()) => true,
                    Err(why) => {
                        wrong.push(why);
                        false
                    }
                },
                _ => false,
            });
            if !fits {
                return Err(format!("{path}: {:?} is none of {allowed:?}; {wrong:?}", tree.get(&path)));
            }
        }
        Ok(())
    }

    fn check(
        &self,
        at: usize,
        path: &str,
        shown: &Shown,
        tree: &BTreeMap<String, Shown>,
    ) -> Result<(), String> {
        let last = &self.history[self.history.len() - 1].inodes[at];
        if last.kind != shown.attr.kind {
            return Err(format!("{path} is no {:?}", last.kind));
        }
        if !self.since(&self.metadata, at).any(|inode| has_metadata(inode, shown)) {
            return Err(format!("{path}: its metadata was never {shown:?}"));
        }
        match last.kind {
            FileKind::Directory => self.check_names(at, path, tree),
            FileKind::Regular => {
                let since: Vec<&[u8]> =
                    self.since(&self.contents, at).map(|inode| &inode.content[..]).collect();
                let right = may_be(&shown.content, &since);
                if right { Ok(()) } else { Err(format!("{path}: {:?} of {since:?}", shown.content)) }
            }
            _ if shown.content == last.content => Ok(()),
            _ => Err(format!("{path}: its target is {:?}", shown.content)),
        }
    }

    /// Checks that all names and metadata are those of one moment.
    fn check_moment(&self, tree: &BTreeMap<String, Shown>) -> Result<(), String> {
        let is_moment = |model: &Model| {
            let paths = model.paths(|_| true);
            paths.len() == tree.len()
                && paths.iter().all(|path| {
                    let inode = &model.inodes[model.at(path).unwrap()];
                    tree.get(path).is_some_and(|s| s.attr.kind == inode.kind && has_metadata(inode, s))
                })
        };
        if self.history.iter().any(is_moment) { Ok(()) } else { Err(format!("at no moment: {tree:?}")) }
    }
}

fn has_metadata(inode: &Inode, shown: &Shown) -> bool {
    let permissions = inode.kind == FileKind::Symlink || inode.permissions == shown.attr.permissions;
    permissions && inode.xattrs == shown.xattrs
}

/// True for a content that the contents since the last sync explain.
fn may_be(content: &[u8], since: &[&[u8]]) -> bool {
    let shortest = since.iter().map(|data| data.len()).min().unwrap_or(0);
    let byte = |(at, byte): (usize, &u8)| {
        *byte == 0 && at >= shortest || since.iter().any(|data| data.get(at) == Some(byte))
    };
    since.iter().any(|data| data.len() == content.len()) && content.iter().enumerate().all(byte)
}

/// Disks that were found after power cuts.
type Found = Arc<Mutex<Vec<(Order, MemLayer)>>>;

/// Two disks, of all that may be found now.
fn cut(upper: &MemLayer, seed: &mut u64, found: &Found) {
    for order in [Order::Journal, Order::Loose] {
        let disk = upper.after_power_cut(order, &mut |below| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) as usize % below
        });
        found.lock().unwrap().push((order, disk));
    }
}

/// Runs a history, with power cuts before every change and after every step; answers how many disks were looked at.
fn power_cuts<D: Disk>(
    disk: &D,
    memory: &MemDisk,
    options: Options,
    steps: &[Step],
    seed: u64,
) -> Result<usize, String> {
    let found = Found::default();
    let (upper, found_by_hook, seed) = (memory.upper.clone(), found.clone(), Mutex::new(seed));
    let faults = Faults::watch(move |_| cut(&upper, &mut seed.lock().unwrap(), &found_by_hook));
    let faulty = FaultDisk { disk, faults };
    let mut run = Run::with(&faulty, options);
    let mut facts = Facts::new(&run.model);
    let mut looked_at = 0;
    for step in steps {
        let mut acknowledged = facts.clone();
        match step {
            Step::Do(op) => {
                run.step(op)?;
                run.compare().map_err(|e| format!("after {op:?}: {e}"))?;
                facts.history.push(run.model.clone());
                acknowledged = facts.clone();
            }
            Step::Sync { of, data_only } => drop(sync(&mut run, of, *data_only, &mut acknowledged)?),
            Step::SyncDir { of } => {
                let path = run.a_directory(of);
                sync_dir(&mut run, &path, &mut acknowledged)?;
            }
            Step::Commit { of } => {
                if let Some(path) = sync(&mut run, of, false, &mut acknowledged)? {
                    sync_dir(&mut run, path.rsplit_once('/').unwrap().0, &mut acknowledged)?;
                }
            }
        }
        let during = std::mem::take(&mut *found.lock().unwrap());
        cut(&memory.upper, &mut (looked_at as u64), &found);
        let after = std::mem::take(&mut *found.lock().unwrap());
        for (disks, facts) in [(during, &facts), (after, &acknowledged)] {
            for (order, upper) in disks {
                let tree = View::new(memory.lower(), upper, options).tree();
                let mut right = facts.check_names(0, "", &tree);
                if order == Order::Journal {
                    right = right.and_then(|()| facts.check_moment(&tree));
                }
                right.map_err(|why| format!("{order:?}, during or after {step:?}: {why}"))?;
                looked_at += 1;
            }
        }
        facts = acknowledged;
    }
    Ok(looked_at)
}

/// Syncs a file as the kernel does, answers its path.
fn sync<D: Disk>(
    run: &mut Run<'_, D>,
    of: &Index,
    data_only: bool,
    facts: &mut Facts,
) -> Result<Option<String>, String> {
    let Some(path) = run.an_object(of, &[FileKind::Regular]) else { return Ok(None) };
    let ino = run.view.ino(&path);
    let opened = run.view.fs.open(ino, OpenFlags(libc::O_RDONLY)).map_err(|e| e.to_string())?;
    let answer = run.view.fs.fsync(ino, Some(opened.handle), data_only);
    run.view.fs.release(ino, opened.handle);
    answer.map_err(|e| e.to_string())?;
    facts.synced(run.model.at(&path).unwrap(), data_only);
    Ok(Some(path))
}

fn sync_dir<D: Disk>(run: &mut Run<'_, D>, path: &str, facts: &mut Facts) -> Result<(), String> {
    let ino = run.view.ino(path);
    run.view.fs.fsyncdir(ino).map_err(|e| e.to_string())?;
    facts.synced_dir(run.model.at(path).unwrap());
    Ok(())
}

fn histories(
    cases: u32,
    seed: u8,
    shrink: u32,
    check: impl Fn(&[Step], u64) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: shrink, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let histories = (prop::collection::vec(step(), 1..20), any::<u64>());
    runner
        .run(&histories, |(steps, seed)| check(&steps, seed).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

fn durable(io: Io) -> Options {
    Options { durable: true, ..options(io) }
}

fn nothing_synced_is_lost(io: Io) {
    let disks = Cell::new(0);
    let outcome = histories(pick(30, 300), 3, 300, |steps, seed| {
        let disk = MemDisk::new();
        let looked_at = power_cuts(&disk, &disk, durable(io), steps, seed)?;
        disks.set(disks.get() + looked_at);
        Ok(())
    });
    if let Err(message) = outcome {
        panic!("{message}");
    }
    assert!(disks.get() > pick(600, 6000), "{} disks were looked at", disks.get());
}

#[test]
fn nothing_that_was_synced_is_lost_without_passthrough() {
    nothing_synced_is_lost(Io::Cached);
}

#[test]
fn nothing_that_was_synced_is_lost_with_passthrough() {
    nothing_synced_is_lost(Io::Passthrough);
}

/// The test of the test: who does not sync must not pass.
#[test]
fn every_lost_sync_is_found_in_each_run() {
    let runs = pick(1, 10);
    for defect in UNSYNCED {
        let ran = Cell::new(0);
        for seed in 0..runs {
            let outcome = histories(150, seed, 0, |steps, seed| {
                ran.set(ran.get() + 1);
                let disk = DefectDisk { disk: MemDisk::new(), defect };
                power_cuts(&disk, &disk.disk, durable(Io::Cached), steps, seed).map(drop)
            });
            assert!(outcome.is_err(), "{defect:?} was not found with seed {seed}");
        }
        println!("{defect:?}: found in {runs} runs, after {} histories on average", ran.get() / runs);
    }
}

/// A temporary upper syncs nothing: this is what `durable` means.
#[test]
fn an_upper_that_nobody_needs_is_not_synced() {
    let outcome = histories(80, 3, 0, |steps, seed| {
        let disk = MemDisk::new();
        power_cuts(&disk, &disk, options(Io::Cached), steps, seed).map(drop)
    });
    assert!(outcome.is_err(), "it was synced all the same");
}
