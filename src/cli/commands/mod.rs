//! The commands, a file each: `Args` is what clap parses, `run` does it.
//!
//! To add one: its file, its line in [`Command`] (the first line of the variant's doc comment is what `--help` lists)
//! and its arm in [`Command::run`]. Every option has help that names its default; `after_help` has examples.

use std::process::ExitCode;

use super::deferred::Deferred;
use super::{CliError, Context};

pub mod cdi;
pub mod closure;
pub mod completions;
pub mod daemon;
pub mod diff;
pub mod doctor;
pub mod du;
pub mod export;
pub mod gc;
pub mod import;
pub mod keep;
pub mod layers;
pub mod lock;
pub mod logs;
pub mod man;
pub mod mount;
pub mod reset;
pub mod run;
pub mod shell;
pub mod status;
pub mod trace;
pub mod trace_report;
pub mod umount;
pub mod upper;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Pin an environment in a lock file: its store paths, and what decided them
    Lock(Deferred<lock::Args>),
    /// Show which store paths an environment consists of, why, and how two differ
    Closure(Deferred<closure::Args>),
    /// Measure what environments cost on disk, and what they share
    Du(Deferred<du::Args>),
    /// Simulate environments as OCI images: their layers, and what these store, share and pull
    Layers(Deferred<layers::Args>),
    /// Record which files and store paths of a view are used, and say what never is
    Trace(Deferred<trace::Args>),
    /// Remove what the caches have not used for a while
    Gc(Deferred<gc::Args>),
    /// Mount a view of an environment on a directory
    Mount(Deferred<mount::Args>),
    /// Unmount a view
    Umount(Deferred<umount::Args>),
    /// Serve views to other users, to mount(8) and to containers
    Daemon(Deferred<daemon::Args>),
    /// Let container runtimes give each container a view, as a device
    Cdi(Deferred<cdi::Args>),
    /// Say which views are mounted
    Status(Deferred<status::Args>),
    /// Show the log of a view
    Logs(Deferred<logs::Args>),
    /// Run a command with a view of an environment at /nix
    Run(Deferred<run::Args>),
    /// Start a shell with a view of an environment at /nix
    Shell(Deferred<shell::Args>),
    /// List and remove the writable parts of views
    Upper(Deferred<upper::Args>),
    /// Show the changes of a view
    Diff(Deferred<diff::Args>),
    /// Take changes of a view back: all, or some paths
    Reset(Deferred<reset::Args>),
    /// Write the changes of a view as an OCI image layer
    Export(Deferred<export::Args>),
    /// Make an OCI image layer the changes of a view
    Import(Deferred<import::Args>),
    /// Resume a keeper: for nixview-keep
    #[command(hide = true)]
    Keep(Deferred<keep::Args>),
    /// Say what this machine lacks, and what to do about it
    Doctor(Deferred<doctor::Args>),
    /// Print a script that completes nixview's commands and options in a shell
    Completions(Deferred<completions::Args>),
    /// Write the man pages
    Man(Deferred<man::Args>),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// What went wrong, with what to do about it.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CliError> {
        match self {
            Self::Lock(args) => lock::run(args, context),
            Self::Closure(args) => closure::run(args, context),
            Self::Du(args) => du::run(args, context),
            Self::Layers(args) => layers::run(args, context),
            Self::Trace(args) => trace::run(args, context),
            Self::Gc(args) => gc::run(args, context),
            Self::Mount(args) => mount::run(args, context),
            Self::Umount(args) => umount::run(args, context),
            Self::Daemon(args) => daemon::run(args, context),
            Self::Cdi(args) => cdi::run(args, context),
            Self::Status(args) => status::run(args, context),
            Self::Logs(args) => logs::run(args, context),
            Self::Run(args) => run::run(args, context),
            Self::Shell(args) => shell::run(args, context),
            Self::Upper(args) => upper::run(args, context),
            Self::Diff(args) => diff::run(args, context),
            Self::Reset(args) => reset::run(args, context),
            Self::Export(args) => export::run(args, context),
            Self::Import(args) => import::run(args, context),
            Self::Keep(args) => keep::run(args, context),
            Self::Doctor(args) => doctor::run(args, context),
            Self::Completions(args) => completions::run(args, context),
            Self::Man(args) => man::run(args, context),
        }
    }
}
