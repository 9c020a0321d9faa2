//! `nixview run`: a command with a view at `/nix`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::view::{LimitArgs, UpperArgs, ViewArgs, absolute, dirs, failed, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::control::{Place, Upper};
use crate::daemon::run::{Outcome, Program, environment};
use crate::daemon::server::ServeOptions;
use crate::daemon::{self, Order};
use crate::lock::format::MAX_SIZE;
use crate::view::ViewName;
use crate::view::spec::ViewSpec;

/// Arguments of `nixview run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The exit code is the command's: 128 + N if signal N killed it, 127 if it was not found, 126 if it \
    could not be executed. When it ends, so does everything that it started.\n\n\
    Examples:\n  \
    nixview run --closure env.lock -- python3 app.py\n  \
    nixview run --closure env.lock --pure -- bash -c 'echo $PATH'\n  \
    nixview run --closure env.lock --upper ./changes -- make install"
)]
pub struct Args {
    /// How it is run.
    #[command(flatten)]
    pub how: HowArgs,
    /// The command and its arguments; it is looked for in the environment's programs, then in PATH
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// How a command is run: the same for a shell.
#[derive(Debug, clap::Args)]
pub struct HowArgs {
    /// What it sees.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Where changes go.
    #[command(flatten)]
    pub upper: UpperArgs,
    /// How much they may be.
    #[command(flatten)]
    pub limit: LimitArgs,
    /// Start with an environment of TERM, HOME, USER and the environment's programs in PATH alone [default: your
    /// environment variables, with these programs in front of PATH]
    #[arg(long)]
    pub pure: bool,
    /// Work in this directory [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,
    /// Use a user namespace, as without root [default: only without root]
    #[arg(long)]
    pub user_namespace: bool,
}

/// Runs it.
///
/// # Errors
/// If the view cannot be had.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CliError::usage("no command was given"));
    };
    let program = program.clone();
    execute(&args.how, context, |_, _| (program, arguments.to_vec()))
}

/// Runs what `choose` says, which is told the view and the directories of its programs.
pub(super) fn execute(
    how: &HowArgs,
    context: &Context,
    choose: impl FnOnce(&ViewSpec, &[PathBuf]) -> (OsString, Vec<OsString>),
) -> Result<ExitCode, CliError> {
    let name: ViewName = format!("run-{}", std::process::id()).parse().context("cannot name the view")?;
    let upper = how.upper.chosen()?.unwrap_or(Upper::Temporary);
    let place = Place::Handed { purpose: format!("process {}", std::process::id()) };
    let request = how.view.request(Some(&name), place, upper, &how.limit)?;
    let Order { spec, options, .. } =
        Order::new(&request, how.view.lock()?, MAX_SIZE, None, &dirs(context)).map_err(failed)?;
    let bin = programs(&spec);
    let directory = match &how.chdir {
        Some(dir) => absolute(dir)?,
        None => std::env::current_dir().context("cannot tell the current directory")?,
    };
    let (program, arguments) = choose(&spec, &bin);
    let environment = environment::environment(std::env::vars_os(), &[], &bin, how.pure);
    let program = Program { program, arguments, environment, directory };
    let options = ServeOptions { fusermount: false, ..options };
    let usable = &mut |_: &_, warnings: &[String]| warn(context, warnings);
    let outcome = daemon::run(&spec, &dirs(context), &program, options, how.user_namespace, usable);
    match outcome.map_err(failed)? {
        Outcome::Ended { code, warnings } => {
            warn(context, &warnings);
            Ok(ExitCode::from(code))
        }
        Outcome::NotStarted { failure, code } => Err(failed(failure).with_code(code)),
    }
}

/// The `bin` directories of the roots, as the view has them.
fn programs(spec: &ViewSpec) -> Vec<PathBuf> {
    let roots = spec.lock.roots.iter().map(|root| &root.path);
    let with_bin = roots.filter(|path| spec.store.real_path(path).join("bin").symlink_metadata().is_ok());
    with_bin.map(|path| spec.store.dir.join(path).join("bin")).collect()
}
