//! Setting a view up: everything that it needs, in an order in which nothing is lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::connection::{Connecting, Connection};
use super::overlay::{Overlay, Refusal};
use super::watch::{Deaths, Watch};
use super::{Caller, Destination, Dirs, Held, ServeOptions};
use super::{earlier, server};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::hidden;
use crate::daemon::log::REPORTED;
use crate::daemon::mounted::Mounted;
use crate::daemon::pin::{self, Pinned};
use crate::daemon::record::{
    self, BACKEND_FUSE, BACKEND_OVERLAY, ClosureRecord, ExtraRootRecord, Place, Record, UpperRecord,
};
use crate::daemon::registry::{Registry, Turn};
use crate::daemon::target::{Target, refuse_view};
use crate::daemon::trace::Traced;
use crate::lock::{Digest, EnvLock, VerifiedClosure};
use crate::sys::signals::Signals;
use crate::sys::{memory, mount, socket};
use crate::view::build::{self, ViewLower};
use crate::view::open_read_only;
use crate::view::spec::{BackendChoice, UpperChoice, ViewSpec};
use crate::view::upper_dir::{self, LastView, UpperDir, UpperError};

/// A view that is being set up and kept.
pub(super) struct Serving<'a> {
    pub(super) spec: &'a ViewSpec,
    pub(super) dirs: &'a Dirs,
    pub(super) registry: &'a Registry,
    pub(super) destination: &'a Destination,
    pub(super) options: ServeOptions,
    pub(super) signals: Signals,
    pub(super) warnings: Vec<String>,
    /// When this process began to make the view.
    pub(super) began: Instant,
}

/// What a view is made of, with all that keeps it.
enum Kept {
    Served(Box<Served>),
    Overlay(Box<Overlay>),
}

/// A view with a server.
struct Served {
    connection: Connection,
    lower: ViewLower,
}

