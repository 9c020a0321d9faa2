//! `nixview trace`: what is used of a view, recorded.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;

use super::trace_report;
use crate::cli::output::count;
use crate::cli::output_file::{Destination, Kind};
use crate::cli::view::{failed, mount_path};
use crate::cli::{CliError, Context, ErrorContext};
use crate::daemon::registry::Registry;
use crate::daemon::stop::Which;
use crate::daemon::trace::{Tracer, View};
use crate::sys::output_file::OutputFile;
use crate::sys::signals::{Signals, wait_readable};
use crate::trace::{self, Kind as Use, Trace};

/// How often what came is taken over.
const TICK: Duration = Duration::from_millis(200);

/// Arguments of `nixview trace`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Records until Ctrl-C or SIGTERM, until --for is over, or until the view ends; then writes the trace. Who may: root, and the \
    user whom the view is served by. A thing is recorded when it is used for the first time: a file when it is opened, a link when it \
    is read, a directory when it is listed, a name when it is looked up.\n\n\
    What the kernel keeps of a view that was used before is not asked for again: names and links that were looked up and read before the \
    trace began are missing in it, and in a view with cached files (see --io) opens of what is in the page cache. 'nixview mount --trace' \
    and 'nixview run --trace' record everything from the beginning.\n\n\
    Examples:\n  \
    nixview run --trace app.trace --closure env.lock -- python3 app.py\n  \
    nixview mount --trace web.trace --closure env.lock /run/views/web\n  \
    nixview trace web --for 10min -o web.trace\n  \
    nixview trace report web.trace\n  \
    nixview lock --only-traced web.trace env.lock -o small.lock"
)]
pub struct Args {
    /// What to do with traces that are there.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// The view: its name, or the directory that it is mounted on
    #[arg(value_name = "VIEW", required = true, add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views_and_directories))]
    pub view: Option<PathBuf>,
    /// The file to write; a trace that is there is replaced [default: the view's name with .trace]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a file that is no trace, and write over a block device [default: they are an error]
    #[arg(long)]
    pub force: bool,
    /// Record for this long, as in 30s, 10min or 2h [default: until Ctrl-C, SIGTERM or the view's end]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Say what was recorded as JSON [default: as text]
    #[arg(long)]
    pub json: bool,
}

/// What to do with traces.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Say which part of a closure was used, which never was, and why that is in it
    Report(trace_report::Args),
}

/// What was recorded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    file: PathBuf,
    view: String,
    exact: bool,
    complete: bool,
    /// The trace is written to its end.
    ended: bool,
    /// Files of the store that were opened.
    opened: usize,
    /// Store paths in which something was opened.
    store_paths: usize,
    /// How many the closure has.
    of: u64,
}

impl Summary {
    pub(super) fn of(file: &Path, trace: &Trace) -> Self {
        let opened = || trace.lower.iter().filter(|(_, kinds)| kinds.has(Use::Opened)).map(|(path, _)| path);
        let in_store = || opened().filter_map(|path| path.strip_prefix(b"store/"));
        let paths: BTreeSet<&[u8]> =
            in_store().filter_map(|path| path.split(|byte| *byte == b'/').next()).collect();
        Self {
            file: file.to_owned(),
            view: trace.head.view.clone(),
            exact: trace.head.exact,
            complete: trace.end.is_none_or(|end| end.complete),
            ended: trace.end.is_some(),
            opened: in_store().count(),
            store_paths: paths.len(),
            of: trace.head.closure.count,
        }
    }

    /// `web.trace: 312 files of 14 of 63 store paths were opened`
    pub(super) fn text(&self) -> String {
        let files = count(self.opened as u64, "file", "files");
        let paths = count(self.of, "store path", "store paths");
        let mut text = format!(
            "{}: {files} of {} of {paths} {} opened",
            self.file.display(),
            self.store_paths,
            if self.opened == 1 { "was" } else { "were" }
        );
        if !self.ended {
            text.push_str("; the trace is not written to its end");
        }
        if !self.complete {
            text.push_str("; there was no memory for all of it");
        }
        if !self.exact {
            text.push_str("; opens of what the view's page cache had are missing");
        }
        text
    }
}

