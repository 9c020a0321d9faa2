//! What a shell is offered for an argument: names of views, uppers and devices, as they are at that moment.
//!
//! The shell calls `nixview` itself for it (`nixview completions`). What cannot be read is not offered: nobody waits for
//! an error in the middle of a line.

use std::ffi::OsStr;
use std::path::Path;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use super::{StateArgs, StateDirs, cdi};
use crate::daemon::log;
use crate::daemon::registry::Registry;
use crate::view::upper_dir;

/// The directories that the environment names: options of the line are not known here.
fn dirs() -> Option<StateDirs> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(Into::into);
    let args = StateArgs { state_dir: named("NIXVIEW_STATE_DIR"), runtime_dir: named("NIXVIEW_RUNTIME_DIR") };
    StateDirs::from_args(&args).ok()
}

fn candidates(names: impl IntoIterator<Item = String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let begun = current.to_str().unwrap_or_default();
    let mut names: Vec<String> = names.into_iter().filter(|name| name.starts_with(begun)).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn view_names() -> Vec<String> {
    let registry = dirs().and_then(|dirs| Registry::existing(&dirs.runtime));
    let all = registry.and_then(|registry| registry.all().ok()).unwrap_or_default();
    all.into_iter().map(|(name, _)| name.to_string()).collect()
}

fn upper_names() -> Vec<String> {
    let list = dirs().and_then(|dirs| upper_dir::list(&dirs.state.join("uppers")).ok()).unwrap_or_default();
    let names = list.into_iter().flatten();
    names.filter_map(|info| info.path.file_name()?.to_str().map(str::to_owned)).collect()
}

/// Views that are mounted.
#[must_use]
pub fn views(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(view_names(), current)
}

/// Views that are mounted, and files.
#[must_use]
pub fn views_and_files(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut names = views(current);
    names.extend(PathCompleter::any().complete(current));
    names
}

/// Views that are mounted or have a log, and directories.
#[must_use]
pub fn views_and_logs(current: &OsStr) -> Vec<CompletionCandidate> {
    let logs = dirs().and_then(|dirs| std::fs::read_dir(log::directory(&dirs.state)).ok());
    let logged = logs.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.1")).map(str::to_owned)
    });
    with_directories(candidates(view_names().into_iter().chain(logged), current), current)
}

/// Views that are mounted, and directories.
#[must_use]
pub fn views_and_directories(current: &OsStr) -> Vec<CompletionCandidate> {
    with_directories(views(current), current)
}

/// Uppers in the state directory, and directories.
#[must_use]
pub fn uppers(current: &OsStr) -> Vec<CompletionCandidate> {
    with_directories(candidates(upper_names(), current), current)
}

/// Views and uppers in the state directory, and directories: whatever has changes.
#[must_use]
pub fn views_and_uppers(current: &OsStr) -> Vec<CompletionCandidate> {
    with_directories(candidates(view_names().into_iter().chain(upper_names()), current), current)
}

/// Devices that containers can be given.
#[must_use]
pub fn devices(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = cdi::found(Path::new("/etc/cdi")).unwrap_or_default();
    candidates(found.into_iter().map(|device| device.name), current)
}

fn with_directories(mut names: Vec<CompletionCandidate>, current: &OsStr) -> Vec<CompletionCandidate> {
    names.extend(PathCompleter::dir().complete(current));
    names
}
