//! Environments that are to be measured: locks, views, and whatever has a closure.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::piped::Piped;
use super::source::{SourceArgs, closure_not_found};
use super::{CliError, Context, ErrorContext};
use crate::closure::Mode;
use crate::daemon::record::{Record, UpperRecord};
use crate::daemon::registry::{Registry, State};
use crate::lock::{EnvLock, verify, verify_store};
use crate::store::{Database, Location, StorePath};
use crate::view::ViewName;

/// An environment, and the store paths that it has.
#[derive(Debug)]
pub struct Costed {
    /// What to call it.
    pub name: String,
    /// What was given for it.
    pub given: String,
    /// Sorted, each once.
    pub paths: Vec<StorePath>,
    /// What the closure starts from; of a derivation that is developed not one of `paths`.
    pub starts: Vec<StorePath>,
    /// Where its view keeps changes, if it is one that does.
    pub upper: Option<PathBuf>,
}

/// Opens what was given: a lock file, the name of a view that is mounted, or anything that 'nixview lock' takes.
///
/// # Errors
/// If it is none of these, or its closure cannot be had.
pub fn open(text: &str, store: &Path, location: &Location, context: &Context) -> Result<Costed, CliError> {
    let input = Piped::of(text).with_context(|| format!("cannot read {text}"))?;
    let file = Path::new(input.text());
    if EnvLock::is_one(file) {
        return of_lock(text, file, None, location, context);
    }
    if let Some(record) = view(text, context)? {
        let upper = match &record.upper {
            UpperRecord::Directory { path, .. } | UpperRecord::Temporary { path, .. } => Some(path.clone()),
            UpperRecord::ReadOnly => None,
        };
        let costed = of_lock(text, &record.lock_file, Some(&record), location, context)?;
        return Ok(Costed { name: text.to_owned(), upper, ..costed });
    }
    let how = SourceArgs { store: store.to_owned(), ..SourceArgs::default() };
    let made =
        how.make("cannot find the closure", &[input.text().to_owned()], None, None, Mode::Runtime, context)?;
    let (paths, starts) = (made.closure.paths().to_vec(), made.lock.starts().paths());
    Ok(Costed { name: made.lock.name.clone(), given: text.to_owned(), paths, starts, upper: None })
}

fn of_lock(
    text: &str,
    file: &Path,
    view: Option<&Record>,
    location: &Location,
    context: &Context,
) -> Result<Costed, CliError> {
    let lock = EnvLock::read(file).context("cannot use the environment")?;
    verify_store(&lock, &location.dir).with_context(|| format!("cannot use {text} here"))?;
    let found = lock.closure_in(location, &context.state.state);
    let (closure, _) = found.map_err(|error| closure_not_found(&lock, &text, error))?;
    if view.is_none()
        && let Err(error) = verify(&lock, &closure)
    {
        let what = format!("the store does not have what {text} says: {error}");
        return Err(CliError::new(what).hint("lock it again; 'nixview closure --diff' names the paths"));
    }
    if view.is_some_and(|record| record.closure.digest != closure.digest()) {
        return Err(CliError::new(format!(
            "the view '{text}' shows another closure than {} names now",
            file.display()
        ))
        .hint("the lock was changed since it was mounted; give the lock, or mount it again"));
    }
    let (paths, starts) = (closure.paths().to_vec(), lock.starts().paths());
    Ok(Costed { name: lock.name.clone(), given: text.to_owned(), paths, starts, upper: None })
}

/// The record of a view that is served, if that is the name of one.
fn view(text: &str, context: &Context) -> Result<Option<Record>, CliError> {
    let Ok(name) = text.parse::<ViewName>() else { return Ok(None) };
    let Some(registry) = Registry::existing(&context.state.runtime) else { return Ok(None) };
    match registry.state(&name).context("cannot read the registry of views")? {
        Some(State::Served(record)) => Ok(Some(*record)),
        _ => Ok(None),
    }
}

/// Gives environments of the same name what was given for them, and of the same again a number.
pub fn tell_apart(environments: &mut [Costed]) {
    let mut seen = HashSet::new();
    // As they were: the last of a name is to be told apart too, though the others have other names by then.
    let names: Vec<String> = environments.iter().map(|env| env.name.clone()).collect();
    for env in environments {
        let taken = names.iter().filter(|other| **other == env.name).count() > 1;
        let mut name = if taken { env.given.clone() } else { env.name.clone() };
        let mut number = 1;
        while !seen.insert(name.clone()) {
            number += 1;
            name = format!("{} ({number})", env.given);
        }
        env.name = name;
    }
}

/// All paths of some environments, and which of these each environment has.
#[derive(Debug, Default)]
pub struct Together {
    /// Sorted, each once.
    pub paths: Vec<StorePath>,
    /// Of each environment, as indexes into `paths`.
    pub sets: Vec<Vec<usize>>,
    /// Their rows in Nix's database, of those that are registered, in the same order.
    pub rows: Vec<Option<i64>>,
}

/// Puts environments together, with `whole` also everything else that the store's database registers.
///
/// # Errors
/// If the database cannot be read; without one `whole` is an error.
pub fn together(environments: &[Costed], location: &Location, whole: bool) -> Result<Together, CliError> {
    let mut named: Vec<StorePath> = environments.iter().flat_map(|env| &env.paths).cloned().collect();
    named.sort_unstable();
    named.dedup();
    let attempt = "cannot read Nix's database";
    let valid = match (Database::open(location), whole) {
        (Ok(database), true) => database.all_registered().context(attempt)?,
        (Ok(database), false) => {
            let rows = database.registered(&named).context(attempt)?;
            rows.into_iter().map(|row| (row.path, row.id)).collect()
        }
        (Err(error), true) => return Err(error).context("cannot list the whole store"),
        // What is in no database is measured by what it is on the disk.
        (Err(error), false) => {
            if location.state.is_some() {
                tracing::warn!(%error, "Nix's database is not asked: paths are told apart by their inodes");
            }
            Vec::new()
        }
    };
    // Both are sorted: one way through.
    let mut paths = Vec::with_capacity(named.len().max(valid.len()));
    let mut rows = Vec::with_capacity(paths.capacity());
    let mut named = named.into_iter().peekable();
    for (valid, id) in valid {
        while let Some(path) = named.next_if(|path| *path < valid) {
            paths.push(path);
            rows.push(None);
        }
        drop(named.next_if(|path| *path == valid));
        paths.push(valid);
        rows.push(Some(id));
    }
    for path in named {
        paths.push(path);
        rows.push(None);
    }
    let set = |env: &Costed| env.paths.iter().filter_map(|path| paths.binary_search(path).ok()).collect();
    let sets = environments.iter().map(set).collect();
    Ok(Together { paths, sets, rows })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn environments_of_one_name_are_told_apart() {
        let env = |name: &str, given: &str| Costed {
            name: name.to_owned(),
            given: given.to_owned(),
            paths: Vec::new(),
            starts: Vec::new(),
            upper: None,
        };
        let mut all = [env("web", "a.lock"), env("web", "b.lock"), env("db", "c.lock"), env("web", "a.lock")];
        tell_apart(&mut all);
        let names: Vec<&str> = all.iter().map(|env| env.name.as_str()).collect();
        assert_eq!(names, ["a.lock", "b.lock", "db", "a.lock (2)"]);
    }
}
