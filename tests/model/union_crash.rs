//! Histories that end at their n-th change, or in which it fails: what is on disk is the tree before or after the
//! operation that was interrupted, and nothing else is left.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::support::effort::pick;
use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::model::{Model, Op, Run, op};
use crate::support::union_support::{Disk, FaultDisk, MemDisk, options};
use nixview::layer::fault::{Change, Faults};
use nixview::union::{Io, Options};
use nixview::vfs::{Errno, FileKind};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Restoring the times of a directory comes after the step that matters.
fn without_directory_times(mut model: Model) -> Model {
    for inode in &mut model.inodes {
        if inode.kind == FileKind::Directory {
            inode.mtime = None;
        }
    }
    model
}

fn is_either<D: Disk>(disk: &D, io: Io, before: &Model, after: &Model, op: &Op) {
    let mut wrong = Vec::new();
    for model in [before, after] {
        let mut run = Run::new(disk, io);
        run.model = without_directory_times(model.clone());
        match run.compare() {
            Ok(()) => return,
            Err(message) => wrong.push(message),
        }
    }
    panic!("{op:?} was interrupted: neither before ({}) nor after ({})", wrong[0], wrong[1]);
}

/// Runs the history on new disks, ending at the first change, the second, and so on; answers how many there were.
fn crash_everywhere<D: Disk>(
    new_disk: impl Fn() -> D,
    options: Options,
    ops: &[Op],
    is_clean: impl Fn(&D),
) -> Vec<Change> {
    let mut interrupted_changes = Vec::new();
    for n in 0.. {
        let disk = new_disk();
        let faults = Faults::crash_at(n);
        let faulty = FaultDisk { disk: &disk, faults: faults.clone() };
        let mut run = Run::with(&faulty, options);
        run.compare().unwrap();
        let mut interrupted = None;
        for op in ops {
            let before = run.model.clone();
            let answer = run.step(op);
            if faults.crashed() {
                interrupted = Some((before, op));
                break;
            }
            answer.unwrap();
            run.compare().unwrap();
        }
        let after = run.model.clone();
        drop(run);
        drop(disk.upper());
        is_clean(&disk);
        interrupted_changes.extend(faults.ended_at());
        match interrupted {
            Some((before, op)) => is_either(&disk, options.io, &before, &after, op),
            None => break,
        }
    }
    interrupted_changes
}

fn histories(cases: u32, check: impl Fn(&[Op])) {
    histories_of(cases, |_| true, check);
}

fn histories_of(cases: u32, wanted: fn(&Op) -> bool, check: impl Fn(&[Op])) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]));
    // One change of the view an operation: what is a series of them has states in between.
    let single =
        op().prop_filter("one step", move |op| wanted(op) && !matches!(op, Op::Renew { .. } | Op::Remount));
    let result = runner.run(&prop::collection::vec(single, 1..11), |ops| {
        check(&ops);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_crash_leaves_the_tree_before_or_after() {
    let changes = RefCell::new(HashMap::new());
    for io in [Io::Cached, Io::Passthrough] {
        histories(pick(20, 200), |ops| {
            let options = Options { durable: true, ..options(io) };
            let interrupted = crash_everywhere(MemDisk::new, options, ops, |disk| {
                assert_eq!(disk.upper.drafts(), 0, "the work directory is clean");
            });
            for change in interrupted {
                *changes.borrow_mut().entry(change).or_insert(0) += 1;
            }
        });
    }
    let changes = changes.into_inner();
    for change in Change::ALL {
        assert!(changes.contains_key(&change), "{change:?} was never interrupted: {changes:?}");
    }
    assert!(changes.values().sum::<usize>() > pick(300, 3000), "{changes:?}");
}

/// Moves of directories above all: each is a copy, a note of where the lower part is, and the move itself.
#[test]
fn a_crash_leaves_directories_where_they_were_or_where_they_go() {
    let moves = |op: &Op| matches!(op, Op::Rename { .. } | Op::Mkdir { .. } | Op::Rmdir { .. });
    let notes = Cell::new(0);
    for io in [Io::Cached, Io::Passthrough] {
        histories_of(pick(30, 200), moves, |ops| {
            let interrupted = crash_everywhere(MemDisk::new, options(io), ops, |disk| {
                assert_eq!(disk.upper.drafts(), 0, "the work directory is clean");
            });
            let new = interrupted.iter().filter(|change| **change == Change::SetRedirect);
            notes.set(notes.get() + new.count());
        });
    }
    assert!(
        notes.get() > pick(4, 20),
        "{} moves of directories that the lower has were interrupted",
        notes.get()
    );
    histories_of(pick(2, 20), moves, |ops| {
        drop(crash_everywhere(DirDisk::new, options(Io::Cached), ops, |_| {}))
    });
}

#[test]
fn a_crash_leaves_the_tree_before_or_after_on_a_disk() {
    histories(pick(2, 20), |ops| {
        crash_everywhere(DirDisk::new, options(Io::Cached), ops, |disk| {
            let left = std::fs::read_dir(disk.dir.path().join("work")).unwrap().count();
            assert_eq!(left, 0, "the work directory is clean");
        });
    });
}

#[test]
fn a_change_that_fails_leaves_view_and_disk_in_step() {
    histories(pick(10, 100), |ops| {
        for n in 0.. {
            let disk = MemDisk::new();
            let faults = Faults::fail_once(n, Errno::ENOSPC);
            let faulty = FaultDisk { disk: &disk, faults: faults.clone() };
            let mut run = Run::new(&faulty, Io::Cached);
            run.compare().unwrap();
            for op in ops {
                let before = run.model.clone();
                let answer = run.step(op);
                let failed = faults.changes() > n;
                if !failed {
                    answer.unwrap();
                    run.compare().unwrap();
                    continue;
                }
                if let Err(message) = &answer {
                    assert!(message.ends_with("got Err(ENOSPC)"), "the errno is kept: {message}");
                }
                assert_eq!(disk.upper.drafts(), 0, "a draft that failed is gone");
                let after = std::mem::replace(&mut run.model, without_directory_times(before.clone()));
                if run.compare().is_err() {
                    run.model = without_directory_times(after.clone());
                    run.compare().unwrap();
                }
                is_either(&disk, Io::Cached, &before, &after, op);
                break;
            }
            if faults.changes() <= n {
                break;
            }
        }
    });
}
