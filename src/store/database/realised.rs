//! Outputs of content-addressed derivations: their paths are in `Realisations` alone.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::Registered;
use super::query::{self, QueryError};
use crate::store::derivation::{Modulo, ReadError};
use crate::store::location::Location;
use crate::store::path::StorePath;

fn unreadable(error: &ReadError) -> QueryError {
    QueryError::Malformed(format!("its content-addressed outputs cannot be told: {error}"))
}

/// The realised outputs of a derivation by name.
pub(super) fn outputs(
    c: &Connection,
    location: &Location,
    modulo: &mut Modulo<'_>,
    derivation: &StorePath,
) -> Result<Vec<(String, StorePath)>, QueryError> {
    let mut found = Vec::new();
    for (name, id) in modulo.realisations(derivation).map_err(|error| unreadable(&error))? {
        if let Some(path) = query::realisation(c, &location.dir, &id, &name)? {
            found.push((name, path));
        }
    }
    Ok(found)
}

/// A closure through the valid outputs of derivations, also of those whose outputs only `Realisations` tells.
pub(super) fn reach(
    c: &Connection,
    location: &Location,
    roots: &[StorePath],
) -> Result<Vec<Registered>, QueryError> {
    let mut roots: BTreeSet<StorePath> = roots.iter().cloned().collect();
    let mut asked = BTreeSet::new();
    let mut modulo = Modulo::new(location);
    let has_realisations = query::has_realisations(c)?;
    loop {
        let list: Vec<StorePath> = roots.iter().cloned().collect();
        let members = query::reach(c, &location.dir, &list, true)?;
        if !has_realisations {
            return Ok(members);
        }
        let before = roots.len();
        for member in members.iter().filter(|member| member.path.is_derivation()) {
            if query::has_outputs(c, member.id)? || !asked.insert(member.path.clone()) {
                continue;
            }
            for (_, path) in outputs(c, location, &mut modulo, &member.path)? {
                if members.binary_search_by(|m| m.path.cmp(&path)).is_err() {
                    roots.insert(path);
                }
            }
        }
        if roots.len() == before {
            return Ok(members);
        }
    }
}
