//! `nixview status`: which views there are.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cli::view::warn;
use crate::cli::{CliError, Context, ErrorContext};
use crate::daemon::leftovers;
use crate::daemon::record::{Place, Record, UpperRecord};
use crate::daemon::registry::{Registry, State};
use crate::view::ViewName;

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
    let registry = Registry::existing(&context.state.runtime);
    let mut all = match &registry {
        Some(registry) => registry.all().context("cannot read the registry of views")?,
        None => Vec::new(),
    };
    if let Some(name) = &args.name {
        all.retain(|(n, _)| n == name);
        if all.is_empty() {
            return Err(CliError::new(format!("there is no view named '{name}'")));
        }
    }
    if args.json {
        let shown = all.iter().map(|(name, state)| shown(name, state)).collect::<Result<Vec<_>, _>>()?;
        context.output.json(&shown)?;
    } else {
        let rows: Vec<_> = all.iter().map(|(name, state)| row(name, state)).collect();
        let header = ["NAME", "STATE", "WHERE", "PID", "PATHS", "IO", "UPPER", "OWNER", "SINCE"];
        context.output.table(header, &rows)?;
    }
    if let Some(registry) = &registry {
        let (_, problems) = leftovers::sweep(registry).context("cannot clean up after dead views")?;
        warn(context, &problems.into_iter().map(|p| p.what).collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
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

fn shown(name: &ViewName, state: &Found) -> Result<Shown, CliError> {
    let record = match state {
        Ok(State::Served(record) | State::Dead(record)) => {
            let value = serde_json::to_value(record).context("cannot print a record")?;
            let serde_json::Value::Object(mut fields) = value else {
                return Err(CliError::new("a record is no JSON object"));
            };
            for known in ["name", "version", "usable"] {
                fields.remove(known);
            }
            Some(ShownRecord(fields))
        }
        _ => None,
    };
    let problem = state.as_ref().err().map(ToString::to_string);
    Ok(Shown { state: word(state), name: name.clone(), record, problem })
}

fn row(name: &ViewName, state: &Found) -> [String; 9] {
    let mut row = std::array::from_fn(|_| "-".to_owned());
    let record = match state {
        Ok(State::Served(record) | State::Dead(record)) => Some(record),
        _ => None,
    };
    let cells = record.map(|r| cells(r)).unwrap_or_default();
    let cells = [name.to_string(), word(state).to_owned()].into_iter().chain(cells);
    for (place, cell) in row.iter_mut().zip(cells) {
        *place = cell;
    }
    row
}

fn cells(record: &Record) -> Vec<String> {
    let place = match &record.place {
        Place::Mounted { target, .. } => target.display().to_string(),
        Place::Private { command } => format!("/nix of '{command}'"),
    };
    let upper = match &record.upper {
        UpperRecord::Directory { path } => path.display().to_string(),
        UpperRecord::Temporary { .. } => "temporary".to_owned(),
        UpperRecord::ReadOnly => "read-only".to_owned(),
    };
    let owner = format!("{}:{}", record.uid, record.gid);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let since = duration(now.saturating_sub(record.since));
    let paths = record.closure.count.to_string();
    vec![place, record.pid.to_string(), paths, record.io.clone(), upper, owner, since]
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
    fn durations_are_short() {
        let shown: Vec<String> = [0, 59, 60, 7200, 200_000].into_iter().map(duration).collect();
        assert_eq!(shown, ["0 s", "59 s", "1 min", "2 h", "2 d"]);
    }
}
