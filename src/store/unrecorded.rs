//! A store without any record: references found in the bytes of its paths.
//!
//! What is looked for in a path is what Nix looks for when it registers an output: the closure of its derivation's
//! inputs and the outputs of that derivation. Where that is not known (a source, an output whose derivation is not in the
//! store or names no path before it is built) all names of the store are candidates: then the result can have more than
//! Nix's ([`Unrecorded::is_superset`]), and never less.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rayon::prelude::*;

use super::derivation::Derivation;
use super::location::Location;
use super::parallel::with_threads;
use super::path::StorePath;
use super::references::{OutputPath, ReferenceError, References};
use super::scan::cache::ScanCache;
use super::scan::{Candidates, Index, identity, scan};

/// A store of which only the files are known.
pub struct Unrecorded {
    location: Location,
    cache: ScanCache,
    /// All names of the store directory.
    names: Index,
    /// The derivations that make a path.
    makers: HashMap<StorePath, Vec<StorePath>>,
    /// All paths by name; made when it is first needed.
    by_name: OnceLock<HashMap<String, Vec<StorePath>>>,
    /// Names of derivations that are none, and why.
    odd: BTreeMap<StorePath, String>,
    found: Mutex<HashMap<StorePath, Arc<Vec<StorePath>>>>,
}

fn broken(location: &Location, problem: impl ToString) -> ReferenceError {
    ReferenceError::Broken { origin: origin_of(location), problem: problem.to_string() }
}

fn origin_of(location: &Location) -> String {
    format!("the files of the store {}", location.real.display())
}

