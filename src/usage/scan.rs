//! Measuring many store paths: in parallel, with what was measured before left out.

use std::io;
use std::path::Path;

use rayon::prelude::*;

use super::cache::{Cache, LinksStamp, Which};
use super::measure::{Measure, measure};
use crate::store::parallel::with_threads;
use crate::store::{Location, StorePath};

/// How many paths are measured between two rows of writing: what a kill costs.
const BATCH: usize = 4096;

/// What is known of a path that is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is there.
    Measured(Measure),
    /// It is recorded, and its files are not there.
    Missing,
}

/// Why paths could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The store could not be looked at.
    #[error("cannot look at the store {store}: {source}")]
    Store {
        /// The store directory.
        store: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path of it could not be.
    #[error("cannot measure {0}")]
    Path(io::Error),
    /// What is in a path of it could not be read.
    #[error("cannot read {0}")]
    Content(io::Error),
}

/// What each of `paths` is; `None` if its files are not there.
///
/// # Errors
/// [`ScanError::Path`].
pub(super) fn which_of(
    location: &Location,
    paths: &[StorePath],
    rows: &[Option<i64>],
) -> Result<Vec<Option<Which>>, ScanError> {
    let which = |(at, path)| {
        let real = location.real_path(path);
        let which = match rows.get(at) {
            Some(Some(row)) => Which::registered(*row, &real),
            _ => Which::at(&real),
        };
        match which {
            Ok(which) => Ok(Some(which)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ScanError::Path(error)),
        }
    };
    with_threads(|| paths.par_iter().enumerate().map(which).collect())
        .map_err(|source| ScanError::Store { store: location.real.clone(), source })?
}

/// Measures `paths` of a store, sorted and each once; `rows` has the rows of those that Nix's database registers. What is found is
/// remembered below `state`; with `afresh` nothing that was remembered is used.
///
/// `progress` is told of how many paths of how many are done, from several threads.
///
/// # Errors
/// [`ScanError`]; that files of a path are missing is none.
pub fn scan(
    location: &Location,
    paths: &[StorePath],
    rows: &[Option<i64>],
    state: &Path,
    afresh: bool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Found>, ScanError> {
    let failed = |source| ScanError::Store { store: location.real.clone(), source };
    // Before anything is measured: what changes meanwhile is measured again the next time.
    let links = LinksStamp::of(&location.real).map_err(failed)?;
    let mut cache = Cache::open(state, &location.real);
    let which = which_of(location, paths, rows)?;
    let asked: Vec<_> =
        paths.iter().zip(&which).map(|(path, which)| (path.as_str(), which.as_ref())).collect();
    let mut found = if afresh { vec![None; paths.len()] } else { cache.get(&asked, &links) };
    let left: Vec<usize> = asked
        .iter()
        .zip(&found)
        .enumerate()
        .filter(|(_, ((_, which), found))| which.is_some() && found.is_none())
        .map(|(at, _)| at)
        .collect();
    let before = paths.len() - left.len();
    let done = std::sync::atomic::AtomicUsize::new(before);
    progress(before, paths.len());
    for batch in left.chunks(BATCH) {
        let measured: Vec<(usize, io::Result<Measure>)> = with_threads(|| {
            batch
                .par_iter()
                .filter_map(|at| {
                    let answer = measure(&location.real_path(paths.get(*at)?));
                    progress(1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed), paths.len());
                    Some((*at, answer))
                })
                .collect()
        })
        .map_err(failed)?;
        let mut new = Vec::with_capacity(measured.len());
        for (at, answer) in measured {
            match answer {
                Ok(measure) => new.push((at, measure)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ScanError::Path(error)),
            }
        }
        let rows: Vec<_> = new
            .iter()
            .filter_map(|(at, measure)| Some((paths.get(*at)?.as_str(), which.get(*at)?.as_ref()?, measure)))
            .collect();
        cache.put(&rows, &links);
        for (at, measure) in new {
            if let Some(slot) = found.get_mut(at) {
                *slot = Some(measure);
            }
        }
    }
    Ok(found.into_iter().map(|found| found.map_or(Found::Missing, Found::Measured)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;
    use crate::store::StoreDir;

    /// `nix-store --repair-path` puts other files in the place of a path and keeps its row.
    #[test]
    fn what_was_repaired_is_measured_again_and_what_is_missing_is_not_remembered() {
        let (store, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let location = Location { dir: StoreDir::default(), real: store.path().to_owned(), state: None };
        let path: StorePath = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a".parse().unwrap();
        let real = location.real_path(&path);
        let put = |at: &Path, length: usize| {
            std::fs::create_dir(at).unwrap();
            std::fs::write(at.join("file"), vec![b'x'; length]).unwrap();
        };
        let measured = || {
            let paths = std::slice::from_ref(&path);
            let found = scan(&location, paths, &[Some(7)], state.path(), false, &|_, _| {}).unwrap();
            match &found[0] {
                Found::Measured(measure) => Some(measure.apparent),
                Found::Missing => None,
            }
        };
        put(&real, 10);
        let first = measured().unwrap();
        assert_eq!(measured(), Some(first));
        put(&store.path().join("new"), 10_010);
        std::fs::rename(&real, store.path().join("old")).unwrap();
        std::fs::rename(store.path().join("new"), &real).unwrap();
        assert_eq!(measured(), Some(first + 10_000));
        std::fs::rename(&real, store.path().join("gone")).unwrap();
        assert_eq!(measured(), None);
    }
}
