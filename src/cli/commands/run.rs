//! `nixview run`: a command with a view at `/nix`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::trace::Summary;
use crate::cli::config::Config;
use crate::cli::environment::{Files, enter_program};
use crate::cli::view::{LimitArgs, UpperArgs, ViewArgs, absolute, dirs, failed, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::control::{Place, Upper};
use crate::daemon::keeper::ServeOptions;
use crate::daemon::run::{Isolation, Outcome, Program, environment};
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
    nixview run --closure env.lock --upper ./changes -- make install\n  \
    nixview run --closure small.lock --isolated --pure --share . -- python3 app.py"
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
    /// Start with an environment of TERM, HOME, USER and the environment's programs in PATH alone; with variables in the
    /// lock, these and what nix-shell --pure keeps [default: your
    /// environment variables, with these programs in front of PATH]
    #[arg(long)]
    pub pure: bool,
    /// Leave out the variables that the lock has (nixview lock --env) [default: set them]
    #[arg(long)]
    pub no_env: bool,
    /// Work in this directory [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,
    /// Show nothing of the host: /nix, /proc, /dev, /tmp, an empty home directory, /etc/passwd and /etc/group alone, in a
    /// PID namespace. For testing what an environment lacks; no boundary of security [default: all of the host but its /nix]
    #[arg(long)]
    pub isolated: bool,
    /// With --isolated: show this directory or file of the host, too, with the right to write [default: none]
    #[arg(long, value_name = "PATH", requires = "isolated", value_hint = clap::ValueHint::AnyPath)]
    pub share: Vec<PathBuf>,
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
    execute(&args.how, context, |spec, bin| {
        let (program, arguments) = (program.clone(), arguments.to_vec());
        match &spec.lock.environment {
            Some(environment) => {
                let entered = enter_program(environment, program, arguments, bin, args.how.pure)?;
                Ok((entered.program, entered.arguments, entered.environment, Some(entered.files)))
            }
            None => Ok((program, arguments, args.how.variables(bin), None)),
        }
    })
}

/// A program, its arguments, its variables, and what is to be kept until it ends.
pub(super) type Chosen = (OsString, Vec<OsString>, Vec<(OsString, OsString)>, Option<Files>);

impl HowArgs {
    /// The variables of a program where the lock has none.
    pub(super) fn variables(&self, bin: &[PathBuf]) -> Vec<(OsString, OsString)> {
        environment::environment(std::env::vars_os(), &[], bin, self.pure)
    }

    /// What a command that is isolated has of the host.
    fn isolation(&self, files: Option<&Files>) -> Result<Isolation, CliError> {
        let mut shared: Vec<PathBuf> =
            self.share.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?;
        shared.extend(files.map(|files| files.path().to_owned()));
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Isolation::new(home.as_deref(), shared).map_err(failed)
    }

    /// Leads variables away from directories of the host that are not there.
    fn isolated_variables(&self, isolation: &Isolation, variables: &mut Vec<(OsString, OsString)>) {
        const TEMPORARY: [&str; 5] = ["NIX_BUILD_TOP", "TEMP", "TEMPDIR", "TMP", "TMPDIR"];
        variables.retain(|(name, _)| name != "XDG_RUNTIME_DIR");
        for (name, value) in variables {
            if TEMPORARY.iter().any(|temporary| name == temporary) {
                *value = "/tmp".into();
            } else if name == "HOME" {
                *value = isolation.home().into();
            }
        }
    }
}

/// Runs what `choose` says, which is told the view and the directories of its programs.
pub(super) fn execute(
    how: &HowArgs,
    context: &Context,
    choose: impl FnOnce(&ViewSpec, &[PathBuf]) -> Result<Chosen, CliError>,
) -> Result<ExitCode, CliError> {
    let name: ViewName = format!("run-{}", std::process::id()).parse().context("cannot name the view")?;
    let upper = how.upper.chosen()?.unwrap_or(Upper::Temporary);
    let place = Place::Handed { purpose: format!("process {}", std::process::id()) };
    let mut request = how.view.request(Some(&name), place, upper, &how.limit)?;
    request.verbose = context.verbose;
    how.view.realise(context)?;
    let Order { mut spec, mut options, .. } =
        Order::new(&request, how.view.lock()?, MAX_SIZE, None, &dirs(context)).map_err(failed)?;
    options.prefer_overlay = Config::read()?.prefers_overlay();
    if how.no_env {
        spec.lock.environment = None;
    }
    let bin = programs(&spec);
    let directory = match &how.chdir {
        Some(dir) => absolute(dir)?,
        None => std::env::current_dir().context("cannot tell the current directory")?,
    };
    let (program, arguments, mut environment, files) = choose(&spec, &bin)?;
    let isolation = how.isolated.then(|| how.isolation(files.as_ref())).transpose()?;
    let directory = match &isolation {
        Some(isolation) => {
            how.isolated_variables(isolation, &mut environment);
            let there = how.chdir.is_some() || isolation.has(&directory);
            if there { directory } else { isolation.home().to_owned() }
        }
        None => directory,
    };
    let inherited = context.inherited;
    let program = Program { program, arguments, environment, directory, output: None, isolation, inherited };
    let options = ServeOptions { fusermount: false, ..options };
    let usable = &mut |_: &_, warnings: &[String]| warn(context, warnings);
    let outcome = daemon::run(&spec, &dirs(context), &program, options, how.user_namespace, usable);
    drop(files);
    if let (Some(file), Ok(_)) = (&how.view.trace, &outcome) {
        let trace = crate::trace::read(file).context("the trace was not written")?;
        context.output.note(&format!("nixview: {}", Summary::of(file, &trace).text()));
    }
    match outcome.map_err(failed)? {
        Outcome::Ended { code, warnings } => {
            warn(context, &warnings);
            Ok(ExitCode::from(code))
        }
        Outcome::NotStarted { failure, code } => {
            let error = failed(failure).with_code(code);
            Err(match spec.lock.only.as_ref() {
                Some(only) => error.hint(format!(
                    "{} keeps {} of {} paths (--only-traced): what is missing may be in the rest",
                    spec.lock_file.display(),
                    spec.lock.closure.count,
                    only.of.count
                )),
                None => error,
            })
        }
    }
}

/// The `bin` directories of the roots, as the view has them.
fn programs(spec: &ViewSpec) -> Vec<PathBuf> {
    let roots = spec.lock.roots.iter().map(|root| &root.path);
    let with_bin = roots.filter(|path| spec.store.real_path(path).join("bin").symlink_metadata().is_ok());
    with_bin.map(|path| spec.store.dir.join(path).join("bin")).collect()
}
