//! Where nixview keeps its state.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::CliError;
use crate::control::SOCKET;

/// The runtime directory of the system's views.
const SYSTEM: &str = "/run/nixview";

/// The options that say where state lies.
#[derive(Debug, Default, clap::Args)]
pub struct StateArgs {
    /// Directory of what outlives a reboot: caches, uppers [default: /var/lib/nixview; for users
    /// $XDG_STATE_HOME/nixview or ~/.local/state/nixview]
    #[arg(long, global = true, value_name = "DIR", env = "NIXVIEW_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Directory of what does not: the views that are mounted [default: /run/nixview; for users
    /// $XDG_RUNTIME_DIR/nixview]
    #[arg(long, global = true, value_name = "DIR", env = "NIXVIEW_RUNTIME_DIR", hide_env_values = true)]
    pub runtime_dir: Option<PathBuf>,
}

/// The directories of nixview's own files; absolute, not created by asking for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDirs {
    /// What outlives a reboot: caches, uppers.
    pub state: PathBuf,
    /// What does not: the registry of mounted views.
    pub runtime: PathBuf,
    /// Where the daemon of this host may listen: first that of the runtime directory, for users without one the system's.
    pub control: Vec<PathBuf>,
}

/// What decides the defaults.
#[derive(Debug, Default)]
struct Surroundings {
    root: bool,
    xdg_state_home: Option<OsString>,
    xdg_runtime_dir: Option<OsString>,
    home: Option<OsString>,
}

impl StateDirs {
    /// By the options, else by the environment and the user.
    ///
    /// # Errors
    /// If a user without HOME and XDG_STATE_HOME names no directory.
    pub fn from_args(args: &StateArgs) -> Result<Self, CliError> {
        let surroundings = Surroundings {
            root: rustix::process::geteuid().is_root(),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            home: std::env::var_os("HOME"),
        };
        Self::decide(args, &surroundings)
    }

    fn decide(args: &StateArgs, around: &Surroundings) -> Result<Self, CliError> {
        let state = match (&args.state_dir, around.root) {
            (Some(dir), _) => absolute(dir)?,
            (None, true) => PathBuf::from("/var/lib/nixview"),
            (None, false) => below(around.xdg_state_home.as_ref(), "nixview")
                .or_else(|| below(around.home.as_ref(), ".local/state/nixview"))
                .ok_or_else(|| {
                    CliError::new(
                        "no directory for state: neither XDG_STATE_HOME nor HOME is an absolute path",
                    )
                    .hint("name one with --state-dir or NIXVIEW_STATE_DIR")
                })?,
        };
        let runtime = match (&args.runtime_dir, around.root) {
            (Some(dir), _) => absolute(dir)?,
            (None, true) => PathBuf::from(SYSTEM),
            (None, false) => {
                below(around.xdg_runtime_dir.as_ref(), "nixview").unwrap_or_else(|| state.join("run"))
            }
        };
        let system = (args.runtime_dir.is_none() && !around.root).then(|| PathBuf::from(SYSTEM));
        let control = std::iter::once(runtime.clone()).chain(system).map(|dir| dir.join(SOCKET)).collect();
        Ok(Self { state, runtime, control })
    }
}

/// The XDG specification: a relative path in these variables is to be ignored.
fn below(base: Option<&OsString>, name: &str) -> Option<PathBuf> {
    base.map(Path::new).filter(|base| base.is_absolute()).map(|base| base.join(name))
}

fn absolute(dir: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(dir)
        .map_err(|error| CliError::usage(format!("'{}' is no usable directory: {error}", dir.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn decide(args: &StateArgs, around: &Surroundings) -> (String, String) {
        let dirs = StateDirs::decide(args, around).unwrap();
        (dirs.state.to_str().unwrap().to_owned(), dirs.runtime.to_str().unwrap().to_owned())
    }

    #[test]
    fn defaults_follow_the_user() {
        let none = StateArgs::default();
        let root = Surroundings { root: true, home: Some("/root".into()), ..Surroundings::default() };
        assert_eq!(decide(&none, &root), ("/var/lib/nixview".into(), "/run/nixview".into()));
        let user = Surroundings {
            home: Some("/home/u".into()),
            xdg_runtime_dir: Some("/run/user/7".into()),
            ..Surroundings::default()
        };
        assert_eq!(
            decide(&none, &user),
            ("/home/u/.local/state/nixview".into(), "/run/user/7/nixview".into())
        );
        let odd = Surroundings { xdg_state_home: Some("relative".into()), ..user };
        assert_eq!(decide(&none, &odd).0, "/home/u/.local/state/nixview", "XDG: relative paths are ignored");
        let bare = Surroundings { home: Some("/home/u".into()), ..Surroundings::default() };
        assert_eq!(decide(&none, &bare).1, "/home/u/.local/state/nixview/run");
    }

    #[test]
    fn options_win_and_nobody_is_guessed_for() {
        let args = StateArgs { state_dir: Some("/a".into()), runtime_dir: Some("/b".into()) };
        let root = Surroundings { root: true, ..Surroundings::default() };
        assert_eq!(decide(&args, &root), ("/a".into(), "/b".into()));
        let error = StateDirs::decide(&StateArgs::default(), &Surroundings::default()).unwrap_err();
        assert!(error.lines().iter().any(|line| line.contains("--state-dir")));
    }

    #[test]
    fn users_ask_their_own_daemon_then_the_systems() {
        let user = Surroundings {
            home: Some("/home/u".into()),
            xdg_runtime_dir: Some("/run/user/7".into()),
            ..Surroundings::default()
        };
        let control =
            |args: &StateArgs, around: &Surroundings| StateDirs::decide(args, around).unwrap().control;
        let own = Path::new("/run/user/7/nixview/control.sock");
        let system = Path::new("/run/nixview/control.sock");
        assert_eq!(control(&StateArgs::default(), &user), [own, system]);
        let root = Surroundings { root: true, ..Surroundings::default() };
        assert_eq!(control(&StateArgs::default(), &root), [system]);
        let args = StateArgs { runtime_dir: Some("/r".into()), ..StateArgs::default() };
        assert_eq!(control(&args, &user), [Path::new("/r/control.sock")]);
    }
}
