//! The server of one view: from its specification to the last request, and nothing left afterwards.
//!
//! In this order, so that whatever fails or is killed leaves only what the registry's record names: the name, the
//! upper's lock, the closure and its roots (while the collector of the store waits), the record, the layers, the
//! session, the mount. Taken back in the opposite order.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use super::claim;
use super::error::{Attempt, Failure};
use super::leftovers;
use super::pin::{self, Pinned};
use super::record::{self, ClosureRecord, ExtraRootRecord, Place, Record, UpperRecord};
use super::registry::{Claim, Registry};
use super::target::{Target, refuse_view};
use crate::closure::Closure;
use crate::fuse::{self, Session};
use crate::lock::{Digest, EnvLock};
use crate::sys::fuse_connection::FuseConnection;
use crate::sys::mount::{self, FuseOptions, Unmount};
use crate::sys::signals::{Signals, wait_readable};
use crate::sys::{fusermount, memory, mount_id, mountinfo, process};
use crate::view::build::{self, Tree};
use crate::view::open_read_only;
use crate::view::spec::{IoChoice, UpperChoice, ViewSpec};
use crate::view::upper_dir::{self, LastView, UpperDir, UpperError};

/// How long those who still use a view have, once its server was told to end.
const GRACE: Duration = Duration::from_secs(2);

/// How long a view whose users are gone takes to end.
const SETTLING: Duration = Duration::from_millis(50);

/// statfs(2) of overlayfs (linux/magic.h).
const OVERLAYFS_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// Directories of nixview's own.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// What outlives a reboot: caches, uppers.
    pub state: PathBuf,
    /// What does not: the registry.
    pub runtime: PathBuf,
}

/// How a view is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeOptions {
    /// Others than the one who mounts may use it.
    pub allow_other: bool,
    /// No program in it can be executed.
    pub no_exec: bool,
    /// A view whose roots cannot be made roots of the garbage collector is refused, not only warned of.
    pub require_gc_roots: bool,
    /// Mount with fusermount3 also where this process could by itself.
    pub fusermount: bool,
    /// How many requests are worked on at once.
    pub threads: NonZeroUsize,
    /// The user for whom it is served, if that is another than this process's.
    pub requested_by: Option<u32>,
}

/// Where a view goes.
#[derive(Debug)]
pub enum Destination {
    /// On an existing directory.
    Directory {
        /// Its path, absolute.
        path: PathBuf,
        /// The directory, if it was opened already, perhaps by somebody else: that one counts, not what is at the path now.
        opened: Option<OwnedFd>,
    },
    /// Detached, to the process that asked, which gives it a place for this command.
    Private {
        /// The command, for people.
        command: String,
    },
    /// Detached, to the process that asked, which gives it a place where it likes.
    Handed {
        /// What it is for, for people.
        purpose: String,
    },
}

/// Who is told that the view can be used, and may end it.
pub trait Caller {
    /// Tells that it can be used; with the mount, if it was to be private.
    ///
    /// # Errors
    /// If the caller is gone: then the view is taken back.
    fn usable(&mut self, record: &Record, warnings: Vec<String>, mount: Option<&OwnedFd>) -> io::Result<()>;

    /// Readable when the caller says something or is gone, where that is to end a private view.
    fn socket(&self) -> Option<&OwnedFd>;
}

