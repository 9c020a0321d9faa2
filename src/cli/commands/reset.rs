//! `nixview reset`: a view, or some of its paths, as the store has them.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::changes::{Over, OverArgs, hold, in_view, look, names_of, root_of, told};
use crate::cli::confirm::confirm;
use crate::cli::shown_change::{ShownChange, ShownSummary, line, summary, total};
use crate::cli::{CliError, Context, ErrorContext};
use crate::vfs::Name;
use crate::view::changes::{Change, Reset, reset};
use crate::view::upper_dir::{UpperDir, UpperError};

/// Arguments of `nixview reset`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The view must not be mounted. Without PATH all changes go, in one step, after a question; each PATH goes, with all below it, in a \
    step of its own. The lines are those of 'nixview diff'. The store is not touched.\n\n\
    Examples:\n  \
    nixview reset --dry-run web\n  \
    nixview reset --yes web\n  \
    nixview reset web /nix/store/…-nginx/conf"
)]
pub struct Args {
    /// What it lies over.
    #[command(flatten)]
    pub over: OverArgs,
    /// Only say what would be taken back [default: take it back]
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Without PATH: do not ask [default: ask on a terminal, and refuse without one]
    #[arg(short = 'y', long)]
    pub yes: bool,
    /// Print JSON [default: a line for each change that was taken back]
    #[arg(long)]
    pub json: bool,
    /// The name of a view, or the directory of an upper (anything with a '/')
    #[arg(value_name = "VIEW", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_uppers))]
    pub view: PathBuf,
    /// What is to be as in the store, as programs in the view see it, or relative to its root [default: everything]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    upper: PathBuf,
    dry_run: bool,
    changes: Vec<ShownChange>,
    summary: ShownSummary,
}

/// Takes changes back.
///
/// # Errors
/// If a view of the upper is mounted, or a path cannot be reset; those before it, in bytewise order, are, and are told.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let look = look(&args.view, context)?;
    let over = args.over.open(look.last_view().map_err(|error| told(&error))?, context)?;
    let root = root_of(&over.view.lock.store_dir);
    let mut paths = args.paths.iter().map(|path| names_of(path, &root)).collect::<Result<Vec<_>, _>>()?;
    let mut upper = hold(&look, over.view.owner)?;
    let mut found: Vec<Change> = Vec::new();
    if paths.is_empty() || paths.iter().any(Vec::is_empty) {
        paths.clear();
        found = over.changes(upper.layer(), &[])?;
        if !args.dry_run {
            let question = format!("Take all changes back ({})?", total(&summary(&found)));
            confirm(args.yes || found.is_empty(), &question)?;
            upper.rebuild(over.view.owner, |_| Ok::<(), UpperError>(())).map_err(|error| told(&error))?;
        }
    }
    let mut outcome = Ok(());
    for path in outermost(paths) {
        outcome = one(args, &over, &upper, &path, &root, &mut found, context);
        if outcome.is_err() {
            break;
        }
    }
    let sum = summary(&found);
    if args.json {
        let changes = found.iter().map(|change| ShownChange::new(change, &root)).collect();
        let report =
            Report { upper: look.path().to_owned(), dry_run: args.dry_run, changes, summary: (&sum).into() };
        context.output.json(&report)?;
    } else {
        context
            .output
            .write(|out| found.iter().try_for_each(|change| writeln!(out, "{}", line(change, &root))))?;
        let done = if args.dry_run { "would take back" } else { "took back" };
        context.output.note(&format!("{done}: {}", total(&sum)));
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Takes one path back, and adds what changed there to `found`.
fn one(
    args: &Args,
    over: &Over,
    upper: &UpperDir,
    path: &[Name],
    root: &str,
    found: &mut Vec<Change>,
    context: &Context,
) -> Result<(), CliError> {
    let changes = over.changes(upper.layer(), path)?;
    if !args.dry_run {
        let done = reset(over.trees(upper.layer()), path, !upper.meta().temporary).context("stopped")?;
        if done == Reset::Unchanged && changes.is_empty() {
            context.output.note(&format!("{} is as in the store", in_view(root, path)));
        }
    }
    found.extend(changes);
    Ok(())
}

/// The paths, sorted, without those that are below another.
fn outermost(mut paths: Vec<Vec<Name>>) -> Vec<Vec<Name>> {
    paths.sort();
    let mut kept: Vec<Vec<Name>> = Vec::new();
    for path in paths {
        if !kept.last().is_some_and(|above| path.starts_with(above)) {
            kept.push(path);
        }
    }
    kept
}
