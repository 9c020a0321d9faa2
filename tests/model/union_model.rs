//! The union against a plain tree: random histories, compared after every step, over layers in memory and on a disk.

use std::cell::Cell;

use crate::support::effort::pick;
use crate::support::union_support;
use crate::support::union_support::defect::{ALL, DefectDisk};
use crate::support::union_support::dir::DirDisk;
use crate::support::union_support::model::{op, run};
use crate::support::union_support::{Disk, MemDisk};
use nixview::layer::dir::Format;
use nixview::union::Io;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn histories(
    cases: u32,
    seed: u8,
    shrink: u32,
    check: impl Fn(&[union_support::model::Op]) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: shrink, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let histories = prop::collection::vec(op(), 1..40);
    runner.run(&histories, |ops| check(&ops).map_err(TestCaseError::fail)).map_err(|e| e.to_string())
}

fn hold(outcome: Result<(), String>) {
    if let Err(message) = outcome {
        panic!("{message}");
    }
}

#[test]
fn in_memory_without_passthrough() {
    hold(histories(pick(150, 1_000), 7, 2_000, |ops| run(&MemDisk::new(), Io::Cached, ops)));
}

#[test]
fn in_memory_with_passthrough() {
    hold(histories(pick(100, 1_000), 7, 2_000, |ops| run(&MemDisk::new(), Io::Passthrough, ops)));
}

#[test]
fn on_a_disk() {
    hold(histories(pick(20, 100), 7, 2_000, |ops| run(&DirDisk::new(), Io::Cached, ops)));
}

/// The format without a place for redirects: directories that the lower has do not move.
#[test]
fn on_a_disk_with_whiteout_files() {
    let new = || DirDisk::with_format(&std::env::temp_dir(), Some(Format::Files));
    assert!(!new().redirects());
    hold(histories(pick(20, 100), 7, 2_000, |ops| run(&new(), Io::Cached, ops)));
}

/// The test of the test: an upper with a defect must not pass, whatever the histories begin with.
#[test]
fn every_seeded_defect_is_found_in_each_run() {
    let runs = pick(1, 10);
    for defect in ALL {
        let ran = Cell::new(0);
        for seed in 0..runs {
            let outcome = histories(150, seed, 0, |ops| {
                ran.set(ran.get() + 1);
                let disk = DefectDisk { disk: MemDisk::new(), defect };
                // Some defects show as a panic of the driver, which proptest reports as a failure too.
                run(&disk, Io::Cached, ops)
            });
            assert!(outcome.is_err(), "{defect:?} was not found with seed {seed}");
        }
        println!("{defect:?}: found in {runs} runs, after {} histories on average", ran.get() / runs);
    }
}
