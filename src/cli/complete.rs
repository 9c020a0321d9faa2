//! What a shell is offered for an argument: names of views, uppers and devices, as they are at that moment.
//!
//! The shell calls `nixview` itself for it (`nixview completions`). What cannot be read is not offered: nobody waits for
//! an error in the middle of a line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use super::{StateArgs, StateDirs, cdi};
use crate::daemon::log;
use crate::daemon::registry::Registry;
use crate::view::upper_dir;

/// The directories that the line names, else the environment.
fn dirs() -> Option<StateDirs> {
    // The shell passes the words of the line after a `--` of its own.
    let line: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let named = |option, variable| {
        let of_environment = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(Into::into);
        option_in(&line, option).or_else(of_environment)
    };
    let args = StateArgs {
        state_dir: named("--state-dir", "NIXVIEW_STATE_DIR"),
        runtime_dir: named("--runtime-dir", "NIXVIEW_RUNTIME_DIR"),
    };
    StateDirs::from_args(&args).ok()
}

/// The directory that a line names with an option, as `--option DIR` or `--option=DIR`; the last one counts.
fn option_in(line: &[OsString], option: &str) -> Option<PathBuf> {
    let words = || line.iter().take_while(|word| *word != "--");
    let found = words().zip(words().skip(1).map(Some).chain([None])).filter_map(|(word, next)| {
        let rest = word.as_bytes().strip_prefix(option.as_bytes())?;
        if rest.is_empty() {
            next.map(OsString::as_os_str)
        } else {
            rest.strip_prefix(b"=").map(OsStr::from_bytes)
        }
    });
    found.filter(|dir| !dir.is_empty()).last().map(PathBuf::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_directories_in_both_forms() {
        let found = |line: &[&str]| {
            let words: Vec<OsString> = line.iter().map(Into::into).collect();
            option_in(&words, "--state-dir")
        };
        assert_eq!(found(&["nixview", "--state-dir", "/a b", "diff", ""]), Some("/a b".into()));
        assert_eq!(found(&["nixview", "diff", "--state-dir=/a", ""]), Some("/a".into()));
        assert_eq!(found(&["nixview", "--state-dir=/a", "--state-dir", "b", ""]), Some("b".into()));
        for line in [
            &["nixview", "--state-dir", ""][..],
            &["nixview", "--state-dir"],
            &["nixview", "--state-dirs=/a"],
        ] {
            assert_eq!(found(line), None, "{line:?}");
        }
        assert_eq!(
            found(&["nixview", "run", "--", "x", "--state-dir", "/a"]),
            None,
            "it is another program's"
        );
    }
}
