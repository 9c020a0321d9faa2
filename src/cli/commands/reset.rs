//! `nixview reset`: a view, or some of its paths, as the store has them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::changes::{Over, OverArgs, hold, in_view, look, names_of, root_of, told};
use crate::cli::confirm::confirm;
use crate::cli::error::OUTPUT;
use crate::cli::shown_change::{SEPARATOR, line, total, write_element, write_report};
use crate::cli::spool::Spool;
use crate::cli::{CliError, Context, ErrorContext};
use crate::vfs::Name;
use crate::view::changes::{Reset, Summary, reset};
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
struct Head {
    upper: PathBuf,
    dry_run: bool,
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
    let mut found = Found { json: args.json, root: &root, sum: Summary::default(), texts: Vec::new() };
    if paths.is_empty() || paths.iter().any(Vec::is_empty) {
        paths.clear();
        let changes = found.look(&over, &upper, &[])?;
        if !args.dry_run {
            let question = format!("Take all changes back ({})?", total(&changes.sum));
            confirm(args.yes || changes.sum.is_empty(), &question)?;
            upper.rebuild(over.view.owner, |_| Ok::<(), UpperError>(())).map_err(|error| told(&error))?;
        }
        found.take(changes);
    }
    let mut outcome = Ok(());
    for path in outermost(paths) {
        outcome = one(args, &over, &upper, &path, &mut found, context);
        if outcome.is_err() {
            break;
        }
    }
    let sum = found.sum;
    if args.json {
        let head = Head { upper: look.path().to_owned(), dry_run: args.dry_run };
        context.output.stream(|out| write_report(out, &head, |out| found.print(out).map(|()| sum)))?;
    } else {
        context.output.stream(|out| found.print(out))?;
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
    found: &mut Found<'_>,
    context: &Context,
) -> Result<(), CliError> {
    let changes = found.look(over, upper, path)?;
    if !args.dry_run {
        let done = reset(over.trees(upper.layer()), path, !upper.meta().temporary).context("stopped")?;
        if done == Reset::Unchanged && changes.sum.is_empty() {
            context.output.note(&format!("{} is as in the store", in_view(found.root, path)));
        }
    }
    found.take(changes);
    Ok(())
}

/// Changes of one path, which are told once they are taken back.
struct Changes {
    sum: Summary,
    text: Spool,
}

/// What was taken back.
struct Found<'r> {
    json: bool,
    root: &'r str,
    sum: Summary,
    texts: Vec<Spool>,
}

impl Found<'_> {
    /// The changes at a path and below it.
    fn look(&self, over: &Over, upper: &UpperDir, path: &[Name]) -> Result<Changes, CliError> {
        let mut text = Spool::new().context("cannot make a temporary file")?;
        let mut sum = Summary::default();
        over.each_change(upper.layer(), path, &mut |change| {
            sum.add(change);
            if self.json {
                write_element(&mut text, change, self.root)
            } else {
                writeln!(text, "{}", line(change, self.root))
            }
        })?;
        Ok(Changes { sum, text })
    }

    fn take(&mut self, changes: Changes) {
        self.sum.add_all(&changes.sum);
        if !changes.sum.is_empty() {
            self.texts.push(changes.text);
        }
    }

    /// Prints it; of elements of JSON the first is begun as [`write_report`] wants it.
    fn print(self, out: &mut dyn Write) -> Result<(), CliError> {
        self.texts.into_iter().try_for_each(|text| {
            if self.json {
                out.write_all(SEPARATOR.as_bytes()).context(OUTPUT)?;
            }
            text.print(out, if self.json { SEPARATOR.len() as u64 } else { 0 }).context(OUTPUT)
        })
    }
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
