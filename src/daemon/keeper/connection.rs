//! The connection to the kernel: the device, the mount, and a server that has negotiated how the view is served.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use rustix::process::Pid;

use super::link::{self, Word};
use super::memory::Memory;
use super::server::{self, Part};
use super::setup::Serving;
use super::{Caller, Destination, Held};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::mounted::{Mounted, is_view};
use crate::daemon::target::Target;
use crate::fuse::{self, Greeting};
use crate::sys::locked_mount::{MountClone, lock_flags};
use crate::sys::mount::{self, Change, FuseOptions};
use crate::sys::process::{self, Ended};
use crate::sys::{fusermount, mount_point, mountinfo};
use crate::union::record::HeldOpen;
use crate::view::build::ViewLower;
use crate::view::spec::{IoChoice, UpperChoice};

/// statfs(2) of overlayfs (linux/magic.h).
const OVERLAYFS_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// A connection, and the server that answers on it.
#[derive(Debug)]
pub(super) struct Connection {
    /// How the view is served.
    pub(super) io: fuse::Io,
    pub(super) device: OwnedFd,
    pub(super) greeting: Greeting,
    /// What the server notes for the next one.
    pub(super) memory: Memory,
    /// What is kept open for the next one.
    pub(super) held_open: HeldOpen,
    /// Another server could go on where this one is killed.
    pub(super) can_be_followed: bool,
    pub(super) process: ServerProcess,
}

/// A process that answers requests; dropped, it is ended.
#[derive(Debug)]
pub(super) struct ServerProcess {
    /// `None` once it was waited for.
    pid: Option<Pid>,
    /// What it says.
    pub(super) socket: OwnedFd,
}

impl ServerProcess {
    pub(super) fn new(pid: Pid, socket: OwnedFd) -> Self {
        Self { pid: Some(pid), socket }
    }

    /// Its process id, while it was not waited for.
    pub(super) fn number(&self) -> Option<i32> {
        self.pid.map(|pid| pid.as_raw_nonzero().get())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As waitpid(2); `ECHILD` if it was waited for already.
    pub(super) fn wait(&mut self) -> io::Result<Ended> {
        let pid = self.pid.take().ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))?;
        process::wait(pid)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let Some(pid) = self.pid.take() else { return };
        let ended = process::send_signal(pid, rustix::process::Signal::KILL).and_then(|_| process::wait(pid));
        if let Err(error) = ended {
            tracing::error!(%error, "the view's server may live on");
        }
    }
}

/// What a connection is made of.
pub(super) struct Connecting<'a> {
    pub(super) serving: &'a Serving<'a>,
    pub(super) lower: &'a ViewLower,
    pub(super) store: &'a OwnedFd,
}

/// What came of an attempt to connect.
enum Attempted {
    Connected(Connection),
    /// The kernel takes no passthrough, for this reason.
    NoPassthrough(String),
}

