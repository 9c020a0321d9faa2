//! `nixview logs`: what keeper and server of a view report.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::geteuid;

use crate::cli::view::{failed, mount_path};
use crate::cli::{CliError, Context, ErrorContext, ask};
use crate::daemon::log::{Line, LogError, LogReader};
use crate::daemon::registry::Registry;
use crate::daemon::stop::{Which, find};
use crate::printable::{self, printable};
use crate::view::ViewName;

/// How often a log that is followed is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `nixview logs`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The log of a view stays when the view has ended, until 'nixview gc' or 200 others take its place. It holds the newest \
    lines, at most 1 MiB of them. 'nixview mount -vv' makes a view that reports details.\n\n\
    Examples:\n  \
    nixview logs web\n  \
    nixview logs --lines 20 --follow /run/views/web\n  \
    nixview logs --json web | jq -r 'select(.level == \"error\").message'"
)]
pub struct Args {
    /// Print lines as they come, until the view ends [default: end after the last]
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines [default: with the first]
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Print each line as JSON: time, level, process, pid, module, message [default: as text]
    #[arg(long)]
    pub json: bool,
    /// The view: its name, or the directory that it is mounted on
    #[arg(value_name = "VIEW", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_logs))]
    pub view: String,
}

/// Prints the log.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let name = name(&args.view, context)?;
    let mut reader = match LogReader::open(&context.state.state, &name) {
        Err(LogError::Missing { .. }) if !geteuid().is_root() => served_for_us(&name, args.follow, context)?,
        answer => answer.map_err(missing)?,
    };
    let attempt = || format!("cannot read the log of the view '{name}'");
    let mut lines = reader.news().with_context(attempt)?;
    let first = args.lines.map_or(0, |most| lines.len().saturating_sub(most));
    lines.drain(..first);
    loop {
        print(&lines, args.json, context)?;
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        // Asked first: what comes before its end is read after this.
        let live = reader.is_live().with_context(attempt)?;
        lines = reader.news().with_context(attempt)?;
        if !live && lines.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if live && lines.is_empty() {
            std::thread::sleep(INTERVAL);
        }
    }
}

/// The log of a view that the daemon of this host serves for this user.
fn served_for_us(name: &ViewName, follow: bool, context: &Context) -> Result<LogReader, CliError> {
    let Some(client) = ask::daemon(context)? else {
        return LogReader::open(&context.state.state, name).map_err(missing);
    };
    let log = client.log(name.as_str().to_owned()).map_err(ask::refused)?;
    if follow {
        return Err(CliError::usage(
            "the log of a view that the daemon serves can be followed by root alone",
        ));
    }
    Ok(LogReader::of_copy(log))
}

fn missing(error: LogError) -> CliError {
    CliError::new(error.to_string()).hint("'nixview status' lists the views of this host")
}

/// The name of a view, also where it is known by its directory.
fn name(view: &str, context: &Context) -> Result<ViewName, CliError> {
    if !view.contains('/') {
        return view.parse().with_context(|| format!("'{view}' names no view"));
    }
    let path = mount_path(std::path::Path::new(view))?;
    let none = || CliError::new(format!("no view of this registry is mounted on {view}"));
    let registry = Registry::existing(&context.state.runtime).ok_or_else(none)?;
    find(&registry, &Which::Path(&path)).map(|(name, _)| name).map_err(failed)
}

fn print(lines: &[Line], json: bool, context: &Context) -> Result<(), CliError> {
    if lines.is_empty() {
        return Ok(());
    }
    context.output.write(|out| {
        for line in lines {
            if json {
                writeln!(out, "{}", printable::json(&serde_json::to_string(line)?))?;
            } else {
                writeln!(out, "{}", printable(&line.text()))?;
            }
        }
        Ok(())
    })
}
