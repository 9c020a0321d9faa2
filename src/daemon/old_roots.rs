//! Roots of Nix's collector that killed servers left, in the stores that this host knows of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::leftovers;
use super::mounted::is_view;
use super::registry::{Registry, RegistryError, State};
use crate::store::{Location, LocationError, lease};
use crate::sys::mountinfo;

/// Where a store is if nobody says otherwise.
pub const DEFAULT_STORE: &str = "/nix/store";

/// The stores of the views that the registry knows.
///
/// # Errors
/// If the registry cannot be read.
pub fn stores(registry: &Registry) -> Result<BTreeSet<PathBuf>, RegistryError> {
    let records = registry.all()?.into_iter().filter_map(|(_, state)| match state {
        Ok(State::Served(record) | State::Unkept(record) | State::Dead(record)) => Some(record.store),
        Ok(State::Starting) | Err(_) => None,
    });
    Ok(records.collect())
}

/// Removes the roots of killed servers in these stores, or only counts them. Answers how many leases they were, and what
/// could not be removed.
#[must_use]
pub fn sweep(stores: &BTreeSet<PathBuf>, dry_run: bool) -> (u64, Vec<String>) {
    let (mut count, mut problems) = (0, Vec::new());
    for store in stores {
        match sweep_one(store, dry_run) {
            Ok((dead, told)) => {
                count += dead;
                problems.extend(told);
            }
            Err(error) => {
                problems.push(format!("cannot look for old roots in {}: {error}", store.display()));
            }
        }
    }
    (count, problems)
}

fn sweep_one(store: &Path, dry_run: bool) -> Result<(u64, Vec<String>), Box<dyn std::error::Error>> {
    let location = match Location::open(store) {
        // A machine without Nix, or a store that went with its disk.
        Err(LocationError::NotAStore { .. }) => return Ok((0, Vec::new())),
        answer => answer?,
    };
    // A view lies over this store here: the roots that it shows are its own, and it hides those of the host.
    if mountinfo::mount_of(&location.real)?.is_some_and(|mount| is_view(&mount)) {
        return Ok((0, Vec::new()));
    }
    if dry_run {
        let Some(gcroots) = location.gc_roots_dir() else { return Ok((0, Vec::new())) };
        return Ok((lease::dead(&gcroots)?.dead.len() as u64, Vec::new()));
    }
    let (removed, problems) = leftovers::sweep_roots(&location)?;
    Ok((removed.len() as u64, problems.into_iter().map(|problem| problem.what).collect()))
}
