//! `nixview lock`: pins an environment.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::environment::{self, Recorded};
use crate::cli::only_traced;
use crate::cli::output::{count, size};
use crate::cli::output_file::{Destination, Kind};
use crate::cli::source::{SOURCES, SourceArgs};
use crate::cli::{CliError, Context, ErrorContext};
use crate::closure::Mode;
use crate::daemon::prepare;
use crate::lock::{Evaluation, Made};

/// Arguments of `nixview lock`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{SOURCES}\n\nExamples:\n  \
    nixview lock ./shell.nix -o env.lock\n  \
    nixview lock ./envs.nix#web --argstr version 3 -o web.lock\n  \
    nixview lock --realise /nix/store/HASH-env.drv^out\n  \
    nixview lock --mode dev /nix/store/HASH-hello.drv\n  \
    nixview lock --env ./shell.nix && nixview shell --closure env.lock\n  \
    nixview lock ./result --extra-root certificates=/nix/store/HASH-nss-cacert\n  \
    nix-store -qR ./result | nixview lock - --name app\n  \
    nixview lock --only-traced app.trace env.lock -o small.lock && nixview run --closure small.lock -- app"))]
pub struct Args {
    /// What to lock; see below
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<String>,
    /// How it becomes a closure.
    #[command(flatten)]
    pub how: SourceArgs,
    /// Record the variables and functions that nix-shell would have, for 'nixview shell' and 'nixview run': the setup of the
    /// derivation is run once, in a view, unless it was before; implies --mode dev [default: record none]
    #[arg(long)]
    pub env: bool,
    /// Propose a smaller lock: of LOCK, given as SOURCE, keep what it starts from and the store paths that were used by this trace (see
    /// 'nixview trace'); can be given several times. Nothing that needs the rest works then: try it [default: keep the closure]
    #[arg(long, value_name = "TRACE", conflicts_with_all = ["env", "name", "mode", "extra_root", "realise", "arg", "argstr", "include",
        "option", "input", "evaluate"])]
    pub only_traced: Vec<PathBuf>,
    /// What to call the environment [default: the name of SOURCE]
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<String>,
    /// The lock file to write; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "env.lock")]
    pub output: PathBuf,
    /// Replace a file that is no lock, and write over a block device [default: they are an error]
    #[arg(long)]
    pub force: bool,
    /// Say what was done as JSON [default: as text]
    #[arg(long)]
    pub json: bool,
}

/// What was done, for `--json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    file: Option<&'a Path>,
    written: bool,
    evaluation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_remembered: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'static str>,
    name: &'a str,
    count: u64,
    digest: String,
    nar_size: Option<u64>,
}

