//! `nixview upper`: the writable parts of views that lie in the state directory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cli::confirm::confirm;
use crate::cli::output::{self, count, duration};
use crate::cli::view::{absolute, dirs, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::printable::printable;
use crate::view::upper_dir::{self, Limit, Space, UpperError, UpperInfo, Usage};

/// Arguments of `nixview upper`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    nixview upper list\n  \
    nixview upper prune --older-than 90d --dry-run\n  \
    nixview upper remove web\n  \
    nixview upper remove /srv/web.upper")]
pub struct Args {
    /// What to do with them.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with uppers.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List those in the state directory
    List {
        /// Print JSON [default: a table]
        #[arg(long)]
        json: bool,
    },
    /// Remove those in the state directory that no view has used for a while
    Prune {
        /// How long an upper must not have been used: 30d, 12h, 0s
        #[arg(long, value_name = "AGE", default_value = "30d", value_parser = humantime::parse_duration)]
        older_than: Duration,
        /// Only say what would be removed [default: remove it]
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Do not ask [default: ask on a terminal, else refuse]
        #[arg(long)]
        yes: bool,
        /// Answer as JSON [default: as text]
        #[arg(long)]
        json: bool,
    },
    /// Remove some, with everything that was changed in their views
    Remove {
        /// Names of those in the state directory, or paths (anything with a '/')
        #[arg(value_name = "UPPER", required = true, add = clap_complete::ArgValueCompleter::new(crate::cli::complete::uppers))]
        uppers: Vec<PathBuf>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    path: PathBuf,
    view: String,
    format: String,
    temporary: bool,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<Space>,
    /// When it was last used, or since when it is, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<ShownLock>,
}

/// The environment that an upper was last used with.
#[derive(Serialize)]
struct ShownLock {
    name: String,
    digest: String,
    store: PathBuf,
}

/// How many objects of an upper without a limit are counted.
const COUNTED: u64 = 20_000;

/// Does it.
///
/// # Errors
/// If the uppers cannot be listed, or one cannot be removed.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    match &args.action {
        Action::List { json } => list(context, *json),
        Action::Prune { older_than, dry_run, yes, json } => {
            prune(context, *older_than, *dry_run, *yes, *json)
        }
        Action::Remove { uppers } => {
            for upper in uppers {
                let named = upper.to_str().is_some_and(|text| !text.contains('/'));
                let path = if named { dirs(context).uppers().join(upper) } else { absolute(upper)? };
                remove(&path)?;
                context.output.note(&format!("removed {}", path.display()));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn remove(path: &std::path::Path) -> Result<(), CliError> {
    upper_dir::remove(path).map_err(|error| match &error {
        UpperError::Busy { .. } => {
            CliError::new(error.to_string()).hint("unmount its view first: 'nixview umount'")
        }
        UpperError::Missing { .. } | UpperError::NotAnUpper { .. } => {
            CliError::new(error.to_string()).hint("'nixview upper list' lists those in the state directory")
        }
        _ => CliError::new(error.to_string()),
    })
}

fn list(context: &Context, json: bool) -> Result<ExitCode, CliError> {
    let mut problems = Vec::new();
    let dirs = dirs(context);
    let found = infos(&[dirs.uppers(), dirs.temporary()], &mut problems)?;
    let found: Vec<Shown> = found.into_iter().map(|info| shown(info, &mut problems)).collect();
    if json {
        context.output.json(&found)?;
    } else {
        let rows: Vec<[String; 7]> = found.iter().map(row).collect();
        let header = ["UPPER", "VIEW", "LOCK", "FORMAT", "USED", "LAST USED", "USED BY"];
        context.output.table(header, &rows)?;
        if rows.is_empty() {
            context.output.note(&format!("nixview: no uppers are in {}", dirs.state.display()));
        }
    }
    warn(context, &problems);
    Ok(ExitCode::SUCCESS)
}

/// The uppers below these directories; of one that cannot be read, what is wrong with it.
fn infos(parents: &[PathBuf], problems: &mut Vec<String>) -> Result<Vec<UpperInfo>, CliError> {
    let mut found = Vec::new();
    for parent in parents {
        for answer in upper_dir::list(parent).context("cannot list the uppers")? {
            match answer {
                Ok(info) => found.push(info),
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    Ok(found)
}

fn shown(info: UpperInfo, problems: &mut Vec<String>) -> Shown {
    let mut told = |error: UpperError| match error {
        // It was removed at this moment.
        UpperError::Missing { .. } => {}
        error => problems.push(error.to_string()),
    };
    let space = info.space(COUNTED).unwrap_or_else(|error| {
        told(error);
        None
    });
    let last = info.last_view().unwrap_or_else(|error| {
        told(error);
        None
    });
    let lock = last.map(|last| ShownLock {
        name: last.lock.name,
        digest: last.lock.closure.digest.to_string(),
        store: last.store,
    });
    let UpperInfo { path, meta, held, pid, used, usage } = info;
    let format = format!("{:?}", meta.format).to_lowercase();
    let used = used.and_then(|used| used.duration_since(UNIX_EPOCH).ok()).map(|used| used.as_secs());
    let (view, temporary, limit) = (meta.view, meta.temporary, meta.limit);
    Shown { path, view, format, temporary, held, pid, limit, usage, space, used, lock }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    dry_run: bool,
    /// What was removed, or would be.
    removed: Vec<PathBuf>,
}

/// Removes the uppers that nobody uses and nobody has used since `age` ago.
fn prune(
    context: &Context,
    age: Duration,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> Result<ExitCode, CliError> {
    let mut problems = Vec::new();
    let old = |used: Option<SystemTime>| {
        // A clock that was set back makes it young.
        used.is_some_and(|used| SystemTime::now().duration_since(used).unwrap_or_default() >= age)
    };
    let found = infos(&[dirs(context).uppers()], &mut problems)?;
    let unused: Vec<UpperInfo> = found.into_iter().filter(|info| !info.held && old(info.used)).collect();
    warn(context, &problems);
    if !dry_run && !unused.is_empty() {
        if !yes {
            unused.iter().for_each(|info| context.output.note(&format!("  {}", info.path.display())));
        }
        let what = count(unused.len() as u64, "upper", "uppers");
        confirm(yes, &format!("Remove {what} with everything that was changed in their views?"))?;
    }
    let mut removed = Vec::new();
    for info in unused {
        match if dry_run { Ok(()) } else { upper_dir::remove(&info.path) } {
            Ok(()) => removed.push(info.path),
            // A view took it, or another removed it.
            Err(UpperError::Busy { .. } | UpperError::Missing { .. }) => {}
            Err(error) => return Err(CliError::new(error.to_string())),
        }
    }
    if json {
        context.output.json(&Pruned { dry_run, removed })?;
    } else {
        let done = if dry_run { "would remove" } else { "removed" };
        context.output.write(|out| {
            removed
                .iter()
                .try_for_each(|path| writeln!(out, "{done} {}", printable(&path.display().to_string())))?;
            if removed.is_empty() { writeln!(out, "{done} nothing") } else { Ok(()) }
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(upper: &Shown) -> [String; 7] {
    let by = match (upper.held, upper.pid) {
        (false, _) => "-".to_owned(),
        (true, Some(pid)) => format!("process {pid}"),
        (true, None) => "somebody".to_owned(),
    };
    let used = match &upper.space {
        Some(space) => output::space(space),
        None => output::used(upper.limit.as_ref(), upper.usage.as_ref()),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let last = upper.used.map(|used| duration(now.saturating_sub(used)));
    let last = match (upper.held, last) {
        (_, None) => "-".to_owned(),
        (true, Some(since)) => format!("now, for {since}"),
        (false, Some(since)) => format!("{since} ago"),
    };
    let lock = upper.lock.as_ref().map_or_else(|| "-".to_owned(), |lock| lock.name.clone());
    [upper.path.display().to_string(), upper.view.clone(), lock, upper.format.clone(), used, last, by]
}
