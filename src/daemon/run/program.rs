//! The process of the command: enters its namespace, takes the view to `/nix`, becomes the program.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal};

use super::isolation::Isolation;
use crate::daemon::error::{Attempt, Failure};
use crate::sys::inherited::Inherited;
use crate::sys::{mount, namespace, process, socket};

/// Where a view is in the namespace of a command.
const PLACE: &str = "/nix";

/// What is executed.
#[derive(Debug)]
pub struct Program {
    /// The program: a path, or a name that is looked for in the `PATH` of `environment`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its environment, all of it.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working directory, absolute.
    pub directory: PathBuf,
    /// Where its standard output goes; the caller's if `None`.
    pub output: Option<OwnedFd>,
    /// Nothing of the host is there but this; `None`: all of it.
    pub isolation: Option<Isolation>,
    /// What it inherits from the caller of this process.
    pub inherited: Inherited,
}

/// Why the program did not start, and the exit code that a shell would answer.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct NotStarted {
    pub(super) failure: Failure,
    pub(super) code: u8,
}

/// A mount namespace of this process's own, of which `keeper` is told before anything runs in it.
pub(super) fn own_mounts(keeper: &OwnedFd) -> Result<(), Failure> {
    namespace::own_mounts().attempt(|| "cannot have a mount namespace".to_owned())?;
    let number =
        process::own_mount_namespace().attempt(|| "cannot ask for the mount namespace".to_owned())?;
    // A keeper that is gone is seen by the caller's wait.
    drop(socket::send(keeper, &number.to_ne_bytes(), None));
    Ok(())
}

impl Program {
    /// Becomes the program; comes back only if it could not. `keeper` is told of the mount namespace before anything runs
    /// in it, so that it can end what is left if the caller is killed.
    pub(super) fn become_it(&self, parent: Pid, view: &OwnedFd, keeper: &OwnedFd) -> NotStarted {
        if let Err(failure) = self.prepare(parent, view, keeper) {
            return NotStarted { failure, code: 126 };
        }
        self.execute()
    }

    /// Becomes the program in the place that was prepared.
    pub(super) fn execute(&self) -> NotStarted {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().cloned());
        match self.output.as_ref().map(OwnedFd::try_clone).transpose() {
            Ok(None) => {}
            Ok(Some(output)) => drop(command.stdout(output)),
            Err(error) => {
                return NotStarted { failure: Failure::of("cannot redirect the output", &error), code: 126 };
            }
        }
        let error = self.inherited.execute(&mut command);
        let missing = error.kind() == io::ErrorKind::NotFound;
        let failure = Failure::of(&format!("cannot execute '{}'", self.program.display()), &error);
        let failure = if missing {
            let hint = "no root of the environment has it in its bin directory, and PATH does not name it";
            match self.isolation {
                Some(_) => failure.hint(format!("{hint}; with --isolated nothing of the host is there")),
                None => failure.hint(hint),
            }
        } else {
            failure
        };
        NotStarted { failure, code: if missing { 127 } else { 126 } }
    }

    fn prepare(&self, parent: Pid, view: &OwnedFd, keeper: &OwnedFd) -> Result<(), Failure> {
        process::die_with_parent(parent, Signal::KILL).attempt(|| "the caller is gone".to_owned())?;
        own_mounts(keeper)?;
        let place = Path::new(PLACE);
        // A symbolic link there would take the view elsewhere, and a missing one must not be made on the host.
        if !place.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            namespace::replace_root_with(&["nix"]).attempt(|| {
                format!("this machine has no directory {PLACE}, and no root that has one could be made")
            })?;
        }
        let target = mount::open_target(place).attempt(|| format!("cannot open {PLACE}"))?;
        mount::attach(view.as_fd(), target.as_fd())
            .attempt(|| format!("cannot mount the view at {PLACE}"))?;
        self.work_there()
    }

    pub(super) fn work_there(&self) -> Result<(), Failure> {
        std::env::set_current_dir(&self.directory).map_err(|error| {
            let what = format!("cannot work in the directory {}", self.directory.display());
            Failure::of(&what, &error)
                .hint("the command sees the view at /nix; start it from a directory that it has")
        })
    }
}
