//! Puts the two layers of a view together.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::members::Members;
use super::nix_state::NixState;
use super::spec::{UpperChoice, ViewSpec};
use super::store_root::ClosureLower;
use super::upper_dir::{UpperDir, UpperError, UpperSpec};
use crate::closure::Closure;
use crate::layer::dir::{DirLower, DirUpper};
use crate::lock::{self, EnvLock, LockError};
use crate::store::Location;
use crate::sys::limits;
use crate::union::record::{HeldOpen, Past, Recorder};
use crate::union::{Options, UnionFs};

/// What a view shows of the store.
pub type ViewLower = ClosureLower<DirLower>;

/// The tree of a view.
pub type Tree = UnionFs<ViewLower, DirUpper>;

/// Why the tree of a view could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A layer could not be read.
    #[error("cannot read the layers of the view: {0}")]
    Layers(#[from] io::Error),
    /// The upper could not be had.
    #[error(transparent)]
    Upper(#[from] UpperError),
    /// The names of the closure take more memory than a view may have.
    #[error("the names of the closure are {0} bytes long; a view holds at most 4 GiB of them")]
    TooManyNames(usize),
}

/// Opens the upper that a view asks for, and holds it; `None` for a read-only view.
///
/// # Errors
/// [`UpperError`], among them that another server holds it.
pub fn open_upper(spec: &ViewSpec) -> Result<Option<UpperDir>, UpperError> {
    let what = UpperSpec {
        store_dir: &spec.lock.store_dir,
        view: spec.name.as_str(),
        owner: spec.owner,
        format: None,
        limit: spec.limit,
    };
    match &spec.upper {
        UpperChoice::Directory(path) => UpperDir::open(path, true, &what).map(Some),
        UpperChoice::Temporary { parent } => UpperDir::temporary(parent, &what).map(Some),
        UpperChoice::ReadOnly => Ok(None),
    }
}

/// The closure that a lock names, out of a store as it is now; `state` is where caches lie.
///
/// # Errors
/// If it cannot be had, or is another than the lock says.
pub fn closure(lock: &EnvLock, store: &Location, state: &Path) -> Result<Closure, LockError> {
    let (closure, _) = lock.closure_in(store, state)?;
    lock::verify(lock, &closure)?;
    Ok(closure)
}

/// The lower that shows `closure`, which `lock` names, of the store at `location` behind the directory `store`, with Nix's state for
/// it; `state` is where the state directory is.
///
/// # Errors
/// [`BuildError`].
pub fn lower(
    lock: &EnvLock,
    closure: &Closure,
    location: &Location,
    store: &OwnedFd,
    state: &Path,
) -> Result<ViewLower, BuildError> {
    let members = Arc::new(Members::of_names(closure.names()).map_err(BuildError::TooManyNames)?);
    let lower = ClosureLower::new(DirLower::new(store)?, Arc::clone(&members));
    Ok(match NixState::of(state, location, lock)? {
        Some(nix) => lower.with_var(nix.late(members)),
        None => lower,
    })
}

/// The tree of `lower` with the changes that `upper` holds; `recorder` is told what another process needs to go on.
///
/// # Errors
/// [`BuildError`].
pub fn build(
    spec: &ViewSpec,
    lower: ViewLower,
    upper: Option<&UpperDir>,
    passthrough: bool,
    recorder: Arc<dyn Recorder>,
) -> Result<Tree, BuildError> {
    let options = options(spec, passthrough);
    Ok(UnionFs::new(lower, upper.map(|u| u.layer().clone()), options)?.recorded(recorder))
}

/// The same tree as [`build`] made in a process that is dead, as that had told of it.
///
/// # Errors
/// As [`UnionFs::resume`].
pub fn resume(
    spec: &ViewSpec,
    lower: ViewLower,
    upper: Option<&UpperDir>,
    passthrough: bool,
    recorder: Arc<dyn Recorder>,
    past: &Past<'_>,
    held: HeldOpen,
) -> io::Result<Tree> {
    let upper = upper.map(|u| u.layer().clone());
    UnionFs::resume(lower, upper, options(spec, passthrough), recorder, past, held)
}

fn options(spec: &ViewSpec, passthrough: bool) -> Options {
    let defaults = Options::default();
    // The rest of the descriptors is for files that clients have open.
    let part = |of: usize| limits::files().map_or(usize::MAX, |files| files / of);
    Options {
        owner: Some(spec.owner),
        io: if passthrough { crate::union::Io::Passthrough } else { crate::union::Io::Cached },
        durable: !matches!(spec.upper, UpperChoice::Temporary { .. }),
        access_lists: spec.access_lists,
        devices: spec.devices,
        objects: defaults.objects.min(part(8)),
        files: defaults.files.min(part(16)),
    }
}
