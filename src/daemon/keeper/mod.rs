//! The keeper of one view: from its specification to the last request, and nothing left afterwards.
//!
//! In this order, so that whatever fails or is killed leaves only what the registry's record names: the name, the
//! upper's lock, the closure and its roots (while the collector of the store waits), the record, the layers, the
//! mount, the server. Taken back in the opposite order.
//!
//! The keeper makes the connection to the kernel and the mount, and answers no request: that does its *server*, a process of its
//! own that it starts, and starts again when it dies ([`watch`]). A server notes what it tells the kernel ([`ledger`]) in
//! memory that outlives it ([`memory`]), so that the next one goes on where it was killed. Everything that must not go while the view is there
//! (locks, roots, the connection) both have; a server whose keeper is killed serves on, and takes the view back at the
//! end ([`server`]). docs/operations.md says what users see of it.

mod connection;
mod earlier;
mod ledger;
mod link;
mod memory;
mod overlay;
mod past;
mod server;
mod setup;
mod watch;
mod watch_overlay;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::claim;
use super::error::{Attempt, Failure};
use super::leftovers;
use super::log;
use super::mounted::{Mounted, Outcome};
use super::pin::Pinned;
use super::record::Record;
use super::registry::{Claim, Registry};
use super::target::Target;
use super::trace::Traced;
use crate::control::Container;
use crate::sys::mount::Unmount;
use crate::sys::overlay_use::OverlayUse;
use crate::sys::rounds::Rounds;
use crate::sys::signals::Signals;
use crate::sys::{limits, memory as own_memory, small_namespace};
use crate::view::spec::ViewSpec;
use crate::view::upper_dir::UpperDir;

pub(super) use connection::probe_passthrough;
use setup::Serving;
pub use watch_overlay::{Passed, resume};

/// How long those who still use a view have, once its server was told to end.
const GRACE: Duration = Duration::from_secs(2);

/// How long a view whose users are gone takes to end.
const SETTLING: Duration = Duration::from_millis(50);

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
    /// Nothing is said of a view whose closure the collector may delete.
    pub no_gc_warning: bool,
    /// Mount with fusermount3 also where this process could by itself.
    pub fusermount: bool,
    /// Overlayfs makes a view for which no backend is asked for, if it can.
    pub prefer_overlay: bool,
    /// The server is started again when it dies, where the kernel can ask again what it had not answered (Linux 6.9).
    pub restart: bool,
    /// The keeper of an overlay becomes a smaller program while it waits.
    pub becomes_small: bool,
    /// How many requests are worked on at once.
    pub threads: NonZeroUsize,
    /// How much is logged: as many as `-v` were given ([`log::level`]).
    pub verbose: u8,
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
        /// The lock, if the mount table is to show it. A mount that is handed to a container never shows one.
        source: Option<PathBuf>,
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
        /// The container that it is for, if it is for one.
        container: Option<Container>,
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

    /// Another process talks to the caller: this one, a copy of it, must not hold the connection open.
    ///
    /// # Errors
    /// If that cannot be.
    fn leave(&mut self) -> io::Result<()>;
}

impl Dirs {
    /// Where the uppers are that stay, by the names of their views.
    #[must_use]
    pub fn uppers(&self) -> PathBuf {
        self.state.join("uppers")
    }

    /// Where looks at parts of directories are kept.
    pub(super) fn rounds(&self) -> Rounds {
        Rounds::kept_in(self.runtime.join("rounds"))
    }

