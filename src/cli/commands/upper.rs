//! `nixview upper`: the writable parts of views that lie in the state directory.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::output;
use crate::cli::view::{absolute, dirs, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::view::upper_dir::{self, Limit, UpperError, UpperInfo, Usage};

/// Arguments of `nixview upper`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    nixview upper list\n  \
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
    /// Remove some, with everything that was changed in their views
    Remove {
        /// Names of those in the state directory, or paths (anything with a '/')
        #[arg(value_name = "UPPER", required = true)]
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
}

/// Does it.
///
/// # Errors
/// If the uppers cannot be listed, or one cannot be removed.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    match &args.action {
        Action::List { json } => list(context, *json),
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
        UpperError::Missing { .. } => {
            CliError::new(error.to_string()).hint("'nixview upper list' lists those in the state directory")
        }
        _ => CliError::new(error.to_string()),
    })
}

fn list(context: &Context, json: bool) -> Result<ExitCode, CliError> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    let dirs = dirs(context);
    for parent in [dirs.uppers(), dirs.temporary()] {
        let answers = upper_dir::list(&parent).context("cannot list the uppers")?;
        for answer in answers {
            match answer {
                Ok(info) => found.push(shown(info)),
                Err(error) => problems.push(error.to_string()),
            }
        }
    }
    if json {
        context.output.json(&found)?;
    } else {
        let rows: Vec<[String; 5]> = found.iter().map(row).collect();
        context.output.table(["UPPER", "VIEW", "FORMAT", "USED", "USED BY"], &rows)?;
    }
    warn(context, &problems);
    Ok(ExitCode::SUCCESS)
}

fn shown(info: UpperInfo) -> Shown {
    let UpperInfo { path, meta, held, pid, usage } = info;
    let format = format!("{:?}", meta.format).to_lowercase();
    Shown { path, view: meta.view, format, temporary: meta.temporary, held, pid, limit: meta.limit, usage }
}

fn row(upper: &Shown) -> [String; 5] {
    let by = match (upper.held, upper.pid) {
        (false, _) => "-".to_owned(),
        (true, Some(pid)) => format!("process {pid}"),
        (true, None) => "somebody".to_owned(),
    };
    let used = output::used(upper.limit.as_ref(), upper.usage.as_ref());
    [upper.path.display().to_string(), upper.view.clone(), upper.format.clone(), used, by]
}