impl Serving<'_> {
    pub(super) fn run(mut self, held: &mut Held, caller: &mut dyn Caller) -> Result<(), Failure> {
        held.target = self.target()?;
        held.upper = self.upper()?;
        let (closure, pinned, warning) =
            pin::closure(self.spec, self.dirs, self.options.require_gc_roots, self.options.no_gc_warning)?;
        tracing::info!(
            lock = ?self.spec.lock_file, paths = self.spec.lock.closure.count, roots = pinned.is_some(),
            "the closure is complete"
        );
        held.pinned = pinned;
        self.warnings.extend(warning);
        let (earlier, view) = self.lies_over(held)?;
        let mut record = self.record(held);
        held.publish(&record)?;

        let store = open_read_only(&self.spec.store.real)
            .attempt(|| format!("cannot open the store {} read-only", self.spec.store.real.display()))?;
        let needs_server = self.server_is_needed()?;
        // overlayfs shows all that an upper has: also the changes of store paths that the closure has not.
        let compared = match &held.upper {
            Some(upper) if earlier.is_some() || needs_server.is_none() => {
                upper.holds_anything().attempt(|| "cannot use the upper".to_owned())?
            }
            _ => false,
        };
        let lower =
            if needs_server.is_some() || compared { Some(self.lower(&closure, &store)?) } else { None };
        let mut hides = None;
        if let (true, Some(upper), Some(lower)) = (compared, &held.upper, &lower) {
            let parts = earlier::parts(self.spec, upper, lower)?;
            hides = (!parts.hidden.is_empty())
                .then(|| "its upper changes store paths that it does not show".to_owned());
            let warning = earlier.map(|earlier| earlier::warning(self.spec, upper, &earlier, &parts));
            self.warnings.extend(warning);
        }
        let refused = match needs_server {
            Some(why) => Err(Refusal(why)),
            None => self.overlay(held, &closure, &store, hides),
        };
        let kept = match refused {
            Ok(overlay) => {
                note_view(held, view.as_ref())?;
                record.backend = BACKEND_OVERLAY.to_owned();
                record.io = "kernel".to_owned();
                record.anchor = overlay.anchor;
                record.overlay = Some(overlay.mounted.line());
                Kept::Overlay(Box::new(overlay))
            }
            Err(Refusal(why)) if self.spec.backend == BackendChoice::Overlay => {
                return Err(Failure::new(format!("a view by overlayfs cannot be had: {why}"))
                    .hint("'--backend auto' takes a server where overlayfs refuses"));
            }
            Err(Refusal(why)) => {
                tracing::info!(why, "the view has a server");
                record.backend_reason = Some(why);
                self.open_upper_again(held, &mut record)?;
                let lower = lower.map_or_else(|| self.lower(&closure, &store), Ok)?;
                note_view(held, view.as_ref())?;
                Kept::Served(Box::new(self.serve(held, caller, &mut record, lower, &store)?))
            }
        };
        drop(closure);
        drop(store);
        held.shown = held.mount.is_none();
        let mount = held.mount.take();
        if let (Some(mount), Some(Target { path, directory })) = (&mount, held.target.take()) {
            let mounted = Mounted::new(path.clone(), mount.as_fd(), Some(directory))
                .attempt(|| "cannot ask the mount".to_owned())?;
            mounted.note_in(&mut record);
            held.publish(&record)?;
            if let Some(point) = mounted.point() {
                let turn = self.turn(&path, point.as_fd())?;
                held.shown = true;
                mount::attach(mount.as_fd(), point.as_fd())
                    .attempt(|| format!("cannot mount the view on {}", path.display()))?;
                drop(turn);
            }
            held.mounted = Some(mounted);
        } else if let Some(mounted) = &held.mounted {
            mounted.note_in(&mut record);
        }
        record.usable = true;
        held.publish(&record)?;
        let private = mount.filter(|_| held.mounted.is_none());
        held.shown = true;
        // First this: what the caller is told is there must not be taken back when this process is killed. A server that has died
        // already is seen by the wait that follows.
        if let Kept::Served(served) = &kept {
            drop(socket::send(&served.connection.process.socket, server::KNOWN, None));
        }
        tracing::info!(
            place = %record.place, backend = %record.backend, io = %record.io, upper = %record.upper, server = record.server,
            took = ?self.began.elapsed(), "the view can be used"
        );
        self.warnings.iter().for_each(|warning| tracing::warn!(target: REPORTED, "{warning}"));
        caller
            .usable(&record, std::mem::take(&mut self.warnings), private.as_ref())
            .attempt(|| "whoever asked for the view is gone".to_owned())?;
        // Whoever has the mount keeps it alive.
        drop(private);
        memory::give_back();
        match kept {
            Kept::Overlay(overlay) => self.keep_overlay(*overlay, held, caller),
            Kept::Served(served) => {
                let Served { connection, lower } = *served;
                let deaths = Deaths::default();
                Watch { serving: &self, connection, lower: &lower, record, deaths }
                    .until_the_end(held, caller)
            }
        }
    }

    fn lower(&self, closure: &VerifiedClosure<'_>, store: &OwnedFd) -> Result<ViewLower, Failure> {
        let closure = closure.paths().map_err(|error| pin::refusal(self.spec, &error))?;
        build::lower(&self.spec.lock, closure, &self.spec.store, store, &self.dirs.state)
            .attempt(|| "cannot put the view together".to_owned())
    }

    /// Starts a server.
    fn serve(
        &self,
        held: &mut Held,
        caller: &mut dyn Caller,
        record: &mut Record,
        lower: ViewLower,
        store: &OwnedFd,
    ) -> Result<Served, Failure> {
        let cannot = || match &self.spec.trace {
            Some(path) => format!("cannot write the trace {}", path.display()),
            None => "cannot have memory for the view".to_owned(),
        };
        held.traced = Some(Traced::new(self.spec.trace.as_deref()).attempt(cannot)?);
        let connection = Connecting { serving: self, lower: &lower, store }.connect(held, caller)?;
        record.io = connection.io.name().to_owned();
        record.server = connection.process.number();
        if let (Some(traced), Some(_)) = (&mut held.traced, &self.spec.trace) {
            traced.begin(record, &self.spec.lock).attempt(cannot)?;
        }
        Ok(Served { connection, lower })
    }

    /// What was made ready for an overlay cannot be written by a server: opens the upper once more, if it was.
    fn open_upper_again(&mut self, held: &mut Held, record: &mut Record) -> Result<(), Failure> {
        if !held.upper.as_ref().is_some_and(UpperDir::is_for_overlay) {
            return Ok(());
        }
        held.upper = None;
        held.upper = self.upper()?;
        record.upper = upper_record(held.upper.as_ref());
        held.publish(record)
    }

    /// The directory to mount on, opened before anything is done.
    fn target(&self) -> Result<Option<Target>, Failure> {
        let target = match self.destination {
            Destination::Directory { path, opened: None, .. } => Target::at(path)?,
            Destination::Directory { path, opened: Some(directory), .. } => Target::opened(directory, path)?,
            Destination::Private { .. } | Destination::Handed { .. } => return Ok(None),
        };
        hidden::refuse(&target.path, &self.spec.store, self.dirs)?;
        Ok(Some(target))
    }

    /// The right to mount on a directory, where no view is: while the answer lives no other process of the registry mounts one there.
    pub(super) fn turn(&self, path: &Path, directory: BorrowedFd<'_>) -> Result<Turn, Failure> {
        let turn = self.registry.turn().attempt(|| format!("cannot mount on {}", path.display()))?;
        refuse_view(path, directory)?;
        Ok(turn)
    }

    fn upper(&mut self) -> Result<Option<UpperDir>, Failure> {
        if let UpperChoice::Temporary { parent } = &self.spec.upper {
            // Uppers whose servers were killed before they could say so in the registry.
            if let Err(error) = upper_dir::remove_stale_part(parent, &self.dirs.rounds()) {
                self.warnings.push(Failure::of("cannot remove an old temporary upper", &error).what);
            }
        }
        build::open_upper(self.spec).map_err(|error| {
            let failure = Failure::of("cannot use the upper", &error);
            match error {
                UpperError::Busy { .. } => failure.hint("unmount that view first, or name another upper"),
                UpperError::NotAnUpper { .. } => failure.hint("name a new or empty directory"),
                UpperError::OtherStore { .. } => failure.hint("name another upper"),
                _ => failure,
            }
        })
    }

    /// What the upper lay over before, if that is another closure, and what it lies over now.
    fn lies_over(&mut self, held: &Held) -> Result<(Option<LastView>, Option<LastView>), Failure> {
        let Some(upper) = &held.upper else { return Ok((None, None)) };
        let attempt = || "cannot use the upper".to_owned();
        let earlier = earlier::environment(self.spec, upper).attempt(attempt)?;
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
        Ok((earlier, Some(view)))
    }

    fn record(&self, held: &Held) -> Record {
        let place = match self.destination {
            Destination::Directory { path, .. } => Place::Mounted { target: path.clone(), connection: 0 },
            Destination::Private { command } => Place::Private { command: command.clone() },
            Destination::Handed { purpose, .. } => Place::Handed { purpose: purpose.clone() },
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
            server: None,
            restarts: 0,
            last_restarts: Vec::new(),
            usable: false,
            since: since.as_secs(),
            place,
            mount_id: None,
            mount_in_mountinfo: None,
            mount_below: None,
            mount_point_fd: None,
            lock_file: self.spec.lock_file.clone(),
            // The closure that is shown was verified to be this one.
            closure: ClosureRecord {
                digest: self.spec.lock.closure.digest.to_string(),
                count: self.spec.lock.closure.count,
            },
            extra_roots: extra_roots.collect(),
            store: self.spec.store.real.clone(),
            backend: BACKEND_FUSE.to_owned(),
            backend_reason: None,
            overlay: None,
            anchor: None,
            io: String::new(),
            upper: upper_record(held.upper.as_ref()),
            uid: self.spec.owner.0,
            gid: self.spec.owner.1,
            gc_roots: held.pinned.as_ref().and_then(Pinned::record),
            requested_by: self.options.requested_by,
            container: match self.destination {
                Destination::Handed { container, .. } => container.clone(),
                Destination::Directory { .. } | Destination::Private { .. } => None,
            },
        }
    }
}

fn upper_record(upper: Option<&UpperDir>) -> UpperRecord {
    upper.map_or(UpperRecord::ReadOnly, |upper| {
        let path = upper.path().to_owned();
        let limit = upper.meta().limit;
        if upper.meta().temporary {
            UpperRecord::Temporary { path, limit }
        } else {
            UpperRecord::Directory { path, limit }
        }
    })
}

/// Notes with the upper what it lies over from now on. Not before a view can be had: one that is refused changes nothing.
fn note_view(held: &Held, view: Option<&LastView>) -> Result<(), Failure> {
    let (Some(upper), Some(view)) = (&held.upper, view) else { return Ok(()) };
    upper.record_view(view).attempt(|| "cannot use the upper".to_owned())
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
