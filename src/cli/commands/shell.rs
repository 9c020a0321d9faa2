//! `nixview shell`: a shell with a view at `/nix`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::run::{HowArgs, execute};
use crate::cli::environment::enter_shell;
use crate::cli::startup::Startup;
use crate::cli::{CliError, Context, ErrorContext};
use crate::view::spec::ViewSpec;

/// Arguments of `nixview shell`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With variables in the lock ('nixview lock --env') the shell is what nix-shell would start: the bash that \
    they were recorded with, with these variables and functions, after the derivation's shellHook. Else it is the \
    environment's bash with --pure, and that of the variable SHELL without; your startup file (~/.bashrc, ~/.zshrc, \
    config.fish) is read first, and the environment's programs come before what it puts into PATH.\n\n\
    Examples:\n  \
    nixview shell --closure env.lock\n  \
    nixview shell --closure env.lock --pure\n  \
    nixview shell --closure env.lock --run 'make check'"
)]
pub struct Args {
    /// How it is run.
    #[command(flatten)]
    pub how: HowArgs,
    /// Run this command in the shell, and end [default: an interactive shell]
    #[arg(long, value_name = "COMMAND")]
    pub run: Option<OsString>,
}

/// Starts it.
///
/// # Errors
/// If the view cannot be had.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let own =
        std::env::var_os("SHELL").filter(|shell| !shell.is_empty() && !args.how.pure && !args.how.isolated);
    execute(&args.how, context, |spec, bin| {
        if let Some(environment) = &spec.lock.environment {
            let entered = enter_shell(environment, args.run.as_deref(), args.how.pure)?;
            return Ok((entered.program, entered.arguments, entered.environment, Some(entered.files)));
        }
        let shell = own.or_else(|| bash(spec, bin)).unwrap_or_else(|| "/bin/sh".into());
        let variables = args.how.variables(bin);
        if let Some(command) = &args.run {
            return Ok((shell, vec!["-c".into(), command.clone()], variables, None));
        }
        let startup = Startup::of(&shell, bin, variables, args.how.pure)
            .context("cannot make the startup files of the shell")?;
        Ok((shell, startup.arguments, startup.environment, startup.files))
    })
}

/// The environment's own bash, by its path in the view: of a root, else of an extra root.
fn bash(spec: &ViewSpec, bin: &[PathBuf]) -> Option<OsString> {
    let store = Path::new(spec.store.dir.as_str());
    let extra = spec.lock.extra_roots.iter().map(|extra| spec.store.dir.join(&extra.path).join("bin"));
    bin.iter().cloned().chain(extra).map(|dir| dir.join("bash")).find_map(|bash| {
        let real = spec.store.real.join(bash.strip_prefix(store).ok()?);
        real.symlink_metadata().is_ok().then(|| bash.into_os_string())
    })
}
