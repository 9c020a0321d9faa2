//! A store without any record: references found in the bytes of its paths.
//!
//! What is looked for in a path is what Nix looks for when it registers an output: the closure of its derivation's
//! inputs and the outputs of that derivation. A source (what no derivation makes) can refer to other sources alone.
//! Of a path that may be either (its derivation is not in the store) all names of the store are candidates: then the
//! result can have more than Nix's ([`Unrecorded::is_superset`]).

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::derivation::Derivation;
use super::location::Location;
use super::parallel::with_threads;
use super::path::StorePath;
use super::references::{OutputPath, ReferenceError, References};
use super::scan::cache::ScanCache;
use super::scan::{Candidates, identity, scan};

/// A store of which only the files are known.
pub struct Unrecorded {
    location: Location,
    cache: ScanCache,
    /// All names of the store directory, sorted.
    names: Vec<StorePath>,
    /// The derivations that make a path.
    makers: HashMap<StorePath, Vec<StorePath>>,
    /// What derivations use as sources.
    sources: BTreeSet<StorePath>,
    found: Mutex<HashMap<StorePath, Arc<Vec<StorePath>>>>,
}

fn broken(location: &Location, problem: impl ToString) -> ReferenceError {
    ReferenceError::Broken { origin: origin_of(location), problem: problem.to_string() }
}

fn origin_of(location: &Location) -> String {
    format!("the files of the store {}", location.real.display())
}

