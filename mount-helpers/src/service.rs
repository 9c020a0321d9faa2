//! Whoever serves the views: the daemon, or a `nixview` of one's own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use nixview::control::{Client, ControlError, SOCKET};

/// Where nixview keeps its files, if that is not where it does by default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dirs {
    /// What outlives a reboot; else as `nixview` decides.
    pub state: Option<PathBuf>,
    /// What does not, among it the daemon's socket; else `/run/nixview`.
    pub runtime: Option<PathBuf>,
}

impl Dirs {
    /// As the environment says (`NIXVIEW_STATE_DIR`, `NIXVIEW_RUNTIME_DIR`).
    #[must_use]
    pub fn from_environment() -> Self {
        let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { state: named("NIXVIEW_STATE_DIR"), runtime: named("NIXVIEW_RUNTIME_DIR") }
    }

    /// These, and as the environment says where these say nothing.
    #[must_use]
    pub fn or_environment(&self) -> Self {
        let around = Self::from_environment();
        Self { state: self.state.clone().or(around.state), runtime: self.runtime.clone().or(around.runtime) }
    }

    /// A connection to the daemon, or where none runs to a `nixview` that is started for it. What is not said here is as
    /// the environment says.
    ///
    /// # Errors
    /// If neither can be had.
    pub fn client(&self) -> Result<Client, ControlError> {
        self.client_or(None)
    }

    /// As [`Self::client`], but `given` is what is started where no daemon runs.
    ///
    /// # Errors
    /// If neither can be had.
    pub fn client_or(&self, given: Option<&Path>) -> Result<Client, ControlError> {
        let Self { state, runtime } = self.or_environment();
        let socket = runtime.as_deref().unwrap_or(Path::new("/run/nixview")).join(SOCKET);
        let mut program = Command::new(given.map_or_else(program, Path::to_owned));
        for (option, dir) in [("--state-dir", &state), ("--runtime-dir", &runtime)] {
            if let Some(dir) = dir {
                program.arg(option).arg(dir);
            }
        }
        program.args(["daemon", "--once"]);
        Client::open(&socket, program)
    }
}

/// `nixview`: beside this program, in the usual places, or in `PATH`. Who runs helpers often gives them no `PATH`.
fn program() -> PathBuf {
    let beside = env::current_exe().ok().and_then(|own| own.parent().map(|dir| dir.join("nixview")));
    let usual = ["/usr/bin/nixview", "/usr/local/bin/nixview", "/bin/nixview"].map(PathBuf::from);
    beside.into_iter().chain(usual).find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("nixview"))
}
