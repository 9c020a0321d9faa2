//! Takes the name of a view for a new server.

use std::time::Duration;

use super::error::{Attempt, Failure};
use super::leftovers;
use super::mounted::Mounted;
use super::record::Place;
use super::registry::{Claim, Registry, RegistryError, State};
use super::stop::{End, wait_for_end};
use crate::view::ViewName;

/// How long a server has to clean up whose view umount(8) took away, which does not wait for it.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// How long a view that was handed over is waited for: nobody can tell whether it is still used but who has it.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Takes a name. What a dead server left under it is taken away; one that is about to end is waited for.
///
/// # Errors
/// If somebody serves under that name, or what is left cannot be taken away.
pub(super) fn take(registry: &Registry, name: &ViewName) -> Result<Claim, Failure> {
    let mut waited = false;
    loop {
        match registry.claim(name) {
            Ok((claim, None)) => return Ok(claim),
            // The sweep could not clean it up, or it died just now: clean it up, or say why not.
            Ok((claim, Some(left))) => leftovers::clean(claim, &left)?,
            Err(RegistryError::Taken { .. }) if !waited && ends(registry, name)? => waited = true,
            Err(error @ (RegistryError::Taken { .. } | RegistryError::Unkept { .. })) => {
                return Err(Failure::new(error.to_string()).hint(format!(
                    "choose another name with --name, or end it with 'nixview umount {name}'"
                )));
            }
            Err(error) => return Err(Failure::of(&format!("cannot take the name '{name}'"), &error)),
        }
    }
}

/// Waits for a server whose view is not mounted any more; false if it is mounted, or still used elsewhere.
fn ends(registry: &Registry, name: &ViewName) -> Result<bool, Failure> {
    let attempt = || format!("cannot take the name '{name}'");
    let record = match registry.state(name).attempt(attempt)? {
        Some(State::Served(record)) if record.usable => record,
        Some(State::Served(_) | State::Unkept(_) | State::Starting) => return Ok(false),
        Some(State::Dead(_)) | None => return Ok(true),
    };
    match &record.place {
        Place::Mounted { .. } => {
            let here = Mounted::of_record(&record, None).map(|mounted| mounted.here()).transpose();
            if here.attempt(attempt)?.flatten().is_some() {
                return Ok(false);
            }
        }
        // Whoever has it may just have let it go: a container of this name that is started again.
        Place::Handed { .. } => {
            return Ok(wait_for_end(registry, name, record.pid, LETTING_GO)? != End::Serving);
        }
        Place::Private { .. } => return Ok(false),
    }
    Ok(wait_for_end(registry, name, record.pid, CLEAN_UP)? != End::Serving)
}
