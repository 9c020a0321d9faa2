//! The command line.

use std::io;
use std::path::{PathBuf, absolute};

use clap::{Parser, Subcommand};

use crate::stage::Fs;
use crate::suites::Suite;

/// Run public file system suites on nixview's views and on the file systems beside them
#[derive(Parser, Debug)]
#[command(name = "scripts/conformance")]
pub(crate) struct Options {
    /// Only this suite (may be repeated) [default: all]
    #[arg(long = "suite", value_enum)]
    suites: Vec<Suite>,

    /// Only this file system (may be repeated) [default: all; with --bounded those of nixview]
    #[arg(long = "fs", value_enum)]
    file_systems: Vec<Fs>,

    /// Only cases whose name contains this text; pjdfstest takes it as its own filter
    #[arg(long)]
    pub(crate) case: Option<String>,

    /// Operations of each mode of fsx [default: 1000000; with --bounded 3000]
    #[arg(long)]
    ops: Option<u64>,

    /// What fits into three minutes
    #[arg(long)]
    pub(crate) bounded: bool,

    /// Print one JSON document and nothing else
    #[arg(long)]
    pub(crate) json: bool,

    /// The program to test
    #[arg(long, value_name = "FILE", default_value = "target/debug/nixview")]
    pub(crate) nixview: PathBuf,

    /// Where pjdfstest and fsx are installed
    #[arg(long, value_name = "DIR", default_value = "target/conformance/bin")]
    pub(crate) programs: PathBuf,

    /// An empty directory to work in, that every user can enter
    #[arg(long, value_name = "DIR")]
    pub(crate) work: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What the scripts of the suite `tools` call.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Print everything that a tree shows
    #[command(hide = true)]
    Tree {
        /// Its top
        directory: PathBuf,
    },
    /// Change a directory while it is read, and check what the reader sees
    #[command(hide = true)]
    Changing {
        /// It is made
        directory: PathBuf,
        /// How many names it has at first
        entries: usize,
    },
}

impl Options {
    /// With paths that mean the same in any directory.
    pub(crate) fn absolute(mut self) -> io::Result<Self> {
        self.nixview = absolute(&self.nixview)?;
        self.programs = absolute(&self.programs)?;
        Ok(self)
    }

    pub(crate) fn suites(&self) -> Vec<Suite> {
        chosen(&self.suites, &Suite::ALL)
    }

    pub(crate) fn file_systems(&self) -> Vec<Fs> {
        chosen(&self.file_systems, if self.bounded { &Fs::VIEWS } else { &Fs::ALL })
    }

    /// How many operations each mode of fsx does.
    pub(crate) fn operations(&self) -> u64 {
        self.ops.unwrap_or(if self.bounded { 3000 } else { 1_000_000 })
    }

    /// Whether a case is to be run.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.case.as_deref().is_none_or(|part| case.contains(part))
    }
}

fn chosen<T: Copy>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() { all.to_vec() } else { asked.to_vec() }
}