/// The store paths that lie in the store directory; other names (`.links`, lock files) are not paths of the store.
fn names(location: &Location) -> io::Result<Vec<StorePath>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&location.real)? {
        let name = entry?.file_name();
        let is_leftover =
            [&b".lock"[..], b".check", b".chroot", b".tmp"].iter().any(|e| name.as_bytes().ends_with(e));
        if let Ok(path) = StorePath::from_base_name(name.as_bytes())
            && !is_leftover
        {
            names.push(path);
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Unrecorded {
    /// Lists the store and reads all its derivations, in parallel.
    ///
    /// # Errors
    /// If the store directory or a derivation cannot be read.
    pub fn open(location: &Location, cache: ScanCache) -> Result<Self, ReferenceError> {
        let names = names(location).map_err(|error| broken(location, error))?;
        type Made = (StorePath, Vec<StorePath>, BTreeSet<StorePath>);
        let read = |path: &StorePath| -> Result<Made, ReferenceError> {
            let read =
                Derivation::read(location, path).map_err(|error| error.into_reference_error(location))?;
            let outputs = read.outputs.values().filter_map(|output| output.path().cloned()).collect();
            Ok((path.clone(), outputs, read.input_sources))
        };
        let all = || names.par_iter().filter(|path| path.is_derivation()).map(read).collect();
        let derivations: Result<Vec<Made>, ReferenceError> =
            with_threads(all).map_err(|error| broken(location, error))?;
        let derivations = derivations?;
        let mut makers: HashMap<StorePath, Vec<StorePath>> = HashMap::new();
        let mut sources = BTreeSet::new();
        for (derivation, outputs, inputs) in derivations {
            for output in outputs {
                makers.entry(output).or_default().push(derivation.clone());
            }
            sources.extend(inputs);
        }
        sources.retain(|path| !makers.contains_key(path) && !path.is_derivation());
        let found = Mutex::new(HashMap::new());
        Ok(Self { location: location.clone(), cache, names, makers, sources, found })
    }

    /// True if what is told of `path` may be more than Nix has: its derivation is not in the store.
    #[must_use]
    pub fn is_superset(&self, path: &StorePath) -> bool {
        !path.is_derivation() && !self.makers.contains_key(path) && !self.sources.contains(path)
    }

    fn exists(&self, path: &StorePath) -> bool {
        self.names.binary_search(path).is_ok()
    }

    /// The paths whose references must be known before those of an output can be looked for.
    fn needs(&self, path: &StorePath) -> Result<(BTreeSet<StorePath>, BTreeSet<StorePath>), ReferenceError> {
        let (mut inputs, mut own) = (BTreeSet::new(), BTreeSet::new());
        for maker in self.makers.get(path).into_iter().flatten() {
            let maker = self.derivation(maker)?;
            own.extend(maker.outputs.values().filter_map(|output| output.path().cloned()));
            for (input, used) in &maker.input_derivations {
                for output in self.outputs(input)? {
                    if used.contains(&output.name) {
                        inputs.extend(output.path);
                    }
                }
            }
            inputs.extend(maker.input_sources);
        }
        inputs.retain(|input| self.exists(input));
        own.retain(|output| self.exists(output));
        Ok((inputs, own))
    }

    fn known(&self, path: &StorePath) -> Option<Arc<Vec<StorePath>>> {
        self.found.lock().get(path).cloned()
    }

    /// The closure of paths; if it is not known yet, those whose references must be found first.
    fn closure_of(&self, from: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, Vec<StorePath>> {
        let known = self.found.lock();
        let mut seen = from.clone();
        let mut open: Vec<StorePath> = from.iter().cloned().collect();
        let mut unknown = Vec::new();
        while let Some(path) = open.pop() {
            let Some(references) = known.get(&path) else {
                unknown.push(path);
                continue;
            };
            for next in references.iter() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        if unknown.is_empty() { Ok(seen) } else { Err(unknown) }
    }

    fn search(&self, path: &StorePath, candidates: Vec<StorePath>) -> Result<(), ReferenceError> {
        let real = self.location.real_path(path);
        let failed = |error: io::Error| broken(&self.location, format!("cannot scan {path}: {error}"));
        let identity = identity(&real).map_err(failed)?;
        let found = match self.cache.get(&identity, &candidates) {
            Some(found) => found,
            None => {
                let looked_for = Candidates::new(candidates.clone());
                scan(&real, &looked_for).map_err(failed)?;
                let found = looked_for.found();
                self.cache.put(&identity, &candidates, &found);
                found
            }
        };
        self.found.lock().insert(path.clone(), Arc::new(found));
        Ok(())
    }

    /// Finds the references of a path after those of all paths that it may refer to; without recursion.
    fn find(&self, path: &StorePath) -> Result<Arc<Vec<StorePath>>, ReferenceError> {
        let mut open = vec![path.clone()];
        let mut entered = BTreeSet::new();
        while let Some(path) = open.last().cloned() {
            if self.known(&path).is_some() {
                open.pop();
                continue;
            }
            if path.is_derivation() {
                let references = self.derivation(&path)?.references();
                self.found.lock().insert(path, Arc::new(references));
                continue;
            }
            let candidates: BTreeSet<StorePath> = if self.makers.contains_key(&path) {
                let (inputs, own) = self.needs(&path)?;
                // On a cycle (damaged derivations) the inputs alone are taken.
                match self.closure_of(&inputs) {
                    Ok(mut all) => {
                        all.extend(own);
                        all
                    }
                    Err(first) if first.iter().any(|path| !entered.contains(path)) => {
                        open.extend(first.into_iter().filter(|path| entered.insert(path.clone())));
                        continue;
                    }
                    Err(_) => inputs.into_iter().chain(own).collect(),
                }
            } else if self.sources.contains(&path) {
                self.sources.iter().filter(|source| self.exists(source)).cloned().collect()
            } else {
                self.names.iter().cloned().collect()
            };
            self.search(&path, candidates.into_iter().collect())?;
        }
        self.known(path).ok_or_else(|| broken(&self.location, format!("{path} was not found")))
    }
}

impl References for Unrecorded {
    fn origin(&self) -> String {
        origin_of(&self.location)
    }

    fn references(&self, path: &StorePath) -> Result<Vec<StorePath>, ReferenceError> {
        if !self.exists(path) {
            return Err(ReferenceError::Unknown { path: path.clone(), origin: self.origin() });
        }
        Ok(self.find(path)?.as_ref().clone())
    }

    fn is_valid(&self, path: &StorePath) -> Result<bool, ReferenceError> {
        Ok(self.exists(path))
    }

    fn outputs(&self, derivation: &StorePath) -> Result<Vec<OutputPath>, ReferenceError> {
        Ok(self.derivation(derivation)?.output_paths())
    }

    fn derivation(&self, derivation: &StorePath) -> Result<Derivation, ReferenceError> {
        Derivation::read(&self.location, derivation)
            .map_err(|error| error.into_reference_error(&self.location))
    }
}
