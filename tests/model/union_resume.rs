//! A union whose process is killed, at any moment, and followed by another: who uses it sees no difference.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::effort::pick;
use crate::support::union_support::client::{Client, Kill, Tally, again, moments, some_of};
use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::model::{Op, Run, op};
use crate::support::union_support::notes::{Loss, Notes};
use crate::support::union_support::{Disk, MemDisk, View, options};
use nixview::layer::dir::Format;
use nixview::union::{Io, Options};
use nixview::vfs::Vfs;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A history's step.
#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    Resume,
}

type Running<'d, D> = Run<'d, D, Client<'d, D>>;

fn running<'d, D: Disk + Sync>(
    disk: &'d D,
    options: Options,
    kills: &'d [Kill],
    loss: Option<Loss>,
) -> Running<'d, D> {
    let start = move |disk: &'d D, options| {
        let fs = Client::new(disk, options, Notes::new(loss), kills);
        View { fs, lookups: std::collections::HashMap::new() }
    };
    let mut run = Run::over(disk, options, start);
    run.readers = true;
    run
}

/// Nothing is left when all is closed and forgotten, and the disk has the tree.
fn end<D: Disk + Sync>(run: &mut Running<'_, D>) -> Result<(), String> {
    run.view.fs.check()?;
    run.close_all();
    run.view.fs.check()?;
    if !run.view.fs.notes.held().is_empty() {
        return Err("an inode is kept open that nobody knows".to_owned());
    }
    run.step(&Op::Remount)?;
    run.compare().map_err(|e| format!("after the last remount: {e}"))
}

/// The numbers of a disk come again: the client forgets what the kernel would, before they do.
fn evict<D: Disk + Sync>(run: &mut Running<'_, D>) {
    for ino in run.view.fs.evictable() {
        if let Some(count) = run.view.lookups.remove(&ino) {
            run.view.fs.forget(ino, count);
        }
    }
}

fn with_resumes<D: Disk + Sync>(
    disk: &D,
    io: Io,
    steps: &[Step],
    evicts: bool,
    loss: Option<Loss>,
) -> Result<(), String> {
    let mut run = running(disk, options(io), &[], loss);
    for step in steps {
        match step {
            Step::Do(op) => run.step(op)?,
            Step::Resume if evicts => {
                evict(&mut run);
                run.view.fs.resume()?;
            }
            Step::Resume => run.view.fs.resume()?,
        }
        run.compare().map_err(|e| format!("after {step:?}: {e}"))?;
    }
    end(&mut run)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![5 => op().prop_map(Step::Do), 1 => Just(Step::Resume)], 1..40)
}

fn histories<T: std::fmt::Debug>(
    cases: u32,
    seed: u8,
    shrink: u32,
    histories: impl Strategy<Value = T>,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: shrink, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    runner.run(&histories, |ops| check(&ops).map_err(TestCaseError::fail)).map_err(|e| e.to_string())
}

fn hold(outcome: Result<(), String>) {
    if let Err(message) = outcome {
        panic!("{message}");
    }
}

const BOTH: [Io; 2] = [Io::Cached, Io::Passthrough];

#[test]
fn what_the_client_knows_means_the_same_after_a_resume() {
    for io in BOTH {
        hold(histories(pick(60, 600), 3, 1_000, steps(), |steps| {
            with_resumes(&MemDisk::new(), io, steps, false, None)
        }));
    }
}

#[test]
fn what_the_client_knows_means_the_same_after_a_resume_on_a_disk() {
    for io in BOTH {
        hold(histories(pick(8, 80), 4, 500, steps(), |steps| {
            with_resumes(&DirDisk::new(), io, steps, true, None)
        }));
        let files = || DirDisk::with_format(&std::env::temp_dir(), Some(Format::Files));
        hold(histories(pick(4, 40), 5, 500, steps(), |steps| with_resumes(&files(), io, steps, true, None)));
    }
}

/// What a run came to: the counts of its first process, and what has happened.
struct Came {
    changes: u64,
    answers: u64,
    tally: Tally,
}

/// Runs a history with these kills; it is compared from the last of them on.
fn with_kills<D: Disk + Sync>(
    disk: &D,
    options: Options,
    ops: &[Op],
    kills: &[Kill],
    loss: Option<Loss>,
) -> Result<Came, String> {
    let mut run = running(disk, options, kills, loss);
    // As the model has numbers only of what it was compared with.
    run.compare()?;
    for op in ops {
        run.view.fs.armed(true);
        let answer = run.step(op);
        run.view.fs.armed(false);
        answer?;
        run.compare().map_err(|e| format!("after {op:?}: {e}"))?;
        run.view.fs.check().map_err(|e| format!("after {op:?}: {e}"))?;
    }
    let (changes, answers) = run.view.fs.count();
    let tally = run.view.fs.tally();
    end(&mut run)?;
    Ok(Came { changes, answers, tally })
}

/// Runs a history with a kill everywhere, and each time with any number of frames known, and with a second kill of the
/// process that goes on.
fn killed_everywhere<D: Disk + Sync>(
    new_disk: &dyn Fn() -> D,
    options: Options,
    ops: &[Op],
    loss: Option<Loss>,
    sum: &RefCell<Tally>,
) -> Result<(), String> {
    let go = |kills: &[Kill]| {
        let disk = new_disk();
        // A run that is lost shows as a panic too.
        let came = catch_unwind(AssertUnwindSafe(|| with_kills(&disk, options, ops, kills, loss)));
        let came = came.unwrap_or_else(|_| Err("a panic".to_owned()));
        let came = came.map_err(|e| format!("{kills:?}: {e}"))?;
        sum.borrow_mut().add(&came.tally);
        Ok::<Came, String>(came)
    };
    let whole = go(&[])?;
    for at in moments(0..whole.changes, whole.answers) {
        let unsecured = go(&[Kill { at, known: 0 }])?.tally.unsecured;
        for known in some_of(1..=unsecured) {
            go(&[Kill { at, known }])?;
        }
        for kills in some_of(again(at)) {
            go(&kills)?;
        }
    }
    Ok(())
}

fn killable() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op().prop_filter("no other client", |op| !matches!(op, Op::Remount)), 1..6)
}

#[test]
fn a_kill_at_any_moment_changes_nothing() {
    let sum = RefCell::<Tally>::default();
    let mut seed = 10;
    for io in BOTH {
        for durable in [false, true] {
            seed += 1;
            let options = Options { durable, ..options(io) };
            hold(histories(pick(1, 10), seed, 50, killable(), |ops| {
                killed_everywhere(&MemDisk::new, options, ops, None, &sum)
            }));
        }
    }
    let sum = sum.into_inner();
    println!("{sum:?}");
    assert!(sum.made > 0 && sum.changed > 0 && sum.taken_back > 0 && sum.intents > 0, "{sum:?}");
}
