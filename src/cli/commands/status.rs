//! `nixview status`: which views there are.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::Serialize;

use crate::cli::output::{self, duration};
use crate::cli::view::warn;
use crate::cli::{CliError, Context, ErrorContext, ask};
use crate::daemon::mounted::MountTables;
use crate::daemon::record::{Place, Record, UpperRecord};
use crate::daemon::registry::{Registry, State};
use crate::daemon::{leftovers, old_roots};
use crate::json;
use crate::store::parallel::with_threads;
use crate::view::ViewName;
use crate::view::upper_dir::{self, Limit, Space, UpperError, UpperInfo, Usage};

/// Arguments of `nixview status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "What a server left that was killed is shown as dead, and removed.\n\
    A view that was unmounted while it was used is shown as detached: it ends when nothing uses it any more.\n\n\
    Examples:\n  \
    nixview status\n  \
    nixview status --json web")]
pub struct Args {
    /// Print JSON [default: a table]
    #[arg(long)]
    pub json: bool,
    /// The view [default: all]
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCompleter::new(crate::cli::complete::views))]
    pub name: Option<ViewName>,
}

/// A view as it is shown.
#[derive(Serialize)]
struct Shown {
    state: &'static str,
    name: ViewName,
    #[serde(flatten)]
    record: Option<ShownRecord>,
    #[serde(flatten)]
    holds: Holds,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// How much the upper of a view holds, as far as that can be told.
#[derive(Clone, Copy, Default, Serialize)]
struct Holds {
    /// With a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// Without.
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<Space>,
}

/// How many objects of an upper without a limit are counted.
const COUNTED: u64 = 20_000;

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
    let tables = MountTables::read().context("cannot read the mount table")?;
    let all: Vec<_> = all
        .into_iter()
        .map(|(name, state)| Ok((name, placed(state, &tables)?)))
        .collect::<Result<_, CliError>>()?;
    let told = hold(&all).context("cannot look at the uppers")?;
    let mut problems: Vec<_> = told.iter().filter_map(|holds| holds.as_ref().err().cloned()).collect();
    let all_hold: Vec<_> = told.into_iter().map(Result::unwrap_or_default).collect();
    if args.json {
        let shown = all.iter().zip(&all_hold).map(|((name, view), holds)| shown(name, view, *holds));
        let shown = shown.collect::<Result<Vec<_>, _>>()?;
        context.output.json(&shown)?;
    } else {
        let rows: Vec<_> =
            all.iter().zip(&all_hold).map(|((name, view), holds)| row(name, view, *holds)).collect();
        let header =
            ["NAME", "STATE", "WHERE", "LOCK", "PID", "PATHS", "IO", "UPPER", "USED", "OWNER", "SINCE"];
        context.output.table(header, &rows)?;
        if rows.is_empty() {
            context.output.note("nixview: no views are mounted");
        }
        for told in all.iter().filter_map(|(_, state)| record(state)).filter_map(restarted) {
            context.output.line(&told)?;
        }
    }
    let mut stores = BTreeSet::from([PathBuf::from(old_roots::DEFAULT_STORE)]);
    if let Some(registry) = &registry {
        stores.extend(all.iter().filter_map(|(_, view)| record(view)).map(|record| record.store.clone()));
        let dead = all.iter().filter(|(_, view)| matches!(view.state, Ok(State::Dead(_))));
        let dead: Vec<_> = dead.map(|(name, _)| name.clone()).collect();
        let (_, left) = leftovers::clean_dead(registry, &dead);
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

/// A view as it stands now.
struct Placed {
    state: Found,
    /// It is served, but was unmounted: it ends when nothing uses it any more.
    detached: bool,
}

/// Looks where a view is mounted now: a directory above it may have been renamed since.
fn placed(mut state: Found, tables: &MountTables) -> Result<Placed, CliError> {
    let mut detached = false;
    if let Ok(State::Served(record)) = &mut state
        && record.usable
        && matches!(record.place, Place::Mounted { .. })
    {
        let place = tables.place_of(record).context("cannot read the mount table")?;
        detached = place.is_none();
        if let (Place::Mounted { target, .. }, Some(place)) = (&mut record.place, place) {
            *target = place;
        }
    }
    Ok(Placed { state, detached })
}

fn word(view: &Placed) -> &'static str {
    match &view.state {
        Ok(State::Served(_)) if view.detached => "detached",
        Ok(State::Served(record)) if record.usable => "mounted",
        Ok(State::Starting | State::Served(_)) => "starting",
        Ok(State::Unkept(_)) => "unkept",
        Ok(State::Dead(_)) => "dead",
        Err(_) => "unknown",
    }
}

fn record(view: &Placed) -> Option<&Record> {
    match &view.state {
        Ok(State::Served(record) | State::Unkept(record) | State::Dead(record)) => Some(record),
        _ => None,
    }
}

/// The upper of a view, and its limit if it has one.
fn upper(record: &Record) -> Option<(&Path, Option<&Limit>)> {
    match &record.upper {
        UpperRecord::Directory { path, limit } | UpperRecord::Temporary { path, limit } => {
            Some((path, limit.as_ref()))
        }
        UpperRecord::ReadOnly => None,
    }
}

/// How many views are looked at by one thread.
const BY_ONE: usize = 32;

/// How much the uppers of views hold, as far as that can be told, each with its problem.
fn hold(views: &[(ViewName, Placed)]) -> io::Result<Vec<Result<Holds, String>>> {
    if views.len() <= BY_ONE {
        return Ok(views.iter().map(|(_, view)| holds(view)).collect());
    }
    with_threads(|| views.par_iter().map(|(_, view)| holds(view)).collect())
}

fn holds(view: &Placed) -> Result<Holds, String> {
    let Some((path, limit)) = record(view).and_then(upper) else { return Ok(Holds::default()) };
    let read = match limit {
        None => upper_dir::space(path, COUNTED).map(|space| Holds { usage: None, space: Some(space) }),
        Some(_) => UpperInfo::read(path)
            .map(|info| info.map(|info| Holds { usage: info.usage, space: None }).unwrap_or_default()),
    };
    match read {
        Ok(holds) => Ok(holds),
        // It ended at this moment.
        Err(UpperError::Missing { .. }) => Ok(Holds::default()),
        // It ends at this moment, or it is another user's: the daemon's.
        Err(UpperError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) =>
        {
            Ok(Holds::default())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn shown(name: &ViewName, view: &Placed, holds: Holds) -> Result<Shown, CliError> {
    let record = match record(view) {
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
    let problem = view.state.as_ref().err().map(ToString::to_string);
    Ok(Shown { state: word(view), name: name.clone(), record, holds, problem })
}

fn row(name: &ViewName, view: &Placed, holds: Holds) -> [String; 11] {
    let mut row = std::array::from_fn(|_| "-".to_owned());
    let cells = record(view).map(|record| cells(record, holds)).unwrap_or_default();
    let cells = [name.to_string(), word(view).to_owned()].into_iter().chain(cells);
    for (place, cell) in row.iter_mut().zip(cells) {
        *place = cell;
    }
    row
}

fn cells(record: &Record, holds: Holds) -> Vec<String> {
    let place = match &record.place {
        Place::Mounted { target, .. } => target.display().to_string(),
        Place::Private { command } => format!("/nix of '{command}'"),
        Place::Handed { purpose } => purpose.clone(),
    };
    let used = match (&holds.space, upper(record)) {
        (Some(space), _) => output::space(space),
        (None, upper) => output::used(upper.and_then(|(_, limit)| limit), holds.usage.as_ref()),
    };
    let upper = match &record.upper {
        UpperRecord::Directory { path, .. } => path.display().to_string(),
        UpperRecord::Temporary { .. } => "temporary".to_owned(),
        UpperRecord::ReadOnly => "read-only".to_owned(),
    };
    let owner = format!("{}:{}", record.uid, record.gid);
    let since = duration(now().saturating_sub(record.since));
    let extra = record.extra_roots.iter().map(|extra| extra.name.as_str()).collect();
    let paths = paths(record.closure.count, extra);
    let lock = record.lock_file.display().to_string();
    vec![place, lock, record.pid.to_string(), paths, record.io.clone(), upper, used, owner, since]
}

/// How often the server of a view was started again, and why the last time; `None` if it never was.
fn restarted(record: &Record) -> Option<String> {
    let last = record.last_restarts.last()?;
    let times = output::count(record.restarts.into(), "time", "times");
    Some(format!(
        "{}: the server was started again {times}, the last time {} ago: the one before {}; see 'nixview logs {}'",
        record.name,
        duration(now().saturating_sub(last.time)),
        last.reason,
        record.name
    ))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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
}
