//! `nixview keep`: what `nixview-keep`, the program that a keeper becomes while it waits, runs when something happened.

use std::process::ExitCode;

use crate::cli::view::{dirs, failed};
use crate::cli::{CliError, Context};
use crate::daemon::keeper::{self, Passed};
use crate::view::ViewName;

/// Arguments of `nixview keep`: numbers of descriptors that the process has.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For nixview-keep alone.\n\nExample:\n  nixview keep web --signals 5 --claim 6 --end 17"
)]
pub struct Args {
    /// The view
    pub name: ViewName,
    /// Where signals arrive
    #[arg(long, value_name = "FD")]
    pub signals: u32,
    /// The lock of the view's name
    #[arg(long, value_name = "FD")]
    pub claim: u32,
    /// What becomes readable when the view is gone
    #[arg(long, value_name = "FD")]
    pub end: u32,
    /// The socket of the caller, for a view that ends with it [default: it does not]
    #[arg(long, value_name = "FD")]
    pub caller: Option<u32>,
    /// The mount namespace of the command in the view [default: it was not told]
    #[arg(long, value_name = "INODE")]
    pub namespace: Option<u64>,
}

/// Resumes the keeper.
///
/// # Errors
/// As [`keeper::resume`].
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let Args { signals, claim, end, caller, namespace, .. } = *args;
    let passed = Passed { signals, claim, end, caller, namespace };
    keeper::resume(&dirs(context), &args.name, context.verbose, passed).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
