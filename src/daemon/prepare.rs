//! What the first view of a closure needs and would wait for, made before: the image of its closure layer, and Nix's state.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;

use crate::lock::EnvLock;
use crate::overlay::image_cache::{self, Request};
use crate::store::Location;
use crate::sys::process;
use crate::view::late_members::LateMembers;
use crate::view::nix_state::NixState;
use crate::view::open_read_only;

/// True if this process could mount a view by overlayfs, and so its caches are what such views use.
#[must_use]
pub fn is_useful() -> bool {
    rustix::process::geteuid().is_root() && process::is_initial_user_namespace()
}

/// Makes what a view by overlayfs of `lock` needs beside the store, if it is not there; `state` is the state directory.
///
/// # Errors
/// What hinders it. A mount tries again, and tells it.
pub fn prepare(lock: &EnvLock, store: &Location, state: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let closure = lock.verified_in(store, state)?;
    let members = LateMembers::new(&closure);
    let nix_state = NixState::of(state, store, lock)?;
    let held = nix_state.as_ref().map(|nix| nix.open_for_overlay(&|| members.get())).transpose()?;
    let directory = open_read_only(&store.real)?;
    let request = Request {
        state,
        digest: lock.closure.digest.as_bytes(),
        nix_state: held.is_some(),
        store: directory.as_fd(),
    };
    image_cache::open(&request, || members.names())?;
    Ok(())
}
