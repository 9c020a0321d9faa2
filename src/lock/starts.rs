//! What a closure starts from: the one place where roots and extra roots meet.
//!
//! The closure of a lock is that of its roots in its mode, and the runtime closure of its extra roots. Whoever needs it
//! asks here, so that nobody forgets the second.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::LockError;
use super::format::{EnvLock, ExtraRoot, Root};
use super::known::Known;
use crate::closure::{Cache, Closure, Mode, Ways, why};
use crate::store::{Location, References, StorePath};

/// What a closure starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts {
    /// In `mode`.
    roots: Vec<StorePath>,
    /// With their runtime closures, by name; none is a derivation.
    extra: Vec<ExtraRoot>,
    mode: Mode,
}

/// A chain of references, and the name of the extra root that it starts from, if it starts from one.
pub type Chain = (Vec<StorePath>, Option<String>);

impl Starts {
    /// Of roots, extra roots and a mode.
    #[must_use]
    pub fn new(roots: &[Root], extra: &[ExtraRoot], mode: Mode) -> Self {
        Self { roots: roots.iter().map(|root| root.path.clone()).collect(), extra: extra.to_vec(), mode }
    }

    /// The roots.
    #[must_use]
    pub fn roots(&self) -> &[StorePath] {
        &self.roots
    }

    /// The extra roots.
    #[must_use]
    pub fn extra(&self) -> &[ExtraRoot] {
        &self.extra
    }

    /// Which closure of the roots.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// All paths that it starts from, roots first.
    #[must_use]
    pub fn paths(&self) -> Vec<StorePath> {
        self.roots.iter().chain(self.extra.iter().map(|extra| &extra.path)).cloned().collect()
    }

    /// True if one closure of all of them is the closure: not in mode `build`, which also follows the derivations that an
    /// extra root refers to.
    fn is_one(&self) -> bool {
        self.extra.is_empty() || self.mode != Mode::Build
    }

    /// The closure, if it is remembered of this very state of the store's database.
    #[must_use]
    pub fn unchanged(&self, cache: &Cache, store: &Location) -> Option<Closure> {
        self.is_one().then(|| cache.unchanged(store, &self.paths(), self.mode))?
    }

    /// The closure; from the cache where that can answer.
    ///
    /// # Errors
    /// As [`crate::closure::resolve`].
    pub fn closure(&self, known: &Known, cache: &Cache) -> Result<Closure, LockError> {
        if self.is_one() {
            return known.closure(cache, &self.paths(), self.mode);
        }
        let roots = known.closure(cache, &self.roots, self.mode)?;
        let extra: Vec<StorePath> = self.extra.iter().map(|extra| extra.path.clone()).collect();
        let extra = known.closure(cache, &extra, Mode::Runtime)?;
        let mut nar_size = roots.nar_size();
        let mut more = Vec::new();
        for path in extra.into_paths().into_iter().filter(|path| !roots.contains(path)) {
            nar_size = nar_size.zip(known.references().nar_size(&path)?).and_then(|(a, b)| a.checked_add(b));
            more.push(path);
        }
        let mut all = roots.into_paths();
        all.extend(more);
        Ok(Closure::new(all, nar_size))
    }

    /// The shortest chain to `target`, as [`why`]; of two of one length the one from a root.
    ///
    /// # Errors
    /// As [`why`].
    pub fn why(&self, source: &dyn References, target: &StorePath) -> Result<Option<Chain>, LockError> {
        let mut best = why(source, &self.roots, self.mode, target)?.map(|chain| (chain, None));
        for extra in &self.extra {
            let root = std::slice::from_ref(&extra.path);
            if let Some(chain) = why(source, root, Mode::Runtime, target)? {
                best = shorter(best, chain, &extra.name);
            }
        }
        Ok(best)
    }

    /// What each member of `closure` refers to of it, sorted, without itself; in mode `build` a derivation also to its outputs.
    ///
    /// # Errors
    /// If it is not recorded.
    pub fn below(
        &self,
        source: &dyn References,
        closure: &Closure,
    ) -> Result<BTreeMap<StorePath, Vec<StorePath>>, LockError> {
        let mut below = BTreeMap::new();
        for path in closure.paths() {
            let mut next = source.references(path)?;
            if self.mode == Mode::Build && source.leads_to_outputs(path) {
                next.extend(source.outputs(path)?.into_iter().filter_map(|output| output.path));
            }
            next.retain(|other| other != path && closure.contains(other));
            next.sort_unstable();
            next.dedup();
            below.insert(path.clone(), next);
        }
        Ok(below)
    }

    /// The shortest chains to everything, each as [`Starts::why`] has it.
    ///
    /// # Errors
    /// As [`why`].
    pub fn chains(&self, source: &dyn References) -> Result<Chains, LockError> {
        let extra = self.extra.iter().map(|extra| {
            let ways = Ways::new(source, std::slice::from_ref(&extra.path), Mode::Runtime)?;
            Ok((extra.name.clone(), ways))
        });
        Ok(Chains {
            roots: Ways::new(source, &self.roots, self.mode)?,
            extra: extra.collect::<Result<_, LockError>>()?,
        })
    }
}

/// The better of two chains, the second from an extra root.
fn shorter(best: Option<Chain>, chain: Vec<StorePath>, name: &str) -> Option<Chain> {
    match best {
        Some(best) if best.0.len() <= chain.len() => Some(best),
        _ => Some((chain, Some(name.to_owned()))),
    }
}

/// The shortest chains to everything in a closure.
#[derive(Clone, Debug)]
pub struct Chains {
    roots: Ways,
    extra: Vec<(String, Ways)>,
}

impl Chains {
    /// The chain to `target`; `None` if it is not in the closure.
    #[must_use]
    pub fn to(&self, target: &StorePath) -> Option<Chain> {
        let mut best = self.roots.to(target).map(|chain| (chain, None));
        for (name, ways) in &self.extra {
            if let Some(chain) = ways.to(target) {
                best = shorter(best, chain, name);
            }
        }
        best
    }
}

impl EnvLock {
    /// What its closure starts from.
    #[must_use]
    pub fn starts(&self) -> Starts {
        Starts::new(&self.roots, &self.extra_roots, self.mode)
    }

    /// The closure that it names, or the part that it keeps, out of a store as it is now, and what that was asked if it was; `state` is where caches
    /// lie. It is not compared with what was locked: see [`super::verify`].
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn closure_in(&self, store: &Location, state: &Path) -> Result<(Closure, Option<Known>), LockError> {
        let (starts, cache) = (self.starts(), Cache::open(state));
        if let Some(closure) = starts.unchanged(&cache, store) {
            return Ok((self.kept(closure)?, None));
        }
        let known = Known::open(store, None, state)?;
        let closure = starts.closure(&known, &cache)?;
        Ok((self.kept(closure)?, Some(known)))
    }
}
