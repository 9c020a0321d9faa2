//! The commands, a file each: `Args` is what clap parses, `run` does it.
//!
//! To add one: its file, its line in [`Command`] (the first line of the variant's doc comment is what `--help` lists)
//! and its arm in [`Command::run`]. Every option has help that names its default; `after_help` has examples.

use std::process::ExitCode;

use super::{CliError, Context};

pub mod completions;
pub mod man;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print a script that completes nixview's commands and options in a shell
    Completions(completions::Args),
    /// Write the man pages
    Man(man::Args),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, with what to do about it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CliError> {
        match self {
            Self::Completions(args) => completions::run(args, context),
            Self::Man(args) => man::run(args, context),
        }
    }
}
