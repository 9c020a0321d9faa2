//! `nixview gc`: the caches without what nobody used for a while, and what servers left that were killed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::cli::output::{count, size};
use crate::cli::view::{absolute, dirs, warn};
use crate::cli::{CliError, Context, ErrorContext};
use crate::closure::Cache;
use crate::daemon::registry::{Registry, State};
use crate::daemon::{leftovers, log, old_roots};
use crate::lock::{self, Memory};
use crate::overlay::image_cache;
use crate::store::scan::cache::{self as scans, ScanCache};
use crate::view::{nix_state, upper_dir};

/// Arguments of `nixview gc`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Caches, and states of Nix and images of closures that no view shows, can always go: what is missing is made \
    again. What dead views left goes \
    too: mounts, temporary uppers, roots of Nix's collector (in --store and in the stores of known views), also after a \
    reboot; and the logs of views that have ended. Uppers that stay, views and the store are not touched.\n\nExamples:\n  \
    nixview gc\n  \
    nixview gc --older-than 1h --dry-run"
)]
pub struct Args {
    /// How long something must not have been used: 30d, 12h, 0s
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = humantime::parse_duration)]
    pub older_than: Duration,
    /// The store whose old roots go: a directory that ends in nix/store, or one that contains nix/store
    #[arg(long, value_name = "DIR", default_value = old_roots::DEFAULT_STORE)]
    pub store: PathBuf,
    /// Only say what would be removed [default: remove it]
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Answer as JSON [default: as text]
    #[arg(long)]
    pub json: bool,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    closures: u64,
    evaluations: u64,
    environments: u64,
    scans: u64,
    files: u64,
    file_bytes: u64,
    nix_states: u64,
    nix_state_bytes: u64,
    closure_images: u64,
    closure_image_bytes: u64,
    logs: u64,
    log_bytes: u64,
    dead_views: u64,
    leases: u64,
    temporary_uppers: u64,
    dry_run: bool,
}

/// Cleans up after servers that were killed; answers after how many.
fn dead_views(dry_run: bool, registry: &Registry, context: &Context) -> Result<u64, CliError> {
    if dry_run {
        let all = registry.all().context("cannot read the registry of views")?;
        return Ok(all.iter().filter(|(_, state)| matches!(state, Ok(State::Dead(_)))).count() as u64);
    }
    let (cleaned, problems) = leftovers::sweep(registry).context("cannot clean up after dead views")?;
    warn(context, &problems.into_iter().map(|p| p.what).collect::<Vec<_>>());
    Ok(cleaned.len() as u64)
}

/// Removes the temporary uppers of killed servers, whatever else is known of them; answers how many they were.
fn temporary_uppers(dry_run: bool, parent: &Path) -> Result<u64, CliError> {
    let removed = if dry_run { upper_dir::stale(parent) } else { upper_dir::remove_stale(parent) };
    Ok(removed.context("cannot remove temporary uppers")?.len() as u64)
}

