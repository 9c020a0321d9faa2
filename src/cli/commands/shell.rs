//! `nixview shell`: a shell with a view at `/nix`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::run::{HowArgs, execute};
use crate::cli::{CliError, Context};
use crate::view::spec::ViewSpec;

/// Arguments of `nixview shell`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The shell is the environment's bash with --pure, else that of the variable SHELL.\n\n\
    Examples:\n  \
    nixview shell --closure env.lock\n  \
    nixview shell --closure env.lock --pure"
)]
pub struct Args {
    /// How it is run.
    #[command(flatten)]
    pub how: HowArgs,
}

/// Starts it.
///
/// # Errors
/// If the view cannot be had.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let own = std::env::var_os("SHELL").filter(|shell| !shell.is_empty() && !args.how.pure);
    execute(&args.how, context, |spec, bin| {
        let shell = own.or_else(|| bash(spec, bin)).unwrap_or_else(|| "/bin/sh".into());
        (shell, Vec::new())
    })
}

/// The environment's own bash, by its path in the view.
fn bash(spec: &ViewSpec, bin: &[PathBuf]) -> Option<OsString> {
    let store = Path::new(spec.store.dir.as_str());
    bin.iter().map(|dir| dir.join("bash")).find_map(|bash| {
        let real = spec.store.real.join(bash.strip_prefix(store).ok()?);
        real.symlink_metadata().is_ok().then(|| bash.into_os_string())
    })
}