impl Connecting<'_> {
    /// A connection on which the view is served, with passthrough if that is asked for or works; its detached mount is held.
    ///
    /// The view's own connection is tried. Only fusermount3, which mounts at once on the target, needs one for the
    /// question alone.
    pub(super) fn connect(&self, held: &mut Held, caller: &mut dyn Caller) -> Result<Connection, Failure> {
        let (spec, options) = (self.serving.spec, self.serving.options);
        let may_mount = process::may_mount().attempt(|| "cannot ask for privileges".to_owned())?;
        if spec.io == IoChoice::Passthrough || (spec.io == IoChoice::Auto && may_mount) {
            let possible =
                if options.fusermount { probe_passthrough(self.store) } else { may_back(self.store) };
            let why = match possible {
                Err(error) => error.to_string(),
                Ok(()) => match self.attempt(fuse::Io::Passthrough, held, caller)? {
                    Attempted::Connected(connection) => return Ok(connection),
                    Attempted::NoPassthrough(why) => why,
                },
            };
            // What fusermount3 has mounted is the only attempt.
            if spec.io == IoChoice::Passthrough || held.mounted.is_some() {
                return Err(Failure::new(format!("passthrough was asked for, and cannot be had: {why}"))
                    .hint("it needs Linux 6.9, root, and a store on a disk's file system; without --io, the view is served cached"));
            }
            tracing::info!(why, "no passthrough: files are served cached");
        }
        match self.attempt(fuse::Io::Cached, held, caller)? {
            Attempted::Connected(connection) => Ok(connection),
            Attempted::NoPassthrough(why) => {
                Err(Failure::new(format!("cannot start the FUSE session: {why}")))
            }
        }
    }

    /// Makes a connection, and starts a server on it.
    fn attempt(&self, io: fuse::Io, held: &mut Held, caller: &mut dyn Caller) -> Result<Attempted, Failure> {
        let device = self.mount(held)?;
        let attempt = || "cannot start the FUSE session".to_owned();
        let greeting = Greeting::hear(device.as_fd()).attempt(attempt)?;
        let memory = Memory::new().attempt(|| "cannot have memory for the view".to_owned())?;
        let part = Part {
            serving: self.serving,
            lower: self.lower,
            io,
            device: &device,
            greeting: &greeting,
            memory: &memory,
            before: None,
        };
        let mut process = server::start(&part, held, caller)?;
        match link::hear(&process.socket).attempt(attempt)? {
            Some((Word::Serving { answer, can_be_followed }, _)) => {
                let greeting = greeting.answered(answer);
                let can_be_followed = can_be_followed && self.serving.options.restart;
                let held_open = HeldOpen::new();
                let connection =
                    Connection { io, device, greeting, memory, held_open, can_be_followed, process };
                Ok(Attempted::Connected(connection))
            }
            Some((Word::NoPassthrough { why }, _)) => {
                process.wait().attempt(attempt)?;
                Ok(Attempted::NoPassthrough(why))
            }
            Some((Word::Failed(failure), _)) => {
                process.wait().attempt(|| failure.what.clone())?;
                Err(failure)
            }
            Some(_) | None => {
                let ended = process.wait().attempt(attempt)?;
                Err(Failure::new(format!("the view's server {}", told(ended))))
            }
        }
    }

    /// The FUSE device; its detached mount is held, or with fusermount3 it is mounted on the target already.
    fn mount(&self, held: &mut Held) -> Result<OwnedFd, Failure> {
        let source = match self.serving.destination {
            Destination::Directory { source, .. } => source.as_deref(),
            Destination::Private { .. } | Destination::Handed { .. } => None,
        };
        let options = FuseOptions {
            source,
            read_only: self.serving.spec.upper == UpperChoice::ReadOnly,
            allow_other: self.serving.options.allow_other,
            no_exec: self.serving.options.no_exec,
        };
        if let (true, Some(Target { path, directory })) = (self.serving.options.fusermount, &held.target) {
            let _turn = self.serving.turn(path, directory.as_fd())?;
            let device = fusermount::mount(path, options).map_err(|error| {
                let failure = Failure::of(&format!("fusermount3 cannot mount on {}", path.display()), &error);
                if error.kind() == io::ErrorKind::NotFound {
                    failure.hint("without root this needs the program fusermount3: install the package fuse3")
                } else if options.allow_other {
                    failure.hint(
                        "allow_other needs the line 'user_allow_other' in /etc/fuse.conf; or leave it out",
                    )
                } else {
                    failure
                }
            })?;
            let attempt = || format!("cannot look at {}", path.display());
            let found = mountinfo::mount_at(path).attempt(attempt)?.filter(is_view);
            // Of the root of a FUSE mount that is only referred to the server is asked nothing.
            let root = found.map(|_| mount_point::open_at(path)).transpose().attempt(attempt)?;
            let root = root
                .ok_or_else(|| Failure::new(format!("fusermount3 mounted nothing on {}", path.display())))?;
            held.mounted = Some(Mounted::new(path.clone(), root.as_fd(), None).attempt(attempt)?);
            return Ok(device);
        }
        let device = mount::open_fuse_device().map_err(|error| {
            Failure::of("cannot open /dev/fuse", &error).hint("'nixview doctor' says what is missing")
        })?;
        held.mount = None;
        held.mount = Some(self.new_mount(&device, options).map_err(|error| {
            Failure::of("cannot make a FUSE mount", &error).hint("'nixview doctor' says what is missing")
        })?);
        Ok(device)
    }

    /// A detached mount whose `nosuid` and `nodev` a container cannot take off.
    fn new_mount(&self, device: &OwnedFd, options: FuseOptions<'_>) -> io::Result<OwnedFd> {
        // 'mount -o remount,exec' changes a mount on a directory: its `noexec` is set when the flags are locked.
        let on_directory = matches!(self.serving.destination, Destination::Directory { .. });
        let later = options.no_exec && on_directory;
        let options = FuseOptions { no_exec: options.no_exec && !later, ..options };
        let MountClone { mount, not_locked, maker } = lock_flags(mount::new_fuse(device.as_fd(), options)?)?;
        drop(maker);
        self::not_locked(not_locked);
        if later {
            mount::change(mount.as_fd(), Change { read_only: None, no_exec: Some(true) })?;
        }
        Ok(mount)
    }
}

/// Logs why the flags of a mount are not locked, if they are not.
pub(super) fn not_locked(error: Option<io::Error>) {
    if let Some(error) = error {
        tracing::warn!(
            %error,
            "the flags of the mount are not locked: root in a user namespace of its own can clear nosuid and nodev"
        );
    }
}

/// How a server has ended, after "the server".
pub(super) fn told(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("ended with code {code}"),
        Ended::Killed(signal) => {
            let name = Signal::try_from(signal).map(|known| format!(" ({known})")).unwrap_or_default();
            format!("was killed by signal {signal}{name}")
        }
    }
}

/// Whether the kernel takes backing files from this process, and from the store's file system.
pub(in crate::daemon) fn probe_passthrough(store: &OwnedFd) -> io::Result<()> {
    may_back(store)?;
    fuse::probe_passthrough(backing_file()?.as_fd())
}

/// Refuses a store that passthrough stacks on nothing of: a file system that is stacked itself (max_stack_depth is 1,
/// so that a container can stack on the view).
fn may_back(store: &OwnedFd) -> io::Result<()> {
    if rustix::fs::fstatfs(store)?.f_type == OVERLAYFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the store lies on overlayfs"));
    }
    Ok(())
}

/// A file for the question whether the kernel takes any.
pub(super) fn backing_file() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("nixview-probe", rustix::fs::MemfdFlags::CLOEXEC)?)
}