/// Removes it, or says what would be.
///
/// # Errors
/// If a cache cannot be used, or a file not be removed.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let state = &context.state.state;
    let mut report = Report { dry_run: args.dry_run, ..Report::default() };
    if state.join("closures.sqlite").exists() {
        let cache = Cache::open(state);
        let removed = if args.dry_run { cache.stale(args.older_than) } else { cache.prune(args.older_than) };
        report.closures = removed.context("cannot clean the cache of closures")? as u64;
    }
    // Each is of a closure that is counted already.
    lock::sweep_verified(state, args.older_than, args.dry_run)
        .context("cannot clean what is remembered of closures")?;
    if state.join(lock::memory::FILE).exists() {
        let memory = Memory::open(state);
        let removed = memory.prune(args.older_than, args.dry_run);
        report.evaluations = removed.context("cannot clean what is remembered of evaluations")?;
        let removed = memory.prune_environments(args.older_than, args.dry_run);
        report.environments = removed.context("cannot clean what is remembered of environments")?;
    }
    if state.join(scans::FILE).exists() {
        let removed = ScanCache::open(state).prune(args.older_than, args.dry_run);
        report.scans = removed.context("cannot clean what is remembered of scans")?;
    }
    for (file, bytes) in
        old_files(state, args.older_than).with_context(|| format!("cannot list {}", state.display()))?
    {
        if !args.dry_run {
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        report.files += 1;
        report.file_bytes += bytes;
    }
    let registry = Registry::existing(&context.state.runtime);
    let mut stores = BTreeSet::from([absolute(&args.store)?]);
    if let Some(registry) = &registry {
        stores.extend(old_roots::stores(registry).context("cannot read the registry of views")?);
    }
    let (leases, problems) = old_roots::sweep(&stores, args.dry_run);
    warn(context, &problems);
    report.leases = leases;
    report.temporary_uppers = temporary_uppers(args.dry_run, &dirs(context).temporary())?;
    if let Some(registry) = &registry {
        report.dead_views = dead_views(args.dry_run, registry, context)?;
    }
    // After the views: a dead one may have held some.
    let swept = nix_state::sweep(&state.join(nix_state::DIRECTORY), args.older_than, args.dry_run);
    let swept = swept.context("cannot clean Nix's state for views")?;
    report.nix_states = swept.templates + swept.drafts;
    report.nix_state_bytes = swept.bytes;
    let swept = image_cache::sweep(state, args.older_than, args.dry_run);
    let swept = swept.context("cannot clean the images of closures")?;
    report.closure_images = swept.images + swept.leftovers;
    report.closure_image_bytes = swept.bytes;
    let swept = log::sweep(state, args.older_than, args.dry_run).context("cannot clean the logs of views")?;
    (report.logs, report.log_bytes) = (swept.logs, swept.bytes);
    if args.json {
        context.output.json(&report)?;
    } else {
        let done = if args.dry_run { "would remove" } else { "removed" };
        context.output.line(&format!(
            "{done} {}, {}, {}, {}, {}, {}, {}, {} ({}), {} ({}), {} ({}) and {} ({})",
            count(report.dead_views, "dead view", "dead views"),
            count(report.leases, "lease of roots", "leases of roots"),
            count(report.temporary_uppers, "temporary upper", "temporary uppers"),
            count(report.closures, "closure", "closures"),
            count(report.evaluations, "evaluation", "evaluations"),
            count(report.environments, "environment", "environments"),
            count(report.scans, "scan", "scans"),
            count(report.nix_states, "state of Nix", "states of Nix"),
            size(report.nix_state_bytes),
            count(report.closure_images, "image of a closure", "images of closures"),
            size(report.closure_image_bytes),
            count(report.logs, "log", "logs"),
            size(report.log_bytes),
            count(report.files, "file", "files"),
            size(report.file_bytes)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Caches that were set aside as corrupt, with their sizes.
fn old_files(state: &Path, age: Duration) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match std::fs::read_dir(state) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut old = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|n| n.ends_with(".sqlite.corrupt"));
        let found = entry.metadata()?;
        let since = SystemTime::now().duration_since(found.modified()?).unwrap_or_default();
        if is_ours && found.is_file() && since >= age {
            old.push((entry.path(), found.len()));
        }
    }
    old.sort();
    Ok(old)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn only_old_files_of_caches_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "closures.sqlite.corrupt",
            "scans.sqlite.corrupt",
            "scans.sqlite-wal",
            "closures.sqlite",
            "notes",
        ] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join("uppers")).unwrap();
        assert!(old_files(dir.path(), Duration::from_secs(3600)).unwrap().is_empty());
        let names: Vec<_> = old_files(dir.path(), Duration::ZERO)
            .unwrap()
            .iter()
            .map(|(file, _)| file.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["closures.sqlite.corrupt", "scans.sqlite.corrupt"]);
        assert!(old_files(&dir.path().join("none"), Duration::ZERO).unwrap().is_empty());
    }
}
