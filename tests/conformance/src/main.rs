//! Runs public suites on views, and in the same run on the file systems beside them: a plain directory, the kernel's
//! overlayfs, and fuse-overlayfs, all over the same lower.
//!
//! `scripts/conformance` starts it as root, in mount and pid namespaces of its own: whatever hangs or fails, all mounts
//! and processes end with it. What it installs, runs and prints is told there and in `docs/conformance.md`.

mod expected;
mod options;
mod outcome;
mod report;
mod run;
mod stage;
mod suites;
mod tree;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use mini_store::MiniStore;

use crate::expected::Expected;
use crate::options::{Command, Options};
use crate::outcome::Case;
use crate::report::Report;
use crate::stage::Stage;
use crate::suites::Suite;

fn main() -> ExitCode {
    let options = match Options::parse().absolute() {
        Ok(options) => options,
        Err(error) => return failed(&error),
    };
    let done = match &options.command {
        Some(Command::Tree { directory }) => tree::print(directory).map(|()| true),
        Some(Command::Changing { directory, entries }) => {
            tree::change_while_read(directory, *entries).map(|()| true)
        }
        None => suites_on_file_systems(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("conformance: {error}");
    ExitCode::from(2)
}

/// Runs what was chosen; whether everything came out as expected.
fn suites_on_file_systems(options: &Options) -> io::Result<bool> {
    let expected = Expected::parse(include_str!("../expected")).map_err(io::Error::other)?;
    let work = options.work.as_deref().ok_or_else(|| io::Error::other("--work is needed"))?;
    let store = MiniStore::create(&work.join("s"))?;
    let before = tree::listing(&store.store_dir())?;
    let mut report = Report::new(options.json);
    for suite in options.suites() {
        for fs in options.file_systems() {
            report.begin(suite.name(), fs.name());
            let mut stage = Stage::new(fs, work, &store, options)?;
            let cases = cases(suite, &mut stage)?;
            let complete = !options.bounded && options.case.is_none();
            report.end(&expected.judge(suite.name(), fs.name(), cases, complete))?;
        }
    }
    if tree::listing(&store.store_dir())? != before {
        return Err(io::Error::other("the lower has changed"));
    }
    report.finish()
}

/// The cases of one suite on one file system, and what became of the mount.
fn cases(suite: Suite, stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
    let mut cases = suite.run(stage)?;
    cases.extend(stage.close()?);
    remove(stage.root())?;
    Ok(cases)
}

/// Removes a tree of ours that is not mounted any more.
fn remove(root: &Path) -> io::Result<()> {
    mini_store::remove(root)
}
