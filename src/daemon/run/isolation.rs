//! A command that has nothing of the host: a root of its own, and a PID namespace with an init.
//!
//! The first process of the PID namespace is the *init*: it makes the root, starts the command, passes signals on, reaps, and
//! ends with the command's code; with it the kernel ends all that is left. It is for tests of what an environment lacks and no
//! boundary of security: the network and, for root, its rights are the caller's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::program::{NotStarted, Program, own_mounts};
use super::supervise::{end_leftovers, pass_on};
use crate::daemon::error::{Attempt, Failure};
use crate::sys::isolated_root::{IsolatedRoot, can_have};
use crate::sys::process::{self, Fork};
use crate::sys::signals::{Signals, wait_readable};
use crate::sys::socket;

/// The name at the top that the view has.
const VIEW: &str = "nix";

/// Where the home directory is if the caller's cannot be.
const HOME: &str = "/tmp";

/// What a command that is isolated has besides the view, /proc, /dev, /tmp, /etc/passwd and /etc/group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Isolation {
    home: PathBuf,
    shared: Vec<PathBuf>,
}

impl Isolation {
    /// An empty home directory at `home`, if one can be there, and directories and files of the host, by absolute paths.
    ///
    /// # Errors
    /// If a path cannot be shared.
    pub fn new(home: Option<&Path>, shared: Vec<PathBuf>) -> Result<Self, Failure> {
        if let Some(path) = shared.iter().find(|path| !can_have(path, VIEW)) {
            return Err(Failure::new(format!("{} cannot be shared with the command", path.display())).hint(
                "an absolute path without '..' can be, but for the root and what is in /nix, /dev and /proc",
            ));
        }
        let home = home.filter(|home| can_have(home, VIEW)).unwrap_or(Path::new(HOME)).to_owned();
        Ok(Self { home, shared })
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// True for a path that is shared, or in what is.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.shared.iter().any(|shared| path.starts_with(shared))
    }

    fn enter(&self, view: &OwnedFd) -> Result<(), Failure> {
        let [passwd, group] = accounts(&self.home);
        let root = IsolatedRoot {
            mount: (view.as_fd(), VIEW),
            directories: std::slice::from_ref(&self.home),
            files: &[("/etc/passwd", passwd), ("/etc/group", group)],
            shared: &self.shared,
        };
        root.enter().map_err(|error| {
            Failure::of("cannot isolate the command", &error)
                .hint("in a container parts of /proc are often hidden; then no other /proc can be mounted without root")
        })
    }
}

/// /etc/passwd and /etc/group: root, the caller, and nobody.
fn accounts(home: &Path) -> [String; 2] {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // A colon or a newline would be a field or a line.
    let home = home.to_str().filter(|home| !home.contains([':', '\n'])).unwrap_or(HOME);
    let mut passwd = format!("root:x:0:0::{}:/bin/sh\n", if uid == 0 { home } else { "/root" });
    let mut group = "root:x:0:\n".to_owned();
    if uid != 0 {
        passwd.push_str(&format!("user:x:{uid}:{gid}::{home}:/bin/sh\n"));
    }
    if gid != 0 {
        group.push_str(&format!("user:x:{gid}:\n"));
    }
    passwd.push_str("nobody:x:65534:65534::/nonexistent:/bin/false\n");
    group.push_str("nogroup:x:65534:\n");
    [passwd, group]
}

/// Is the init of the command's PID namespace, until its end. `caller` gets a message if the command does not start, and is
/// closed when it does.
pub(super) fn init(
    program: &Program,
    isolation: &Isolation,
    view: &OwnedFd,
    keeper: &OwnedFd,
    caller: OwnedFd,
    signals: &Signals,
) -> ! {
    let started = prepare(program, isolation, view, keeper, &caller)
        .and_then(|()| process::fork().attempt(|| "cannot start the command's process".to_owned()));
    match started {
        Ok(Fork::Parent(command)) => {
            drop(caller);
            process::end_now(wait(command, signals).unwrap_or(126));
        }
        Ok(Fork::Child) => {
            let not_started = match signals.unblock() {
                Ok(()) => program.execute(),
                Err(error) => {
                    NotStarted { failure: Failure::of("cannot unblock signals", &error), code: 126 }
                }
            };
            end(&caller, &not_started);
        }
        Err(failure) => end(&caller, &NotStarted { failure, code: 126 }),
    }
}

fn end(caller: &OwnedFd, not_started: &NotStarted) -> ! {
    let told = serde_json::to_vec(not_started).is_ok_and(|m| socket::send(caller, &m, None).is_ok());
    process::end_now(if told { not_started.code } else { 126 });
}

fn prepare(
    program: &Program,
    isolation: &Isolation,
    view: &OwnedFd,
    keeper: &OwnedFd,
    caller: &OwnedFd,
) -> Result<(), Failure> {
    process::die_with_parent_outside(Signal::KILL).attempt(|| "cannot follow the caller".to_owned())?;
    // The other end is the caller's alone.
    let gone = wait_readable(&[caller.as_fd()], Some(Duration::ZERO))
        .attempt(|| "cannot ask for the caller".to_owned())?;
    if gone.contains(&true) {
        return Err(Failure::new("the caller is gone"));
    }
    own_mounts(keeper)?;
    isolation.enter(view)?;
    program.work_there()
}

/// Waits for the command; answers the code that a shell would.
fn wait(command: Pid, signals: &Signals) -> Result<u8, Failure> {
    let attempt = || "cannot wait for the command".to_owned();
    loop {
        while let Some((pid, ended)) = process::reap().attempt(attempt)? {
            if pid == command {
                end_leftovers(rustix::process::getpid()).attempt(attempt)?;
                return Ok(ended.shell_code());
            }
        }
        wait_readable(&[signals.as_fd()], None).attempt(attempt)?;
        pass_on(command, signals).attempt(attempt)?;
    }
}
