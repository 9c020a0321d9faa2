//! `nixview status`: which views there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cli::output;
use crate::cli::view::warn;
use crate::cli::{CliError, Context, ErrorContext, ask};
use crate::daemon::record::{Place, Record, UpperRecord};
use crate::daemon::registry::{Registry, State};
use crate::daemon::{leftovers, old_roots};
use crate::json;
use crate::view::ViewName;
use crate::view::upper_dir::{Limit, UpperError, UpperInfo, Usage};

/// Arguments of `nixview status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "What a server left that was killed is shown as dead, and removed.\n\n\
    Examples:\n  \
    nixview status\n  \
    nixview status --json web")]
pub struct Args {
    /// Print JSON [default: a table]
    #[arg(long)]
    pub json: bool,
    /// The view [default: all]
    #[arg(value_name = "NAME")]
    pub name: Option<ViewName>,
}

/// A view as it is shown.
#[derive(Serialize)]
struct Shown {
    state: &'static str,
    name: ViewName,
    #[serde(flatten)]
    record: Option<ShownRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A record without what is in [`Shown`] already.
#[derive(Serialize)]
#[serde(transparent)]
struct ShownRecord(serde_json::Map<String, serde_json::Value>);

/// Shows them.
///
/// # Errors
/// If the registry cannot be read, or there is no view of the name.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let served_for_us = served_for_us(context)?;
    let mut registry = Registry::existing(&context.state.runtime);
    let mut all = match registry.as_ref().map(Registry::all) {
        // The daemon's registry is its own; it has answered for it.
        Some(Err(error)) if error.is_forbidden() && served_for_us.is_some() => {
            registry = None;
            Vec::new()
        }
        Some(answer) => answer.context("cannot read the registry of views")?,
        None => Vec::new(),
    };
    all.extend(served_for_us.unwrap_or_default());
    if let Some(name) = &args.name {
        all.retain(|(n, _)| n == name);
        if all.is_empty() {
            return Err(CliError::new(format!("there is no view named '{name}'")));
        }
    }
    let mut problems = Vec::new();
    let usages: Vec<_> = all.iter().map(|(_, state)| usage(state, &mut problems)).collect();
    if args.json {
        let shown = all.iter().zip(&usages).map(|((name, state), usage)| shown(name, state, *usage));
        let shown = shown.collect::<Result<Vec<_>, _>>()?;
        context.output.json(&shown)?;
    } else {
        let rows: Vec<_> =
            all.iter().zip(&usages).map(|((name, state), usage)| row(name, state, *usage)).collect();
        let header = ["NAME", "STATE", "WHERE", "PID", "PATHS", "IO", "UPPER", "USED", "OWNER", "SINCE"];
        context.output.table(header, &rows)?;
    }
    let mut stores = BTreeSet::from([PathBuf::from(old_roots::DEFAULT_STORE)]);
    if let Some(registry) = &registry {
        stores.extend(old_roots::stores(registry).context("cannot read the registry of views")?);
        let (_, left) = leftovers::sweep(registry).context("cannot clean up after dead views")?;
        problems.extend(left.into_iter().map(|p| p.what));
    }
    problems.extend(old_roots::sweep(&stores, false).1);
    warn(context, &problems);
    Ok(ExitCode::SUCCESS)
}

/// The views that the daemon serves for this user; `None` if there is none to ask, or this is root, who knows them all.
fn served_for_us(context: &Context) -> Result<Option<Vec<(ViewName, Found)>>, CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let Some(client) = ask::daemon(context)? else { return Ok(None) };
    let records = client.views().map_err(ask::refused)?.into_iter().map(json::from_value::<Record>);
    let records: Vec<Record> = records
        .collect::<Result<_, _>>()
        .context("the daemon speaks of views as this program does not understand")?;
    let found = |record: Record| (record.name.clone(), Ok(State::Served(Box::new(record))));
    Ok(Some(records.into_iter().map(found).collect()))
}

type Found = Result<State, crate::daemon::registry::RegistryError>;

fn word(state: &Found) -> &'static str {
    match state {
        Ok(State::Served(record)) if record.usable => "mounted",
        Ok(State::Starting | State::Served(_)) => "starting",
        Ok(State::Dead(_)) => "dead",
        Err(_) => "unknown",
    }
}

