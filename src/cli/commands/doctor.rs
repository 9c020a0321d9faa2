//! `nixview doctor`: what this machine lacks.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::view::{absolute, dirs};
use crate::cli::{CliError, Context, host};
use crate::daemon::doctor::{Health, examine};

/// Arguments of `nixview doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is 1 if something is missing that nixview does not work without.\n\n\
    Examples:\n  \
    nixview doctor\n  \
    nixview doctor --json --store /mnt/store")]
pub struct Args {
    /// Print JSON [default: a table]
    #[arg(long)]
    pub json: bool,
    /// The store to look at
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    pub store: PathBuf,
}

/// Looks.
///
/// # Errors
/// If the answer cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let mut checks = examine(&absolute(&args.store)?, &dirs(context));
    checks.extend(host::examine(context));
    if args.json {
        context.output.json(&checks)?;
    } else {
        let word = |health| match health {
            Health::Good => "good",
            Health::Limited => "limited",
            Health::Missing => "missing",
        };
        let rows: Vec<[String; 3]> =
            checks.iter().map(|c| [c.name.to_owned(), word(c.health).to_owned(), c.found.clone()]).collect();
        context.output.table(["WHAT", "STATE", "FOUND"], &rows)?;
        for check in &checks {
            if let Some(advice) = &check.advice {
                context.output.line(&format!("{} ({}): {advice}", check.name, word(check.health)))?;
            }
        }
    }
    let missing = checks.iter().any(|c| c.health == Health::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