/// Serves a view until it is unmounted or this process is told to end (SIGTERM, SIGINT, SIGHUP).
///
/// # Errors
/// What failed. Nothing is left of the view then, or the failure says what.
pub fn serve(
    spec: &ViewSpec,
    dirs: &Dirs,
    destination: &Destination,
    options: ServeOptions,
    caller: &mut dyn Caller,
) -> Result<(), Failure> {
    memory::stay_small();
    let signals = Signals::block(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .attempt(|| "cannot take signals".to_owned())?;
    process::raise_file_limit().attempt(|| "cannot raise the limit of open files".to_owned())?;
    let registry =
        Registry::open(&dirs.runtime).attempt(|| "cannot open the registry of views".to_owned())?;
    let (_, problems) =
        leftovers::sweep(&registry).attempt(|| "cannot read the registry of views".to_owned())?;
    let warnings = problems.into_iter().map(|p| p.what).collect();
    let claim = claim::take(&registry, &spec.name)?;
    let mut held = Held { claim, upper: None, pinned: None, mounted: None, shown: false };
    let answer = Serving { spec, dirs, registry: &registry, destination, options, signals, warnings }
        .run(&mut held, caller);
    let released = held.release();
    answer.and(released)
}

/// What must be taken back at the end.
struct Held {
    claim: Claim,
    upper: Option<UpperDir>,
    pinned: Option<Pinned>,
    mounted: Option<(PathBuf, u64)>,
    /// Somebody may have seen the view, and written to it.
    shown: bool,
}

impl Held {
    /// Takes everything back; goes on after what cannot be, so that as little as possible is left.
    fn release(self) -> Result<(), Failure> {
        let Self { claim, upper, pinned, mounted, shown } = self;
        let mut answer = Ok(());
        let mut note = |what: String, done: io::Result<()>| {
            if let (Err(error), true) = (&done, answer.is_ok()) {
                answer = Err(Failure::of(&what, error));
            }
        };
        if let Some((target, connection)) = mounted {
            note(format!("cannot unmount {}", target.display()), take_away(&target, connection));
        }
        if let Some(upper) = upper {
            let path = upper.path().to_owned();
            let done = match (upper.meta().temporary, shown) {
                (true, _) => upper.remove(),
                (false, false) => upper.give_back(),
                (false, true) => Ok(()),
            };
            note(format!("cannot remove the upper {}", path.display()), done.map_err(io::Error::other));
        }
        if let Some(pinned) = pinned {
            let dir = pinned.record().dir;
            let removed = pinned.remove().map_err(io::Error::other);
            note(format!("cannot remove the roots in {}", dir.display()), removed);
        }
        answer.and_then(|()| leftovers::withdraw(claim))
    }
}

fn take_away(target: &Path, connection: u64) -> io::Result<()> {
    if leftovers::view_at(target, connection)?.is_none() {
        return Ok(());
    }
    match leftovers::unmount(target, Unmount::Now) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => leftovers::unmount(target, Unmount::Lazy),
        // Somebody was faster.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        answer => answer,
    }
}

struct Serving<'a> {
    spec: &'a ViewSpec,
    dirs: &'a Dirs,
    registry: &'a Registry,
    destination: &'a Destination,
    options: ServeOptions,
    signals: Signals,
    warnings: Vec<String>,
}

impl Dirs {
    /// Where the uppers are that stay, by the names of their views.
    #[must_use]
    pub fn uppers(&self) -> PathBuf {
        self.state.join("uppers")
    }

    /// Where the uppers are that go with their views.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.state.join("temporary")
    }
}

