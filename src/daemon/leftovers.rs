//! What a view leaves when its server ends: taken away by the server itself, or by whoever finds that it was killed.

use std::io;
use std::path::PathBuf;

use super::error::{Attempt, Failure};
use super::mounted::{Mounted, Outcome};
use super::record::{Record, UpperRecord};
use super::registry::{Claim, Registry, RegistryError, State};
use crate::store::gc_root::GcRootError;
use crate::store::{Location, lease};
use crate::sys::mount::Unmount;
use crate::view::ViewName;
use crate::view::upper_dir::{self, UpperError};

/// Takes away all that a dead server's record names, and then the record.
///
/// # Errors
/// The first thing that could not be taken away; the others are, and the record stays.
pub fn clean(claim: Claim, record: &Record) -> Result<(), Failure> {
    let mut problem = None;
    let mut note = |what: String, answer: io::Result<()>| {
        if let Err(error) = answer {
            problem.get_or_insert(Failure::of(&what, &error));
        }
    };
    if let Some(mounted) = Mounted::of_record(record, None) {
        let turn = claim.registry().turn().map_err(io::Error::other);
        let gone =
            turn.and_then(|turn| mounted.unmount(Unmount::Lazy, &turn)).and_then(|outcome| match outcome {
                Outcome::Unmounted | Outcome::NotHere => Ok(()),
                Outcome::Covered(path) => {
                    Err(io::Error::other(format!("something else is mounted over it on {}", path.display())))
                }
            });
        let target = mounted.target().display();
        note(format!("cannot unmount {target} of the dead view '{}'", record.name), gone);
    }
    if let Some(roots) = &record.gc_roots {
        let removed = lease::remove_dead(&roots.dir).map_err(io::Error::other);
        note(format!("cannot remove the roots in {}", roots.dir.display()), removed);
    }
    if let UpperRecord::Temporary { path, .. } = &record.upper {
        let removed = match upper_dir::remove(path) {
            Err(UpperError::Missing { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        };
        note(format!("cannot remove the temporary upper {}", path.display()), removed);
    }
    match problem {
        Some(failure) => Err(failure),
        None => withdraw(claim),
    }
}

/// Gives a name back.
pub(super) fn withdraw(claim: Claim) -> Result<(), Failure> {
    let name = claim.name().clone();
    claim.withdraw().map_err(|error| Failure::of(&format!("cannot give the name '{name}' back"), &error))
}

/// Cleans up after the server of a name, if it is dead; `true` if it was.
///
/// # Errors
/// What could not be cleaned up.
pub fn clean_if_dead(registry: &Registry, name: &ViewName) -> Result<bool, Failure> {
    let attempt = || format!("cannot clean up after the view '{name}'");
    if !matches!(registry.state(name).attempt(attempt)?, Some(State::Dead(_))) {
        return Ok(false);
    }
    registry.check_owner().attempt(attempt)?;
    match registry.claim(name) {
        Ok((claim, Some(record))) => clean(claim, &record)?,
        Ok((claim, None)) => withdraw(claim)?,
        // Another process is at it, or the view was found to be there.
        Err(RegistryError::Taken { .. } | RegistryError::Unkept { .. }) => return Ok(false),
        Err(error) => return Err(Failure::of(&attempt(), &error)),
    }
    Ok(true)
}

/// Removes what killed servers left among the roots of a store's garbage collector, whatever is known of them otherwise:
/// also after a reboot, and those of other registries. Answers the directories, and what could not be removed.
///
/// May be called at any time; waits for nobody.
///
/// # Errors
/// If the directory of the roots cannot be read.
pub fn sweep_roots(store: &Location) -> Result<(Vec<PathBuf>, Vec<Failure>), GcRootError> {
    let Some(gcroots) = store.gc_roots_dir() else { return Ok((Vec::new(), Vec::new())) };
    let swept = lease::sweep(&gcroots)?;
    let problems = swept.problems.iter().map(|error| Failure::of("cannot remove old roots", error)).collect();
    Ok((swept.dead, problems))
}

/// Cleans up after every server that is dead. Answers the names of the views that were cleaned up, and what could not
/// be.
///
/// # Errors
/// If the registry cannot be read.
pub fn sweep(registry: &Registry) -> Result<(Vec<ViewName>, Vec<Failure>), RegistryError> {
    Ok(clean_dead(registry, &registry.not_held()?))
}

/// As [`sweep`], of a part of the registry: each call looks at the next part, so that it costs the same however many views
/// there are. If a server of the part is dead, or it is the first call since the system runs, all are looked at. Answers
/// what could not be cleaned up, and whether the part was the last of a round.
///
/// # Errors
/// If the registry cannot be read.
pub fn sweep_part(registry: &Registry) -> Result<(Vec<Failure>, bool), RegistryError> {
    let part = registry.next_not_held()?;
    let (cleaned, mut problems) = clean_dead(registry, &part.not_held);
    if !cleaned.is_empty() && !part.whole {
        problems.extend(sweep(registry)?.1);
    }
    Ok((problems, part.ended))
}

/// Cleans up after those of these names whose servers are dead.
pub fn clean_dead(registry: &Registry, names: &[ViewName]) -> (Vec<ViewName>, Vec<Failure>) {
    let (mut cleaned, mut problems) = (Vec::new(), Vec::new());
    for name in names {
        match registry.state(name) {
            Ok(Some(State::Dead(_))) => {}
            Ok(_) | Err(_) => continue,
        }
        match clean_if_dead(registry, name) {
            Ok(true) => cleaned.push(name.clone()),
            Ok(false) => {}
            Err(problem) => problems.push(problem),
        }
    }
    (cleaned, problems)
}