/// Makes the lock and writes it.
///
/// # Errors
/// If what was given cannot be locked, or the lock not be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let file = (args.output != Path::new("-")).then_some(args.output.as_path());
    if file.is_none() && args.json {
        return Err(CliError::usage("--json and -o - both want standard output"));
    }
    let destination = file.map(|file| Destination::find(file, Kind::Lock, args.force)).transpose()?;
    let to_output = destination.as_ref().is_some_and(Destination::is_standard_output);
    if to_output && args.json {
        return Err(CliError::usage("--json and the lock both want standard output"));
    }
    if !args.only_traced.is_empty() {
        return propose(args, destination, to_output, context);
    }
    let mode = if args.env { Mode::Dev } else { Mode::Runtime };
    if args.env && args.how.mode.is_some_and(|mode| mode != Mode::Dev) {
        return Err(CliError::usage("--env is of an environment for developing")
            .hint("use it with --mode dev, or without --mode"));
    }
    let mut made = args.how.make("cannot lock", &args.sources, args.name.as_deref(), file, mode, context)?;
    let mut recorded = None;
    if args.env {
        if args.how.mode.is_none() {
            context.output.note("nixview: note: --env locks in mode dev");
        }
        let (environment, how) = environment::record(&made.lock, &args.how.location()?, context)?;
        made.lock.environment = Some(environment);
        recorded = Some(how);
    }
    let text = made.lock.print().context("cannot print the lock")?;
    let (Some(file), Some(destination)) = (file, destination) else {
        context.output.json_text(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let written = destination.update(text.as_bytes())?;
    if let Evaluation::Doubtful(why) = &made.evaluation {
        context.output.note(&format!("nixview: note: will be evaluated each time: {why}"));
    }
    // The first mount has it then. If it cannot be made, that mount says why.
    if prepare::is_useful()
        && let Err(error) = prepare::prepare(&made.lock, &args.how.location()?, &context.state.state)
    {
        tracing::info!(%error, "the first view of the lock is not prepared");
    }
    if args.json {
        context.output.json(&report(&made, file, written, recorded))?;
    } else {
        report_line(&said(&made, file, written, recorded), to_output, context)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line: to standard error where standard output is the lock itself.
fn report_line(line: &str, to_output: bool, context: &Context) -> Result<(), CliError> {
    if to_output {
        context.output.note(line);
        return Ok(());
    }
    context.output.line(line)
}

/// Writes a lock of what was used.
fn propose(
    args: &Args,
    destination: Option<Destination>,
    to_output: bool,
    context: &Context,
) -> Result<ExitCode, CliError> {
    let [lock] = args.sources.as_slice() else {
        return Err(CliError::usage("--only-traced makes a smaller lock of one LOCK: give one lock file"));
    };
    let location = args.how.location()?;
    let (kept, written) = only_traced::propose(
        Path::new(lock),
        &args.only_traced,
        &args.output,
        destination,
        &location,
        context,
    )?;
    let Some(file) = &kept.file else { return Ok(ExitCode::SUCCESS) };
    if args.json {
        context.output.json(&kept)?;
    } else {
        let same = if written { "" } else { " (the lock says so already)" };
        report_line(&format!("{}: {}{same}", file.display(), kept.text()), to_output, context)?;
        context.output.note(&format!(
            "nixview: note: a proposal; try what you need with 'nixview run --closure {} -- COMMAND'",
            file.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn report<'a>(made: &'a Made, file: &'a Path, written: bool, recorded: Option<Recorded>) -> Report<'a> {
    let (evaluation, not_remembered) = match &made.evaluation {
        Evaluation::None => ("none", None),
        Evaluation::Remembered => ("unchanged", None),
        Evaluation::Evaluated => ("evaluated", None),
        Evaluation::Doubtful(why) => ("evaluated", Some(why.as_str())),
    };
    let closure = &made.lock.closure;
    Report {
        file: Some(file),
        written,
        evaluation,
        not_remembered,
        environment: recorded.map(|recorded| match recorded {
            Recorded::Unchanged => "unchanged",
            Recorded::Now => "recorded",
        }),
        name: &made.lock.name,
        count: closure.count,
        digest: closure.digest.to_string(),
        nar_size: closure.nar_size,
    }
}

/// `env.lock: 42 paths, 1.2 GiB (unchanged, not evaluated)`
fn said(made: &Made, file: &Path, written: bool, recorded: Option<Recorded>) -> String {
    let closure = &made.lock.closure;
    let mut text = format!("{}: {}", file.display(), count(closure.count, "path", "paths"));
    if let Some(bytes) = closure.nar_size {
        text.push_str(&format!(", {}", size(bytes)));
    }
    if let Some(environment) = &made.lock.environment {
        text.push_str(&format!(", {}", count(environment.variables.len() as u64, "variable", "variables")));
    }
    let evaluation = match &made.evaluation {
        Evaluation::None => None,
        Evaluation::Remembered => Some("unchanged, not evaluated"),
        Evaluation::Evaluated | Evaluation::Doubtful(_) => Some("evaluated"),
    };
    let scanned = closure.references.map(|_| "references looked for in the files: may be more than Nix has");
    let file = (!written).then_some("the lock says so already");
    let recorded = recorded.map(|recorded| match recorded {
        Recorded::Unchanged => "variables unchanged, nothing run",
        Recorded::Now => "variables recorded",
    });
    let remarks: Vec<&str> = evaluation.into_iter().chain(recorded).chain(scanned).chain(file).collect();
    if !remarks.is_empty() {
        text.push_str(&format!(" ({})", remarks.join("; ")));
    }
    text
}