/// Traces.
///
/// # Errors
/// If the view cannot be traced, or the trace not be written.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    if let Some(Action::Report(args)) = &args.action {
        return trace_report::run(args, context);
    }
    let Some(view) = &args.view else { return Err(CliError::usage("no view was named")) };
    let registry = registry(&context.state.runtime)?;
    let path = mount_path(view)?;
    let named = view.to_str().filter(|text| !text.contains('/')).and_then(|text| text.parse().ok());
    let which = named.map_or(Which::Path(&path), Which::Name);
    // Before the signals are blocked: a FIFO is waited for until it has a reader.
    let find = |file: &Path| Destination::find(file, Kind::Trace, args.force)?.open();
    let given = args.output.as_deref().map(find).transpose()?;
    let signals =
        Signals::block(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).context("cannot take signals")?;
    let mut tracer = Tracer::begin(&registry, &which).map_err(failed)?;
    let file: PathBuf = args.output.clone().unwrap_or_else(|| format!("{}.trace", tracer.head().view).into());
    let draft = given.map_or_else(|| find(&file), Ok)?;
    let trace = record(args, context, &mut tracer, &signals, (&file, draft))?;
    let summary = Summary::of(&file, &trace);
    if args.json {
        context.output.json(&summary)?;
    } else {
        context.output.line(&summary.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn registry(runtime: &Path) -> Result<Registry, CliError> {
    let views = runtime.join("views");
    match std::fs::read_dir(&views) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(error)
            .with_context(|| format!("cannot read {}", views.display()))
            .map_err(|error: CliError| error.hint("only root and the user that serves a view may trace it")),
        _ => Registry::existing(runtime).ok_or_else(|| {
            let hint = format!("views are registered in {}; see --runtime-dir", runtime.display());
            CliError::new("no view is mounted").hint(hint)
        }),
    }
}

/// Records until the end, and writes the file.
fn record(
    args: &Args,
    context: &Context,
    tracer: &mut Tracer,
    signals: &Signals,
    (file, mut draft): (&Path, OutputFile),
) -> Result<Trace, CliError> {
    let written = || format!("cannot write {}", file.display());
    let read = "cannot read what was recorded";
    let mut trace = Trace::new(tracer.head().clone());
    draft.write_all(&trace::head_line(&trace.head).with_context(written)?).with_context(written)?;
    let view = &trace.head.view;
    if !trace.head.exact {
        context.output.note(&format!(
            "nixview: note: the kernel opens files of the view '{view}' without asking; a file counts as opened when something of it \
             is read that is not in the page cache"
        ));
    }
    if args.duration.is_none() && std::io::stderr().is_terminal() {
        context.output.note(&format!("tracing the view '{view}'; Ctrl-C ends it"));
    }
    let progress = context.output.progress("");
    let until = args.duration.map(|duration| Instant::now() + duration);
    let mut goes_on = true;
    while goes_on {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let tick = left.map_or(TICK, |left| left.min(TICK));
        let ready = wait_readable(&[signals.as_fd(), tracer.keeper().as_fd()], Some(tick))
            .context("cannot wait for the end of the trace")?;
        let told = ready.first() == Some(&true);
        let over = ready.get(1) == Some(&true) && tracer.view().map_err(failed)? == View::Over;
        goes_on = !told && !over && !left.is_some_and(|left| left.is_zero());
        if !goes_on {
            trace.end = Some(tracer.end().context("cannot end the trace")?);
        }
        let news = tracer.news().context(read)?;
        draft.write_all(&news).with_context(written)?;
        trace.add_lines(&news).map_err(|problem| CliError::new(format!("{read}: {problem}")))?;
        let summary = Summary::of(file, &trace);
        progress.tell(&format!(
            "{} of {} of {} store paths opened",
            count(summary.opened as u64, "file", "files"),
            summary.store_paths,
            summary.of
        ));
    }
    if let Some(end) = trace.end {
        draft.write_all(&trace::end_line(end).with_context(written)?).with_context(written)?;
    }
    draft.finish().with_context(written)?;
    Ok(trace)
}