impl Serving<'_> {
    fn run(mut self, held: &mut Held, caller: &mut dyn Caller) -> Result<(), Failure> {
        let target = self.target()?;
        held.upper = self.upper()?;
        let (closure, pinned, warning) = pin::closure(self.spec, self.dirs, self.options.require_gc_roots)?;
        held.pinned = pinned;
        self.warnings.extend(warning);
        self.note_view(held)?;
        let mut record = self.record(held);
        publish(&mut held.claim, &record)?;

        let store = open_read_only(&self.spec.store.real)
            .attempt(|| format!("cannot open the store {} read-only", self.spec.store.real.display()))?;
        let (io, session, mount) = self.session(&closure, &store, target.as_ref(), held)?;
        record.io = io.name().to_owned();
        drop(closure);
        let (ended, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .attempt(|| "cannot make a pipe".to_owned())?;
        held.shown = mount.is_none();
        start(session, end)?;
        if let (Some(mount), Some(Target { path, directory })) = (&mount, &target) {
            let connection = FuseConnection::of_mount(mount.as_fd())
                .attempt(|| "cannot ask the mount".to_owned())?
                .number();
            record.place = Place::Mounted { target: path.clone(), connection };
            record.mount_id =
                mount_id::of_mount(mount.as_fd()).attempt(|| "cannot ask the mount".to_owned())?;
            publish(&mut held.claim, &record)?;
            let turn = self.turn(path)?;
            held.shown = true;
            mount::attach(mount.as_fd(), directory.as_fd())
                .attempt(|| format!("cannot mount the view on {}", path.display()))?;
            drop(turn);
            held.mounted = Some((path.clone(), connection));
        } else if let Some((target, connection)) = &held.mounted {
            record.place = Place::Mounted { target: target.clone(), connection: *connection };
        }
        drop(target);
        record.usable = true;
        publish(&mut held.claim, &record)?;
        let private = mount.filter(|_| held.mounted.is_none());
        held.shown = true;
        caller
            .usable(&record, std::mem::take(&mut self.warnings), private.as_ref())
            .attempt(|| "whoever asked for the view is gone".to_owned())?;
        // Whoever has the mount keeps it alive.
        drop(private);
        memory::give_back();
        self.wait(held, caller, &ended)
    }

    /// The directory to mount on, opened before anything is done.
    fn target(&self) -> Result<Option<Target>, Failure> {
        match self.destination {
            Destination::Directory { path, opened: None } => Target::at(path).map(Some),
            Destination::Directory { path, opened: Some(directory) } => {
                Target::opened(directory, path).map(Some)
            }
            Destination::Private { .. } | Destination::Handed { .. } => Ok(None),
        }
    }

    /// The right to mount on `path`, where no view is: until the answer is dropped nobody else mounts one there.
    fn turn(&self, path: &Path) -> Result<File, Failure> {
        let turn = self.registry.mounting().attempt(|| format!("cannot mount on {}", path.display()))?;
        refuse_view(path)?;
        Ok(turn)
    }

    fn upper(&mut self) -> Result<Option<UpperDir>, Failure> {
        if let UpperChoice::Temporary { parent } = &self.spec.upper {
            // Uppers whose servers were killed before they could say so in the registry.
            if let Err(error) = upper_dir::remove_stale(parent) {
                self.warnings.push(Failure::of("cannot remove an old temporary upper", &error).what);
            }
        }
        build::open_upper(self.spec).attempt(|| "cannot use the upper".to_owned())
    }

    /// Notes with the upper what it lies over from now on.
    fn note_view(&mut self, held: &Held) -> Result<(), Failure> {
        let Some(upper) = &held.upper else { return Ok(()) };
        let attempt = || "cannot use the upper".to_owned();
        let database_of = database_of(self.spec, upper).attempt(attempt)?;
        let digest = &self.spec.lock.closure.digest;
        if database_of.as_ref().is_some_and(|other| other != digest) {
            self.warnings.push(foreign_database(self.spec));
        }
        let view = LastView {
            // Variables change nothing of what the upper lies over.
            lock: EnvLock { environment: None, ..self.spec.lock.clone() },
            store: self.spec.store.real.clone(),
            owner: self.spec.owner,
            database_of,
        };
        upper.record_view(&view).attempt(attempt)
    }

    /// A session that serves the view, and its detached mount: with passthrough if that is asked for or works.
    ///
    /// The view's own connection is tried. Only fusermount3, which mounts at once on the target, needs one for the
    /// question alone.
    fn session(
        &self,
        closure: &Closure,
        store: &OwnedFd,
        target: Option<&Target>,
        held: &mut Held,
    ) -> Result<(fuse::Io, Session<Tree>, Option<OwnedFd>), Failure> {
        let may_mount = process::may_mount().attempt(|| "cannot ask for privileges".to_owned())?;
        if self.spec.io == IoChoice::Passthrough || (self.spec.io == IoChoice::Auto && may_mount) {
            let possible = if self.options.fusermount { probe_passthrough(store) } else { may_back(store) };
            let (error, connected) = match possible {
                Err(error) => (error, None),
                Ok(()) => {
                    let (session, mount) =
                        self.connect(fuse::Io::Passthrough, closure, store, target, held)?;
                    let tried = session.and_then(|session| {
                        session.takes_backing(backing_file()?.as_fd())?;
                        Ok(session)
                    });
                    match tried {
                        Ok(session) => return Ok((fuse::Io::Passthrough, session, mount)),
                        Err(error) => (error, mount),
                    }
                }
            };
            // What fusermount3 has mounted is the only attempt.
            if self.spec.io == IoChoice::Passthrough || held.mounted.is_some() {
                return Err(Failure::of("passthrough was asked for, and cannot be had", &error)
                    .hint("it needs Linux 6.9, root, and a store on a disk's file system; without --io, the view is served cached"));
            }
            drop(connected);
            tracing::info!(%error, "no passthrough: files are served cached");
        }
        let (session, mount) = self.connect(fuse::Io::Cached, closure, store, target, held)?;
        let session = session.attempt(|| "cannot start the FUSE session".to_owned())?;
        Ok((fuse::Io::Cached, session, mount))
    }

    /// Puts the tree together and a new connection before it. What went wrong in the negotiation is an answer of its
    /// own: another kind of session may still be had.
    fn connect(
        &self,
        io: fuse::Io,
        closure: &Closure,
        store: &OwnedFd,
        target: Option<&Target>,
        held: &mut Held,
    ) -> Result<(io::Result<Session<Tree>>, Option<OwnedFd>), Failure> {
        let tree = build::build(
            self.spec,
            closure,
            store,
            &self.dirs.state,
            held.upper.as_ref(),
            io == fuse::Io::Passthrough,
        )
        .attempt(|| "cannot put the view together".to_owned())?;
        let (device, mount) = self.mount(target, held)?;
        let options = fuse::Options { io, threads: self.options.threads };
        Ok((Session::new(Arc::new(tree), device, options), mount))
    }

    /// The FUSE device, and its detached mount; with fusermount3 it is mounted on the target already.
    fn mount(&self, target: Option<&Target>, held: &mut Held) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
        let options = FuseOptions {
            read_only: self.spec.upper == UpperChoice::ReadOnly,
            allow_other: self.options.allow_other,
            no_exec: self.options.no_exec,
        };
        if let (true, Some(Target { path, .. })) = (self.options.fusermount, target) {
            let _turn = self.turn(path)?;
            let device = fusermount::mount(path, options).map_err(|error| {
                let failure = Failure::of(&format!("fusermount3 cannot mount on {}", path.display()), &error);
                if options.allow_other {
                    failure.hint(
                        "allow_other needs the line 'user_allow_other' in /etc/fuse.conf; or leave it out",
                    )
                } else {
                    failure
                }
            })?;
            let found = mountinfo::mount_at(path).attempt(|| "cannot read the mount table".to_owned())?;
            let connection =
                found.filter(leftovers::is_view).map(|m| FuseConnection::of_device(m.device).number());
            let connection = connection
                .ok_or_else(|| Failure::new(format!("fusermount3 mounted nothing on {}", path.display())))?;
            held.mounted = Some((path.clone(), connection));
            return Ok((device, None));
        }
        let device = mount::open_fuse_device().map_err(|error| {
            Failure::of("cannot open /dev/fuse", &error).hint("'nixview doctor' says what is missing")
        })?;
        let mount = mount::new_fuse(device.as_fd(), options).map_err(|error| {
            Failure::of("cannot make a FUSE mount", &error).hint("'nixview doctor' says what is missing")
        })?;
        Ok((device, Some(mount)))
    }

    fn record(&self, held: &Held) -> Record {
        let upper = held.upper.as_ref().map_or(UpperRecord::ReadOnly, |upper| {
            let path = upper.path().to_owned();
            let limit = upper.meta().limit;
            if upper.meta().temporary {
                UpperRecord::Temporary { path, limit }
            } else {
                UpperRecord::Directory { path, limit }
            }
        });
        let place = match self.destination {
            Destination::Directory { path, .. } => Place::Mounted { target: path.clone(), connection: 0 },
            Destination::Private { command } => Place::Private { command: command.clone() },
            Destination::Handed { purpose } => Place::Handed { purpose: purpose.clone() },
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let lock = &self.spec.lock;
        let extra_roots = lock.extra_roots.iter().map(|extra| ExtraRootRecord {
            name: extra.name.clone(),
            path: format!("{}/{}", lock.store_dir, extra.path),
        });
        Record {
            version: record::VERSION,
            name: self.spec.name.clone(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            usable: false,
            since: since.as_secs(),
            place,
            mount_id: None,
            lock_file: self.spec.lock_file.clone(),
            // The closure that is shown was verified to be this one.
            closure: ClosureRecord {
                digest: self.spec.lock.closure.digest.to_string(),
                count: self.spec.lock.closure.count,
            },
            extra_roots: extra_roots.collect(),
            store: self.spec.store.real.clone(),
            io: String::new(),
            upper,
            uid: self.spec.owner.0,
            gid: self.spec.owner.1,
            gc_roots: held.pinned.as_ref().map(Pinned::record),
            requested_by: self.options.requested_by,
        }
    }

    /// Until the view is unmounted for good, or this process is told to end.
    fn wait(&self, held: &mut Held, caller: &dyn Caller, ended: &OwnedFd) -> Result<(), Failure> {
        let attempt = || "cannot wait for the end of the view".to_owned();
        let socket = caller.socket();
        let mut namespace = None;
        loop {
            let mut watched = vec![ended.as_fd(), self.signals.as_fd()];
            watched.extend(socket.map(AsFd::as_fd));
            let ready = wait_readable(&watched, None).attempt(attempt)?;
            if ready.first() == Some(&true) {
                held.mounted = None;
                return Ok(());
            }
            if ready.get(1) == Some(&true) && self.signals.next().attempt(attempt)?.is_some() {
                break;
            }
            if let (Some(true), Some(socket)) = (ready.get(2), socket) {
                let (message, _) = crate::sys::socket::receive(socket, 64).attempt(attempt)?;
                match <[u8; 8]>::try_from(message.as_slice()) {
                    Ok(number) => namespace = Some(u64::from_ne_bytes(number)),
                    Err(_) => break,
                }
            }
        }
        self.end(held, namespace, ended)
    }

    /// Takes the view away from those who use it: first its path, then, after a while, its server.
    fn end(&self, held: &mut Held, namespace: Option<u64>, ended: &OwnedFd) -> Result<(), Failure> {
        if let Some((target, connection)) = held.mounted.take() {
            take_away(&target, connection).attempt(|| format!("cannot unmount {}", target.display()))?;
        }
        // Usually the command has ended, and the view with it: then there is nobody to look for.
        let ending = wait_readable(&[ended.as_fd()], Some(SETTLING)).attempt(|| "cannot wait".to_owned())?;
        if let Some(namespace) = namespace.filter(|_| ending != [true]) {
            let left =
                process::in_mount_namespace(namespace).attempt(|| "cannot look for processes".to_owned())?;
            for pid in left {
                process::send_signal(pid, rustix::process::Signal::KILL)
                    .attempt(|| "cannot end the command".to_owned())?;
            }
        }
        if wait_readable(&[ended.as_fd()], Some(GRACE)).attempt(|| "cannot wait".to_owned())? != [true] {
            tracing::warn!(view = %self.spec.name, "still in use somewhere; ended all the same");
        }
        Ok(())
    }
}

/// The closure that the upper's own Nix database was begun with, if it has one.
fn database_of(spec: &ViewSpec, upper: &UpperDir) -> Result<Option<Digest>, UpperError> {
    if !upper.has_nix_database()? {
        return Ok(None);
    }
    let last = match upper.last_view() {
        // It is written anew.
        Err(UpperError::LastView { .. }) => None,
        answer => answer?,
    };
    let first = last.map(|last| last.database_of.unwrap_or(last.lock.closure.digest));
    Ok(Some(first.unwrap_or(spec.lock.closure.digest)))
}

fn foreign_database(spec: &ViewSpec) -> String {
    format!(
        "the view's own Nix database was made for another closure: it does not know the paths of this one, and a collection \
         in the view would delete them there; 'nixview reset {} var/nix' takes back all that Nix recorded in the view",
        spec.name
    )
}

fn publish(claim: &mut Claim, record: &Record) -> Result<(), Failure> {
    claim.publish(record).attempt(|| "cannot write the record of the view".to_owned())
}

/// Whether the kernel takes backing files from this process, and from the store's file system.
pub(super) fn probe_passthrough(store: &OwnedFd) -> io::Result<()> {
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
fn backing_file() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("nixview-probe", rustix::fs::MemfdFlags::CLOEXEC)?)
}

/// Serves on a thread of its own; `end` is closed when it is over.
fn start(session: Session<Tree>, end: OwnedFd) -> Result<(), Failure> {
    let serve = move || {
        if let Err(error) = session.run() {
            tracing::error!(%error, "the FUSE session ended with an error");
        }
        drop(end);
    };
    std::thread::Builder::new()
        .name("session".to_owned())
        .stack_size(256 * 1024)
        .spawn(serve)
        .map(drop)
        .attempt(|| "cannot start a thread".to_owned())
}
