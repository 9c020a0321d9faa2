//! `nixview diff`: what a view changes of its store.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::changes::{OverArgs, look, root_of, told};
use crate::cli::output::count;
use crate::cli::shown_change::{LETTERS, ShownSummary, line, total, write_element, write_report};
use crate::cli::{CliError, Context, ErrorContext};
use crate::view::changes::{Parts, Summary, shown};

/// Arguments of `nixview diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{LETTERS}. A copy that equals its original is no change. A view that is mounted is read as it is \
    at that moment.\n\n\
    Examples:\n  \
    nixview diff web\n  \
    nixview diff --stat /srv/web.upper\n  \
    nixview diff --json web | jq -r '.changes[].path'\n  \
    nixview diff --exit-code web >/dev/null && echo unchanged"))]
pub struct Args {
    /// What it lies over.
    #[command(flatten)]
    pub over: OverArgs,
    /// Print JSON [default: a line for each path]
    #[arg(long)]
    pub json: bool,
    /// Print the totals alone [default: a line for each path]
    #[arg(long)]
    pub stat: bool,
    /// Exit with 1 if there are changes, and with 2 if something failed [default: 0, and 1 if something failed]
    #[arg(long)]
    pub exit_code: bool,
    /// The name of a view, where it is mounted, or the directory of an upper (anything with a '/')
    #[arg(value_name = "VIEW", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_uppers))]
    pub view: PathBuf,
}

#[derive(Serialize)]
struct Head {
    upper: PathBuf,
    view: String,
    closure: String,
    /// Store paths of which the upper has changes that stay hidden, since the closure does not have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hidden: Vec<String>,
}

#[derive(Serialize)]
struct Totals {
    #[serde(flatten)]
    head: Head,
    summary: ShownSummary,
}

/// Compares.
///
/// # Errors
/// If there is no such upper, it is not known what it lies over, or one of the two cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let answer = compare(args, context);
    if args.exit_code { answer.map_err(|error| error.with_code(2)) } else { answer }
}

fn compare(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let look = look(&args.view, context)?;
    let over = args.over.open(look.last_view().map_err(|error| told(&error))?, context)?;
    let tree = look.tree().map_err(|error| told(&error))?;
    let parts = Parts::of(over.trees(&tree)).context("cannot compare the upper with the store")?;
    let root = root_of(&over.view.lock.store_dir);
    let hidden: Vec<String> = parts.hidden.iter().map(|path| format!("{root}{}", shown(path))).collect();
    if !hidden.is_empty() && !args.json {
        context.output.note(&format!(
            "nixview: note: changes of {} that this environment does not have stay hidden: {}",
            count(hidden.len() as u64, "store path", "store paths"),
            hidden.join(", ")
        ));
    }
    let mut sum = Summary::default();
    if args.stat {
        let progress = context.output.progress("comparing");
        over.each_change(&tree, &[], &mut |change| {
            sum.add(change);
            Ok(())
        })?;
        drop(progress);
    }
    let head = Head {
        upper: look.path().to_owned(),
        view: look.meta().view.clone(),
        closure: over.view.lock.closure.digest.to_string(),
        hidden,
    };
    match (args.json, args.stat) {
        (true, true) => context.output.json(&Totals { head, summary: (&sum).into() })?,
        (false, true) => context.output.line(&total(&sum))?,
        // What is found is printed at once, and not kept: a container can make paths of any length, and any number of them.
        (true, false) => context.output.stream(|out| {
            write_report(out, &head, |out| {
                over.each_change(&tree, &[], &mut |change| {
                    sum.add(change);
                    write_element(out, change, &root)
                })?;
                Ok(sum)
            })
        })?,
        (false, false) => context.output.stream(|out| {
            over.each_change(&tree, &[], &mut |change| {
                sum.add(change);
                writeln!(out, "{}", line(change, &root))
            })
        })?,
    }
    Ok(if args.exit_code && !sum.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
