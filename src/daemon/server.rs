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
use crate::closure::Closure;
use crate::fuse::{self, Session};
use crate::lock::EnvLock;
use crate::sys::fuse_connection::FuseConnection;
use crate::sys::mount::{self, FuseOptions, Unmount};
use crate::sys::signals::{Signals, wait_readable};
use crate::sys::{fusermount, memory, mountinfo, process};
use crate::view::build::{self, Tree};
use crate::view::spec::{IoChoice, UpperChoice, ViewSpec};
use crate::view::upper_dir::{self, LastView, UpperDir};

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
}

/// Where a view goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// On an existing directory, absolute.
    Directory(PathBuf),
    /// Detached, to the process that asked, which gives it a place for this command.
    Private {
        /// The command, for people.
        command: String,
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
            note(format!("cannot remove the roots in {}", dir.display()), pinned.remove());
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

        let store = open_store(&self.spec.store.real)
            .attempt(|| format!("cannot open the store {} read-only", self.spec.store.real.display()))?;
        let (io, session, mount) = self.session(&closure, &store, target.as_ref(), held)?;
        record.io = io.name().to_owned();
        drop(closure);
        let (ended, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .attempt(|| "cannot make a pipe".to_owned())?;
        held.shown = mount.is_none();
        start(session, end)?;
        if let (Some(mount), Some((path, fd))) = (&mount, &target) {
            let connection = FuseConnection::of_mount(mount.as_fd())
                .attempt(|| "cannot ask the mount".to_owned())?
                .number();
            record.place = Place::Mounted { target: path.clone(), connection };
            publish(&mut held.claim, &record)?;
            let turn = self.turn(path)?;
            held.shown = true;
            mount::attach(mount.as_fd(), fd.as_fd())
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

    /// The directory to mount on, opened before anything is done: nobody can change its path afterwards.
    fn target(&self) -> Result<Option<(PathBuf, OwnedFd)>, Failure> {
        let Destination::Directory(path) = self.destination else {
            return Ok(None);
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let missing = || format!("cannot mount on {}", path.display());
        let parent = parent.canonicalize().attempt(missing)?;
        let path = path.file_name().map_or_else(|| parent.clone(), |name| parent.join(name));
        refuse_view(&path)?;
        let opened = mount::open_target(&path).map_err(|error| {
            let failure = Failure::of(&missing(), &error);
            match error.raw_os_error() {
                Some(libc::ENOENT) => {
                    failure.hint(format!("make the directory first: mkdir -p {}", path.display()))
                }
                Some(libc::ENOTDIR | libc::ELOOP) => {
                    failure.hint("a view is mounted on a directory; it is no directory, or a symbolic link")
                }
                _ => failure,
            }
        })?;
        Ok(Some((path, opened)))
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
    fn note_view(&self, held: &Held) -> Result<(), Failure> {
        let Some(upper) = &held.upper else { return Ok(()) };
        let view = LastView {
            // Variables change nothing of what the upper lies over.
            lock: EnvLock { environment: None, ..self.spec.lock.clone() },
            store: self.spec.store.real.clone(),
            owner: self.spec.owner,
        };
        upper.record_view(&view).attempt(|| "cannot use the upper".to_owned())
    }

    /// A session that serves the view, and its detached mount: with passthrough if that is asked for or works.
    ///
    /// The view's own connection is tried. Only fusermount3, which mounts at once on the target, needs one for the
    /// question alone.
    fn session(
        &self,
        closure: &Closure,
        store: &OwnedFd,
        target: Option<&(PathBuf, OwnedFd)>,
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
        target: Option<&(PathBuf, OwnedFd)>,
        held: &mut Held,
    ) -> Result<(io::Result<Session<Tree>>, Option<OwnedFd>), Failure> {
        let tree = build::build(self.spec, closure, store, held.upper.as_ref(), io == fuse::Io::Passthrough)
            .attempt(|| "cannot put the view together".to_owned())?;
        let (device, mount) = self.mount(target, held)?;
        let options = fuse::Options { io, threads: self.options.threads };
        Ok((Session::new(Arc::new(tree), device, options), mount))
    }

    /// The FUSE device, and its detached mount; with fusermount3 it is mounted on the target already.
    fn mount(
        &self,
        target: Option<&(PathBuf, OwnedFd)>,
        held: &mut Held,
    ) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
        let options = FuseOptions {
            read_only: self.spec.upper == UpperChoice::ReadOnly,
            allow_other: self.options.allow_other,
            no_exec: self.options.no_exec,
        };
        if let (true, Some((path, _))) = (self.options.fusermount, target) {
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
            Destination::Directory(target) => Place::Mounted { target: target.clone(), connection: 0 },
            Destination::Private { command } => Place::Private { command: command.clone() },
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

/// Fails if the topmost mount at `path` is a view.
fn refuse_view(path: &Path) -> Result<(), Failure> {
    let found = mountinfo::mount_at(path).attempt(|| format!("cannot mount on {}", path.display()))?;
    if found.is_some_and(|m| leftovers::is_view(&m)) {
        return Err(Failure::new(format!("a view is mounted on {} already", path.display()))
            .hint(format!("end it with 'nixview umount {}'", path.display())));
    }
    Ok(())
}

fn publish(claim: &mut Claim, record: &Record) -> Result<(), Failure> {
    claim.publish(record).attempt(|| "cannot write the record of the view".to_owned())
}

/// The store's directory on a read-only clone of its mount. A process that may not mount gets the directory itself: it
/// has no passthrough either, so that nobody but this program opens anything beneath it, and that for reading alone.
fn open_store(real: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    match mount::clone_read_only(real) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && !process::may_mount()? => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(real, flags, Mode::empty())?)
        }
        answer => answer,
    }
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