/// The store paths that lie in the store directory, sorted; other names (`.links`) are not paths of the store.
fn names(location: &Location) -> io::Result<Vec<StorePath>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&location.real)? {
        names.extend(StorePath::from_base_name(entry?.file_name().as_bytes()).ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// What Nix leaves beside a path while it builds it: that path's name, and one of these.
const LEFT_BESIDE: &[&str] = &[".lock", ".check", ".chroot", ".tmp"];

/// The path beside which Nix leaves `name`, if it is a name of that kind.
fn beside(name: &StorePath) -> Option<StorePath> {
    LEFT_BESIDE.iter().find_map(|ending| name.as_str().strip_suffix(ending)?.parse().ok())
}

/// The name that Nix gives to an output: `outputPathName` in `src/libstore/derivations.cc`.
fn output_name(derivation: &StorePath, output: &str) -> String {
    let name = derivation.name();
    let name = name.strip_suffix(".drv").unwrap_or(name);
    if output == "out" { name.to_owned() } else { format!("{name}-{output}") }
}

/// A derivation's outputs, where their paths are known, or why it is none.
type Made = (StorePath, Result<Vec<StorePath>, String>);

impl Unrecorded {
    /// Lists the store and reads all its derivations, in parallel. One that cannot be read is logged, and counts as a file.
    ///
    /// # Errors
    /// If the store directory cannot be listed.
    pub fn open(location: &Location, cache: ScanCache) -> Result<Self, ReferenceError> {
        let mut names = names(location).map_err(|error| broken(location, error))?;
        let read = |path: &StorePath| -> Made {
            let outputs = Derivation::read(location, path)
                .map(|read| read.outputs.values().filter_map(|output| output.path().cloned()).collect());
            (path.clone(), outputs.map_err(|error| error.to_string()))
        };
        let all = || names.par_iter().filter(|path| path.is_derivation()).map(read).collect();
        let derivations: Vec<Made> = with_threads(all).map_err(|error| broken(location, error))?;
        let mut makers: HashMap<StorePath, Vec<StorePath>> = HashMap::new();
        let mut odd = BTreeMap::new();
        for (derivation, outputs) in derivations {
            match outputs {
                Ok(outputs) => outputs
                    .into_iter()
                    .for_each(|output| makers.entry(output).or_default().push(derivation.clone())),
                Err(why) => {
                    tracing::warn!(path = %derivation, %why, "it is taken for a file, as it is no derivation");
                    odd.insert(derivation, why);
                }
            }
        }
        let left: BTreeSet<StorePath> = names
            .iter()
            .filter(|name| !makers.contains_key(*name))
            .filter(|name| {
                beside(name)
                    .is_some_and(|path| makers.contains_key(&path) || names.binary_search(&path).is_ok())
            })
            .cloned()
            .collect();
        names.retain(|name| !left.contains(name));
        let (names, found) = (Index::new(names), Mutex::new(HashMap::new()));
        let by_name = OnceLock::new();
        Ok(Self { location: location.clone(), cache, names, makers, by_name, odd, found })
    }

    /// True if what is told of `path` may be more than Nix has: what it may refer to is not known.
    #[must_use]
    pub fn is_superset(&self, path: &StorePath) -> bool {
        self.is_file(path) && self.needs(path).is_none()
    }

    fn exists(&self, path: &StorePath) -> bool {
        self.names.contains(path)
    }

    /// What an output may be whose path the derivation does not know: any path of its name that no derivation makes, or
    /// one of the same name, as Nix builds a derivation of its own when it knows all inputs.
    fn may_be(&self, derivation: &StorePath, output: &str) -> Vec<StorePath> {
        let by_name = self.by_name.get_or_init(|| {
            let mut by_name: HashMap<String, Vec<StorePath>> = HashMap::new();
            for path in self.names.paths() {
                by_name.entry(path.name().to_owned()).or_default().push(path.clone());
            }
            by_name
        });
        let is_possible = |path: &&StorePath| match self.makers.get(*path) {
            Some(makers) => makers.iter().any(|maker| maker.name() == derivation.name()),
            None => true,
        };
        let named = by_name.get(&output_name(derivation, output)).into_iter().flatten();
        named.filter(is_possible).cloned().collect()
    }

    /// False for a derivation, which says what it refers to.
    fn is_file(&self, path: &StorePath) -> bool {
        !path.is_derivation() || self.odd.contains_key(path)
    }

    /// What an output may refer to: its derivations' inputs with all that these refer to, and the derivations' outputs.
    /// `None` where that is not known: no derivation makes the path (a source may have been added with any references,
    /// a path with an unknown derivation may be anything), one of its inputs has a path that is only known when it is
    /// built, or is no derivation.
    fn needs(&self, path: &StorePath) -> Option<(BTreeSet<StorePath>, BTreeSet<StorePath>)> {
        let (mut inputs, mut own) = (BTreeSet::new(), BTreeSet::new());
        for maker in self.makers.get(path)? {
            let maker = Derivation::read(&self.location, maker).ok()?;
            own.extend(maker.outputs.values().filter_map(|output| output.path().cloned()));
            for (input, used) in &maker.input_derivations {
                let input = Derivation::read(&self.location, input).ok()?;
                for name in used {
                    inputs.insert(input.outputs.get(name)?.path()?.clone());
                }
            }
            inputs.extend(maker.input_sources);
        }
        inputs.retain(|input| self.exists(input));
        own.retain(|output| self.exists(output));
        Some((inputs, own))
    }

    fn known(&self, path: &StorePath) -> Option<Arc<Vec<StorePath>>> {
        self.found.lock().get(path).cloned()
    }

    /// The closure of paths, not through `output`, which adds nothing to its own candidates; if it is not known yet, those
    /// whose references must be found first.
    fn closure_of(
        &self,
        from: &BTreeSet<StorePath>,
        output: &StorePath,
    ) -> Result<BTreeSet<StorePath>, Vec<StorePath>> {
        let known = self.found.lock();
        let mut seen = from.clone();
        let mut open: Vec<StorePath> = from.iter().cloned().collect();
        let mut unknown = Vec::new();
        while let Some(path) = open.pop() {
            let Some(references) = known.get(&path) else {
                if path != *output {
                    unknown.push(path);
                }
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

    fn search(&self, path: &StorePath, candidates: &Index) -> Result<(), ReferenceError> {
        let real = self.location.real_path(path);
        let failed = |error: io::Error| broken(&self.location, format!("cannot scan {path}: {error}"));
        let identity = identity(&real).map_err(failed)?;
        let found = match self.cache.get(&identity, candidates) {
            Some(found) => found,
            None => {
                let looked_for = Candidates::new(candidates);
                scan(&real, &looked_for).map_err(failed)?;
                let found = looked_for.found();
                self.cache.put(&identity, candidates, &found);
                found
            }
        };
        self.found.lock().insert(path.clone(), Arc::new(found));
        Ok(())
    }

    /// Finds the references of a path after those of all paths that it may refer to; without recursion.
    fn find(&self, path: &StorePath) -> Result<Arc<Vec<StorePath>>, ReferenceError> {
        let mut open = vec![path.clone()];
        // Those that wait for others.
        let mut waiting = BTreeSet::new();
        while let Some(path) = open.last().cloned() {
            if self.known(&path).is_some() {
                open.pop();
                continue;
            }
            if !self.is_file(&path) {
                let references = self.derivation(&path)?.references();
                self.found.lock().insert(path, Arc::new(references));
                continue;
            }
            let Some((inputs, own)) = self.needs(&path) else {
                self.search(&path, &self.names)?;
                continue;
            };
            waiting.insert(path.clone());
            match self.closure_of(&inputs, &path) {
                Ok(mut all) => {
                    all.extend(own);
                    self.search(&path, &Index::new(all.into_iter().collect()))?;
                }
                Err(mut first) => {
                    first.retain(|path| !waiting.contains(path));
                    if first.is_empty() {
                        // A cycle: sources whose text names outputs that are built from one another, or damage.
                        self.search(&path, &self.names)?;
                    }
                    open.extend(first);
                }
            }
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
        let mut outputs = Vec::new();
        for output in self.derivation(derivation)?.output_paths() {
            if output.path.is_some() {
                outputs.push(output);
                continue;
            }
            let found = self.may_be(derivation, &output.name);
            if found.is_empty() {
                outputs.push(output);
            } else {
                let told = |path| OutputPath { name: output.name.clone(), path: Some(path) };
                outputs.extend(found.into_iter().map(told));
            }
        }
        Ok(outputs)
    }

    fn leads_to_outputs(&self, path: &StorePath) -> bool {
        path.is_derivation() && !self.odd.contains_key(path)
    }

    fn derivation(&self, derivation: &StorePath) -> Result<Derivation, ReferenceError> {
        Derivation::read(&self.location, derivation)
            .map_err(|error| error.into_reference_error(&self.location))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]
    use super::*;
    use crate::store::StoreDir;

    /// A store that is written by hand.
    struct Store(tempfile::TempDir);

    fn path(letter: char, name: &str) -> StorePath {
        format!("{}-{name}", String::from(letter).repeat(32)).parse().unwrap()
    }

    fn full(paths: &[StorePath]) -> String {
        paths.iter().map(|path| format!("/nix/store/{path} ")).collect()
    }

    impl Store {
        fn put(&self, path: &StorePath, text: &str) {
            std::fs::write(self.0.path().join(path.as_str()), text).unwrap();
        }

        /// A derivation that uses the output `out` of others, and sources; without a path it is content-addressed.
        fn derive(
            &self,
            path: &StorePath,
            out: Option<&StorePath>,
            inputs: &[&StorePath],
            sources: &[&StorePath],
        ) {
            let out = out.map_or(r#"("out","","r:sha256","")"#.to_owned(), |out| {
                format!(r#"("out","/nix/store/{out}","","")"#)
            });
            let inputs: Vec<_> = inputs.iter().map(|i| format!(r#"("/nix/store/{i}",["out"])"#)).collect();
            let sources: Vec<_> = sources.iter().map(|s| format!(r#""/nix/store/{s}""#)).collect();
            let text = format!(
                r#"Derive([{out}],[{}],[{}],"x86_64-linux","/bin/sh",[],[("name","x")])"#,
                inputs.join(","),
                sources.join(",")
            );
            self.put(path, &text);
        }

        fn open(&self) -> Unrecorded {
            let location = Location { dir: StoreDir::default(), real: self.0.path().to_owned(), state: None };
            Unrecorded::open(&location, ScanCache::none()).unwrap()
        }
    }

    fn store() -> Store {
        Store(tempfile::tempdir().unwrap())
    }

    #[test]
    fn names_are_leftovers_only_beside_what_is_there_or_made() {
        let store = store();
        let (cargo, left, output) = (path('a', "Cargo.lock"), path('b', "x.lock"), path('c', "y"));
        store.put(&cargo, "version = 3");
        store.put(&path('b', "x"), "");
        store.put(&left, "");
        store.put(&path('c', "y.check"), "");
        store.derive(&path('d', "y.drv"), Some(&output), &[], &[]);
        store.put(&path('d', "y.drv.chroot"), "");
        for (letter, name) in [('f', "a.check"), ('g', "a.chroot"), ('h', "a.tmp"), ('i', ".lock")] {
            store.put(&path(letter, name), "");
        }
        let made = path('j', "z.lock");
        store.derive(&path('k', "z.lock.drv"), Some(&made), &[], &[]);
        store.put(&made, "");
        store.put(&path('j', "z"), "");
        let known = store.open();
        let names: Vec<&str> = known.names.paths().iter().map(StorePath::name).collect();
        assert_eq!(
            names,
            [
                "Cargo.lock",
                "x",
                "y.drv",
                "a.check",
                "a.chroot",
                "a.tmp",
                ".lock",
                "z",
                "z.lock",
                "z.lock.drv"
            ]
        );
    }

    #[test]
    fn a_source_may_refer_to_what_no_derivation_uses() {
        let store = store();
        let (one, two, out) = (path('a', "one"), path('b', "two"), path('c', "chain"));
        store.put(&one, "1");
        store.put(&two, &full(std::slice::from_ref(&one)));
        store.derive(&path('d', "chain.drv"), Some(&out), &[], &[&two]);
        store.put(&out, &full(&[two.clone(), path('f', "stranger")]));
        store.put(&path('f', "stranger"), "");
        let known = store.open();
        assert_eq!(
            known.references(&out).unwrap(),
            std::slice::from_ref(&two),
            "no stranger: it is no input"
        );
        assert_eq!(known.references(&two).unwrap(), [one]);
        assert!(known.is_superset(&two) && !known.is_superset(&out));
    }

    #[test]
    fn an_output_without_a_path_in_its_derivation_may_refer_to_anything() {
        let store = store();
        let (dep, ca, user) = (path('a', "dep"), path('b', "ca"), path('c', "user"));
        let (dep_drv, ca_drv, user_drv) = (path('d', "dep.drv"), path('f', "ca.drv"), path('g', "user.drv"));
        store.derive(&dep_drv, Some(&dep), &[], &[]);
        store.derive(&ca_drv, None, &[&dep_drv], &[]);
        store.derive(&user_drv, None, &[&ca_drv], &[]);
        // What Nix builds in its place when it knows the input.
        store.derive(&path('h', "user.drv"), None, &[], &[&ca]);
        let fixed = path('i', "fixed");
        store.derive(&path('j', "fixed.drv"), Some(&fixed), &[&ca_drv], &[]);
        store.put(&dep, "");
        store.put(&ca, &full(std::slice::from_ref(&dep)));
        store.put(&user, &full(std::slice::from_ref(&ca)));
        store.put(&fixed, &full(std::slice::from_ref(&ca)));
        let known = store.open();
        assert_eq!(known.references(&user).unwrap(), std::slice::from_ref(&ca));
        assert_eq!(known.references(&ca).unwrap(), [dep]);
        assert_eq!(known.references(&fixed).unwrap(), [ca]);
        assert!(known.is_superset(&fixed), "one of its inputs has any path");
        let told = known.outputs(&ca_drv).unwrap();
        assert_eq!(told, [OutputPath { name: "out".to_owned(), path: Some(path('b', "ca")) }]);
        store.put(&path('k', "ca"), "another build of it");
        assert_eq!(store.open().outputs(&ca_drv).unwrap().len(), 2, "either may be it");
        std::fs::remove_file(store.0.path().join(path('b', "ca").as_str())).unwrap();
        std::fs::remove_file(store.0.path().join(path('k', "ca").as_str())).unwrap();
        assert_eq!(store.open().outputs(&ca_drv).unwrap()[0].path, None, "not built");
    }

    /// Both of two inputs need a third one, whose references are found once, whatever the order.
    #[test]
    fn what_two_inputs_need_is_no_cycle() {
        let store = store();
        let all: Vec<(StorePath, StorePath)> =
            "abcd".chars().zip("fghi".chars()).map(|(o, d)| (path(o, "x"), path(d, "x.drv"))).collect();
        let [(a, a_drv), (b, b_drv), (c, c_drv), (d, d_drv)] = &all[..] else { panic!("four were made") };
        store.derive(d_drv, Some(d), &[], &[]);
        store.derive(c_drv, Some(c), &[d_drv], &[]);
        store.derive(b_drv, Some(b), &[c_drv], &[]);
        store.derive(a_drv, Some(a), &[b_drv, c_drv, d_drv], &[]);
        store.put(&path('j', "stranger"), "");
        let text = full(&[a.clone(), b.clone(), c.clone(), d.clone(), path('j', "stranger")]);
        for (output, _) in &all {
            store.put(output, &text);
        }
        for (output, expected) in [(a, vec![a, b, c, d]), (b, vec![b, c, d]), (c, vec![c, d]), (d, vec![d])] {
            let told = store.open().references(output).unwrap();
            assert_eq!(told.iter().collect::<Vec<_>>(), expected, "{output}");
        }
    }

    /// A source that names an output which is built from it: nothing is lost, and nothing hangs.
    #[test]
    fn a_source_with_a_store_path_in_its_text_spoils_nothing() {
        let store = store();
        let (source, out, next) = (path('a', "src"), path('b', "out"), path('c', "next"));
        let (drv, next_drv) = (path('d', "out.drv"), path('f', "next.drv"));
        store.put(&source, &full(&[out.clone(), next.clone(), drv.clone()]));
        store.derive(&drv, Some(&out), &[], &[&source]);
        store.derive(&next_drv, Some(&next), &[&drv], &[&source]);
        store.put(&out, &full(std::slice::from_ref(&source)));
        store.put(&next, &full(&[out.clone(), source.clone()]));
        for first in [&source, &out, &next] {
            let known = store.open();
            known.references(first).unwrap();
            assert_eq!(known.references(&source).unwrap(), [out.clone(), next.clone(), drv.clone()]);
            assert_eq!(known.references(&out).unwrap(), std::slice::from_ref(&source));
            assert_eq!(known.references(&next).unwrap(), [source.clone(), out.clone()]);
        }
    }

    #[test]
    fn what_only_has_the_name_of_a_derivation_is_a_file() {
        let store = store();
        let (odd, dir) = (path('a', "odd.drv"), path('b', "dir.drv"));
        let (out, input, source) = (path('c', "out"), path('d', "input"), path('i', "src"));
        store.put(&odd, &format!("Derive({}", full(std::slice::from_ref(&input))));
        std::fs::create_dir(store.0.path().join(dir.as_str())).unwrap();
        store.put(&input, "");
        store.put(&source, &full(std::slice::from_ref(&odd)));
        store.derive(&path('f', "out.drv"), Some(&out), &[&odd, &path('g', "gone.drv")], &[&source]);
        store.put(&out, &full(&[input.clone(), source.clone()]));
        let known = store.open();
        assert_eq!(
            known.references(&out).unwrap(),
            [input.clone(), source.clone()],
            "an input may be any path"
        );
        assert_eq!(known.references(&source).unwrap(), std::slice::from_ref(&odd));
        assert_eq!(known.references(&odd).unwrap(), [input]);
        assert!(known.references(&dir).unwrap().is_empty());
        assert!(!known.leads_to_outputs(&odd) && known.leads_to_outputs(&path('f', "out.drv")));
        let said = known.outputs(&odd).unwrap_err().to_string();
        assert!(said.contains("odd.drv"), "asked for by itself it is an error: {said}");
    }
}
