//! The closure of a view, and the garbage collector kept from it.

use std::path::Path;
use std::time::Duration;

use super::error::Failure;
use super::keeper::Dirs;
use super::record::GcRootsRecord;
use crate::closure::Closure;
use crate::lock;
use crate::store::gc_root::{CollectorPause, GcRootError};
use crate::store::lease::{self, Lease};
use crate::view::spec::ViewSpec;

/// How long a garbage collection that is running is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Roots that are held for a view.
#[derive(Debug)]
pub(super) struct Pinned(Lease);

impl Pinned {
    /// What the registry says of them.
    #[must_use]
    pub(super) fn record(&self) -> GcRootsRecord {
        GcRootsRecord { dir: self.0.dir().to_owned(), count: self.0.count() }
    }

    /// Removes them.
    ///
    /// # Errors
    /// As [`Lease::release`].
    pub(super) fn remove(self) -> Result<(), GcRootError> {
        self.0.release()
    }
}

/// The closure that a view shows: exactly what its lock says, registered, and safe from the collector from here on.
///
/// The collector waits from before the closure is looked up until the roots are set, so that nothing of it can go in
/// between. Where the store's state cannot be written (a foreign or read-only store, a user without privilege) the
/// answer has a warning instead of roots, unless they are `required`.
///
/// # Errors
/// If the closure cannot be had or is another than the lock says, or required roots cannot be set.
pub(super) fn closure(
    spec: &ViewSpec,
    dirs: &Dirs,
    required: bool,
) -> Result<(Closure, Option<Pinned>, Option<String>), Failure> {
    let pause = spec.store.state.as_deref().map(|state| CollectorPause::take(state, PATIENCE));
    let (pause, unwritable) = match pause {
        None => (None, None),
        Some(Ok(pause)) => (Some(pause), None),
        Some(Err(error @ GcRootError::Collecting { .. })) => {
            return Err(Failure::of("cannot protect the closure", &error).hint("try again when it has ended"));
        }
        Some(Err(error)) => (None, Some(error)),
    };
    let attempt = || format!("cannot find the closure of {}", spec.lock_file.display());
    let (closure, _) = spec.lock.closure_in(&spec.store, &dirs.state).map_err(|error| {
        let hints = spec.lock.fetching_hints(&error);
        hints.into_iter().fold(Failure::of(&attempt(), &error), Failure::hint)
    })?;
    lock::verify(&spec.lock, &closure).map_err(|error| {
        Failure::of(&format!("the store does not have what {} says", spec.lock_file.display()), &error)
            .hint("'nixview closure --diff' names the paths; 'nixview lock' makes a new lock")
    })?;
    let Some(gcroots) = spec.store.gc_roots_dir() else {
        let none = "this store has no state of Nix beside it".to_owned();
        return if required { Err(no_roots(&none)) } else { Ok((closure, None, None)) };
    };
    sweep(&gcroots);
    let set = match unwritable {
        Some(error) => Err(error),
        None => Lease::take(&gcroots, spec.name.as_str(), &spec.store.dir, &spec.lock.to_pin(&closure)),
    };
    drop(pause);
    match set {
        Ok(roots) => Ok((closure, Some(Pinned(roots)), None)),
        Err(error) if required => Err(no_roots(&error.to_string())),
        Err(error) => {
            let warning = format!("the view is not safe from Nix's garbage collector: {error}");
            Ok((closure, None, Some(warning)))
        }
    }
}

/// Removes the roots of servers that were killed. What cannot be removed is none of this view's concern: `nixview gc`
/// tells it.
fn sweep(gcroots: &Path) {
    match lease::sweep(gcroots) {
        Ok(swept) => swept.problems.iter().for_each(|problem| tracing::info!(%problem, "a sweep of roots")),
        Err(error) => tracing::info!(%error, "no sweep of roots"),
    }
}

fn no_roots(why: &str) -> Failure {
    Failure::new(format!("cannot set roots of the garbage collector, which were asked for: {why}"))
        .hint("without --require-gc-roots the view is mounted all the same")
}
