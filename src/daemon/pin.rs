//! The closure of a view, and the garbage collector kept from it.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::Failure;
use super::keeper::Dirs;
use super::record::GcRootsRecord;
use crate::lock::{LockError, VerifiedClosure};
use crate::store::gc_root::{CollectorPause, GcRootError};
use crate::store::lease::{self, Lease};
use crate::store::temp_roots::{TempRootError, TempRoots};
use crate::sys::overlay_use::OverlayUse;
use crate::view::spec::ViewSpec;

/// How long a garbage collection that is running is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Roots that are held for a view.
#[derive(Debug)]
pub(super) enum Pinned {
    /// Links among Nix's roots.
    Lease(Lease),
    /// By nix-daemon, until the processes that have the connection end.
    ByDaemon { _roots: TempRoots },
}

impl Pinned {
    /// What the registry says of links, which outlive a kill.
    #[must_use]
    pub(super) fn record(&self) -> Option<GcRootsRecord> {
        match self {
            Self::Lease(lease) => Some(GcRootsRecord { dir: lease.dir().to_owned(), count: lease.count() }),
            Self::ByDaemon { .. } => None,
        }
    }

    /// Notes that they are for an overlay, which may outlive this process. Those of nix-daemon do not.
    ///
    /// # Errors
    /// As [`Lease::note_overlay`].
    pub(super) fn note_overlay(&self, overlay: &OverlayUse) -> io::Result<()> {
        match self {
            Self::Lease(lease) => lease.note_overlay(overlay),
            Self::ByDaemon { .. } => Ok(()),
        }
    }

    /// Removes them.
    ///
    /// # Errors
    /// As [`Lease::release`].
    pub(super) fn remove(self) -> Result<(), GcRootError> {
        match self {
            Self::Lease(lease) => lease.release(),
            Self::ByDaemon { .. } => Ok(()),
        }
    }
}

/// The closure that a view shows: exactly what its lock says, registered, and safe from the collector from here on.
///
/// The collector waits from before the closure is looked up until the roots are set, so that nothing of it can go in
/// between. Where the store's state cannot be written (a foreign or read-only store, a user without privilege) the
/// daemon of Nix is asked to hold them; where there is none the answer has a warning instead of roots, unless they are
/// `required`, or the caller wants it `quiet`.
///
/// # Errors
/// If the closure cannot be had or is another than the lock says, or required roots cannot be set.
pub(super) fn closure<'s>(
    spec: &'s ViewSpec,
    dirs: &'s Dirs,
    required: bool,
    quiet: bool,
) -> Result<(VerifiedClosure<'s>, Option<Pinned>, Option<String>), Failure> {
    let pause = spec.store.state.as_deref().map(|state| CollectorPause::take(state, PATIENCE));
    let (pause, unwritable) = match pause {
        None => (None, None),
        Some(Ok(pause)) => (Some(pause), None),
        Some(Err(error @ GcRootError::Collecting { .. })) => {
            return Err(Failure::of("cannot protect the closure", &error).hint("try again when it has ended"));
        }
        Some(Err(error)) => (None, Some(error)),
    };
    let closure = spec.lock.verified_in(&spec.store, &dirs.state).map_err(|error| refusal(spec, &error))?;
    let Some(gcroots) = spec.store.gc_roots_dir() else {
        let none = "this store has no state of Nix beside it".to_owned();
        return if required { Err(no_roots(&none)) } else { Ok((closure, None, None)) };
    };
    sweep(&gcroots, dirs);
    let set = match unwritable {
        Some(error) => Err(error),
        None => Lease::take(&gcroots, spec.name.as_str(), &spec.store.dir, closure.to_pin()),
    };
    drop(pause);
    let error = match set {
        Ok(roots) => return Ok((closure, Some(Pinned::Lease(roots)), None)),
        Err(error) => error,
    };
    let by_daemon =
        spec.store.state.as_deref().map(|state| TempRoots::take(state, &spec.store.dir, closure.to_pin()));
    match by_daemon {
        Some(Ok(roots)) => Ok((closure, Some(Pinned::ByDaemon { _roots: roots }), None)),
        // Another view of it must not begin with what is gone.
        Some(Err(gone @ TempRootError::Gone(_))) => {
            Err(Failure::of("cannot protect the closure", &gone).hint("build or fetch it again"))
        }
        Some(Err(_)) | None if required => Err(no_roots(&error.to_string())),
        Some(Err(_)) | None => {
            let warning = (!quiet).then(|| unsafe_from_collector(spec, &error));
            Ok((closure, None, warning))
        }
    }
}

/// Why the closure cannot be shown, and what can be done.
pub(super) fn refusal(spec: &ViewSpec, error: &LockError) -> Failure {
    let file = spec.lock_file.display();
    if let LockError::Differs { .. } = error {
        return Failure::of(&format!("the store does not have what {file} says"), error)
            .hint("'nixview closure --diff' names the paths; 'nixview lock' makes a new lock");
    }
    let hints = spec.lock.fetching_hints(error, false);
    hints.into_iter().fold(Failure::of(&format!("cannot find the closure of {file}"), error), Failure::hint)
}

/// Says it, and what can be done.
fn unsafe_from_collector(spec: &ViewSpec, error: &GcRootError) -> String {
    let root = spec.lock.roots.first();
    let root = root.map(|root| format!("{}/{}", spec.store.dir, root.path)).unwrap_or_default();
    format!(
        "the view is not safe from Nix's garbage collector: {error}; where nix-daemon runs, it keeps the closure as long as the \
         view is there; else make a root ('nix-store --realise {root} --add-root FILE --indirect'), or be sure that \
         nothing is collected and say --no-gc-warning"
    )
}

/// Removes the roots of servers that were killed. What cannot be removed is none of this view's concern: `nixview gc`
/// tells it.
fn sweep(gcroots: &Path, dirs: &Dirs) {
    match lease::sweep_part(gcroots, &dirs.rounds()) {
        Ok(swept) => swept.problems.iter().for_each(|problem| tracing::info!(%problem, "a sweep of roots")),
        Err(error) => tracing::info!(%error, "no sweep of roots"),
    }
}

fn no_roots(why: &str) -> Failure {
    Failure::new(format!("cannot set roots of the garbage collector, which were asked for: {why}"))
        .hint("without --require-gc-roots the view is mounted all the same")
}
