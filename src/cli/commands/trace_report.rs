//! `nixview trace report`: which part of a closure was used.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::trace_answer::{Asked, make};
use crate::cli::trace_table::{Column, Show};
use crate::cli::{CliError, Context};

/// Arguments of `nixview trace report`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
#[command(
    after_help = "A store path counts as used if a file in it was opened, a link read, a directory listed or a name looked up; that its own name \
    was looked up does not count, since everything that lists the store does that. OPENED counts first: 'find' looks everything up.\n\n\
    WHY is the shortest chain of references by which a path that was not used is in the closure. What CUTS lists would go, and \
    nothing that was used with it, if what refers to it did not.\n\n\
    Examples:\n  \
    nixview trace report web.trace\n  \
    nixview trace report -h --unused --top 10 monday.trace tuesday.trace\n  \
    nixview trace report --json --lock env.lock web.trace"
)]
pub struct Args {
    /// The traces, which are taken together; all of one closure
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,
    /// The lock of the environment [default: the one that the first trace names]
    #[arg(long, value_name = "LOCK")]
    pub lock: Option<PathBuf>,
    /// The store: a directory that ends in nix/store, or one that contains nix/store [default: the one that was traced]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Sort by this column, the largest first, paths from a to z
    #[arg(long, value_name = "COLUMN", value_enum, default_value = "allocated")]
    pub sort: Column,
    /// Show only so many store paths and cuts [default: all, and 10]
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Show only store paths that were not used [default: all]
    #[arg(long, conflicts_with = "used")]
    pub unused: bool,
    /// Show only store paths that were used [default: all]
    #[arg(long)]
    pub used: bool,
    /// Sizes for people: 1.5 MiB [default: bytes]
    #[arg(short = 'h', long)]
    pub human: bool,
    /// Measure again what is remembered
    #[arg(long)]
    pub rescan: bool,
    /// Answer as JSON, with everything [default: as tables]
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Answer as CSV, a line for each store path, in bytes [default: as tables]
    #[arg(long)]
    pub csv: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    pub help: Option<bool>,
}

/// Reports.
///
/// # Errors
/// If a trace, the lock or the store cannot be used.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let asked = Asked {
        traces: args.traces.clone(),
        lock: args.lock.clone(),
        store: args.store.clone(),
        afresh: args.rescan,
    };
    let mut answer = make(&asked, context)?;
    let show = match (args.used, args.unused) {
        (true, _) => Show::Used,
        (_, true) => Show::Unused,
        _ => Show::All,
    };
    answer.select(show, args.sort, args.top);
    if args.json {
        context.output.json(&answer)?;
    } else if args.csv {
        answer.csv(&context.output)?;
    } else {
        answer.table(show, args.human, args.top, &context.output)?;
    }
    for note in answer.notes() {
        context.output.note(&format!("nixview: note: {note}"));
    }
    Ok(ExitCode::SUCCESS)
}