    /// Where the uppers are that go with their views.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.state.join("temporary")
    }
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
    let began = Instant::now();
    own_memory::stay_small();
    let signals =
        Signals::block_only(&watch_overlay::SIGNALS).attempt(|| "cannot take signals".to_owned())?;
    let limits =
        limits::prepare_to_serve().attempt(|| "cannot set the limits of the view's server".to_owned())?;
    let mut warnings = limits.refuse_or_warn().map_err(|refused| {
        Failure::new(refused.to_string()).hint(format!(
            "raise it: 'ulimit -H {} unlimited' as root, limits.conf(5), or the unit's Limit settings (systemd.exec(5))",
            refused.option
        ))
    })?;
    let registry =
        Registry::open(&dirs.runtime).attempt(|| "cannot open the registry of views".to_owned())?;
    if let Err(error) = small_namespace::provide(&dirs.runtime.join("namespace")) {
        tracing::debug!(%error, "copies of all mounts are made for each view");
    }
    let (problems, round_ended) =
        leftovers::sweep_part(&registry).attempt(|| "cannot read the registry of views".to_owned())?;
    warnings.extend(problems.into_iter().map(|p| p.what));
    let claim = claim::take(&registry, &spec.name)?;
    // The name is this process's, and so is the log of that name.
    let private = matches!(destination, Destination::Private { .. });
    if let Err(error) = log::open(&dirs.state, &spec.name, log::level(options.verbose, private), round_ended)
    {
        warnings.push(Failure::of("the view has no log", &error).what);
    }
    let mut held = Held {
        claim: Some(claim),
        upper: None,
        pinned: None,
        traced: None,
        target: None,
        mount: None,
        mounted: None,
        overlay: None,
        overlay_is_gone: false,
        shown: false,
    };
    let answer = Serving { spec, dirs, registry: &registry, destination, options, signals, warnings, began }
        .run(&mut held, caller);
    let ended = answer.and(held.release());
    log::end(&ended);
    ended
}

/// What must be taken back at the end.
struct Held {
    claim: Option<Claim>,
    upper: Option<UpperDir>,
    pinned: Option<Pinned>,
    /// What can be traced of the view.
    traced: Option<Traced>,
    /// Where it will be mounted.
    target: Option<Target>,
    /// The mount while it has no place. A server must not have it: it would use its own view.
    mount: Option<OwnedFd>,
    /// Where it is mounted.
    mounted: Option<Mounted>,
    /// The overlay that it is, if it is one.
    overlay: Option<OverlayUse>,
    /// The kernel said that the overlay is gone.
    overlay_is_gone: bool,
    /// Somebody may have seen the view, and written to it.
    shown: bool,
}

impl Held {
    /// Writes the record of the view.
    fn publish(&mut self, record: &Record) -> Result<(), Failure> {
        match &mut self.claim {
            Some(claim) => claim.publish(record).attempt(|| "cannot write the record of the view".to_owned()),
            None => Ok(()),
        }
    }

    /// Takes everything back; goes on after what cannot be, so that as little as possible is left.
    fn release(&mut self) -> Result<(), Failure> {
        let (upper, pinned, mounted) = (self.upper.take(), self.pinned.take(), self.mounted.take());
        let shown = self.shown;
        let mut answer = Ok(());
        if let (Some(mounted), Some(claim)) = (mounted, &self.claim) {
            answer = take_away(&mounted, claim.registry());
        }
        self.mount = None;
        if let Some(overlay) = self.overlay.take() {
            // Once it is gone, its numbers may be another one's.
            let used = match self.overlay_is_gone {
                true => Ok(false),
                false => overlay.is_used().attempt(|| "cannot read mount tables".to_owned()),
            };
            if !matches!(used, Ok(false)) {
                // It was not waited for, for some error: a sweep takes all away when it is gone.
                upper.into_iter().for_each(UpperDir::leave);
                return answer.and(used.map(drop));
            }
            if let Some(upper) = upper.as_ref().filter(|upper| !upper.meta().temporary) {
                let noted = upper.note_overlay(None).map_err(io::Error::other);
                answer = answer.and(noted.attempt(|| "cannot use the upper".to_owned()));
            }
        }
        let mut note = |what: String, done: io::Result<()>| {
            if let (Err(error), true) = (&done, answer.is_ok()) {
                answer = Err(Failure::of(&what, error));
            }
        };
        if let Some(traced) = self.traced.take() {
            note("cannot write the trace of the view".to_owned(), traced.end(shown));
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
            let dir = pinned.record().map(|record| record.dir.display().to_string()).unwrap_or_default();
            let removed = pinned.remove().map_err(io::Error::other);
            note(format!("cannot remove the roots in {dir}"), removed);
        }
        answer.and_then(|()| self.claim.take().map_or(Ok(()), leftovers::withdraw))
    }
}

/// Unmounts a view, also while it is used.
fn take_away(mounted: &Mounted, registry: &Registry) -> Result<(), Failure> {
    let attempt = || format!("cannot unmount {}", mounted.target().display());
    let turn = registry.turn().attempt(attempt)?;
    match mounted.unmount(Unmount::Lazy, &turn).attempt(attempt)? {
        Outcome::Unmounted | Outcome::NotHere => Ok(()),
        Outcome::Covered(path) => Err(Failure::new(format!(
            "{}: something else is mounted over it on {}",
            attempt(),
            path.display()
        ))),
    }
}