fn record(state: &Found) -> Option<&Record> {
    match state {
        Ok(State::Served(record) | State::Dead(record)) => Some(record),
        _ => None,
    }
}

/// The limit of a view's upper, and the upper.
fn limited(record: &Record) -> Option<(&Limit, &Path)> {
    match &record.upper {
        UpperRecord::Directory { path, limit: Some(limit) }
        | UpperRecord::Temporary { path, limit: Some(limit) } => Some((limit, path)),
        _ => None,
    }
}

/// How much of its limit a view holds, if it has one and that can be told.
fn usage(state: &Found, problems: &mut Vec<String>) -> Option<Usage> {
    let (_, path) = record(state).and_then(limited)?;
    match UpperInfo::read(path) {
        Ok(info) => info.and_then(|info| info.usage),
        // It ended at this moment.
        Err(UpperError::Missing { .. }) => None,
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    }
}

fn shown(name: &ViewName, state: &Found, usage: Option<Usage>) -> Result<Shown, CliError> {
    let record = match record(state) {
        Some(record) => {
            let value = serde_json::to_value(record).context("cannot print a record")?;
            let serde_json::Value::Object(mut fields) = value else {
                return Err(CliError::new("a record is no JSON object"));
            };
            for known in ["name", "version", "usable"] {
                fields.remove(known);
            }
            Some(ShownRecord(fields))
        }
        None => None,
    };
    let problem = state.as_ref().err().map(ToString::to_string);
    Ok(Shown { state: word(state), name: name.clone(), record, usage, problem })
}

fn row(name: &ViewName, state: &Found, usage: Option<Usage>) -> [String; 10] {
    let mut row = std::array::from_fn(|_| "-".to_owned());
    let cells = record(state).map(|record| cells(record, usage)).unwrap_or_default();
    let cells = [name.to_string(), word(state).to_owned()].into_iter().chain(cells);
    for (place, cell) in row.iter_mut().zip(cells) {
        *place = cell;
    }
    row
}

fn cells(record: &Record, usage: Option<Usage>) -> Vec<String> {
    let place = match &record.place {
        Place::Mounted { target, .. } => target.display().to_string(),
        Place::Private { command } => format!("/nix of '{command}'"),
        Place::Handed { purpose } => purpose.clone(),
    };
    let upper = match &record.upper {
        UpperRecord::Directory { path, .. } => path.display().to_string(),
        UpperRecord::Temporary { .. } => "temporary".to_owned(),
        UpperRecord::ReadOnly => "read-only".to_owned(),
    };
    let used = output::used(limited(record).map(|(limit, _)| limit), usage.as_ref());
    let owner = format!("{}:{}", record.uid, record.gid);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let since = duration(now.saturating_sub(record.since));
    let extra = record.extra_roots.iter().map(|extra| extra.name.as_str()).collect();
    let paths = paths(record.closure.count, extra);
    vec![place, record.pid.to_string(), paths, record.io.clone(), upper, used, owner, since]
}

/// `24`, or `24 (with bash, fonts, 3 more)` where extra roots were added.
fn paths(count: u64, extra: Vec<&str>) -> String {
    const SHOWN: usize = 2;
    let more = format!("{} more", extra.len().saturating_sub(SHOWN));
    let mut extra = extra;
    // Nothing is gained by saying how many, where that is one.
    if extra.len() > SHOWN + 1 {
        extra.truncate(SHOWN);
        extra.push(&more);
    }
    if extra.is_empty() { count.to_string() } else { format!("{count} (with {})", extra.join(", ")) }
}

/// Seconds in the largest unit that fits.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_roots_are_named_as_far_as_there_is_room() {
        let shown = |extra: &[&str]| paths(24, extra.to_vec());
        assert_eq!(shown(&[]), "24");
        assert_eq!(shown(&["bash"]), "24 (with bash)");
        assert_eq!(shown(&["a", "b", "c"]), "24 (with a, b, c)");
        assert_eq!(shown(&["a", "b", "c", "d"]), "24 (with a, b, 2 more)");
    }

    #[test]
    fn durations_are_short() {
        let shown: Vec<String> = [0, 59, 60, 7200, 200_000].into_iter().map(duration).collect();
        assert_eq!(shown, ["0 s", "59 s", "1 min", "2 h", "2 d"]);
    }
}
