//! Measures what the ways of giving environments to containers cost, on a real store with real Nix; `scripts/thesis` runs it.
//!
//! `dev_approaches measure` writes one row for each measurement. `dev_approaches render` makes tables and plots of those
//! rows, and nothing else.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod build;
mod image;
mod jobs;
mod machine;
mod measure;
mod memory;
mod plots;
mod record;
mod render;
mod run;
mod start;
mod stats;
mod world;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure
    Measure(Measure),
    /// Make tables and plots of what was measured
    Render {
        /// What `measure` wrote
        csv: PathBuf,
        /// The document whose measured part is replaced; plots go beside it
        document: PathBuf,
    },
}

/// What is measured, and how often.
#[derive(clap::Args)]
pub(crate) struct Measure {
    /// The folder with envs.tsv
    built: PathBuf,
    /// Where to write the rows
    csv: PathBuf,
    /// An empty folder, on a disk with a journal
    #[arg(long)]
    work: PathBuf,
    /// The program that is measured; its hook lies beside it
    #[arg(long)]
    nixview: PathBuf,
    /// What the small store's build kept of its downloads
    #[arg(long, default_value = "")]
    cache: PathBuf,
    /// The environments that are timed: a spread by size, unless given
    #[arg(long, value_delimiter = ',')]
    environments: Vec<String>,
    /// How often each is built
    #[arg(long, default_value_t = 3)]
    builds: u32,
    /// How often each is started after caches were dropped
    #[arg(long, default_value_t = 3)]
    cold: u32,
    /// How often each is started again after each of these
    #[arg(long, default_value_t = 2)]
    warm: u32,
    /// How often containers are started together
    #[arg(long, default_value_t = 2)]
    together: u32,
    /// How many containers these are
    #[arg(long, default_value_t = 20)]
    containers: usize,
    /// With `--starts`: how many starts at once are measured, too
    #[arg(long, default_value_t = 0)]
    at_once: usize,
    /// Nothing but starts of views, bind mounts and overlays of the whole store
    #[arg(long)]
    starts: bool,
    /// Two environments, once each
    #[arg(long)]
    quick: bool,
}

/// A line about how far it is.
pub(crate) fn say(line: &str) {
    let mut error = std::io::stderr().lock();
    // Nobody may be there to read it.
    let _written = writeln!(error, "{line}");
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().what {
        What::Render { csv, document } => {
            render::document(&record::read(&csv)?, &document)?;
            Ok(ExitCode::SUCCESS)
        }
        What::Measure(asked) => {
            let failures = measure::all(asked)?;
            say(&format!("{failures} measurements failed"));
            Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
