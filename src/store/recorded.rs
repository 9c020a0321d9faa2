//! References that were written down in a file: a registration, or the JSON of `nix path-info`.

use std::collections::{BTreeMap, HashMap};

use super::graph;
use super::path::StorePath;
use super::references::{OutputPath, ReferenceError, References};

/// What is written down of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What it refers to, sorted, each once.
    pub references: Vec<StorePath>,
    /// The size of its NAR in bytes.
    pub nar_size: Option<u64>,
    /// The derivation it was built from.
    pub deriver: Option<StorePath>,
}

/// A set of paths with their references; need not be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    origin: String,
    records: BTreeMap<StorePath, Record>,
}

impl Recorded {
    /// An empty set; `origin` is the file, for people.
    #[must_use]
    pub fn new(origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), records: BTreeMap::new() }
    }

    /// Adds a path; false, and nothing is changed, if it is there with another record.
    #[must_use]
    pub fn insert(&mut self, path: StorePath, mut record: Record) -> bool {
        record.references.sort_unstable();
        record.references.dedup();
        *self.records.entry(path).or_insert_with(|| record.clone()) == record
    }

    /// The paths and their records, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&StorePath, &Record)> {
        self.records.iter()
    }

    /// What is written down of a path.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> Option<&Record> {
        self.records.get(path)
    }

    /// The number of paths.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// The least set of paths from which all are reached, sorted; of a cycle that nothing else leads to, its first path.
    ///
    /// Every step is taken once: linear in paths and references.
    #[must_use]
    pub fn roots(&self) -> Vec<StorePath> {
        let paths: Vec<&StorePath> = self.records.keys().collect();
        let at: HashMap<&StorePath, usize> = paths.iter().enumerate().map(|(at, path)| (*path, at)).collect();
        let known =
            |record: &Record| record.references.iter().filter_map(|path| at.get(path).copied()).collect();
        let below: Vec<Vec<usize>> = self.records.values().map(known).collect();
        let roots = graph::roots(&below).into_iter().filter_map(|at| paths.get(at));
        roots.map(|path| (*path).clone()).collect()
    }

    fn record(&self, path: &StorePath) -> Result<&Record, ReferenceError> {
        self.records
            .get(path)
            .ok_or_else(|| ReferenceError::Unknown { path: path.clone(), origin: self.origin() })
    }
}

impl References for Recorded {
    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn references(&self, path: &StorePath) -> Result<Vec<StorePath>, ReferenceError> {
        Ok(self.record(path)?.references.clone())
    }

    fn is_valid(&self, path: &StorePath) -> Result<bool, ReferenceError> {
        Ok(self.records.contains_key(path))
    }

    fn outputs(&self, _: &StorePath) -> Result<Vec<OutputPath>, ReferenceError> {
        Err(ReferenceError::NotRecorded { origin: self.origin(), what: "the outputs of derivations" })
    }

    fn nar_size(&self, path: &StorePath) -> Result<Option<u64>, ReferenceError> {
        Ok(self.record(path)?.nar_size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    fn path(letter: char) -> StorePath {
        format!("{}-{letter}", String::from(letter).repeat(32)).parse().unwrap()
    }

    fn graph(edges: &[(char, &str)]) -> Recorded {
        let mut all = Recorded::new("a test");
        for (from, to) in edges {
            let references = to.chars().map(path).collect();
            assert!(all.insert(path(*from), Record { references, ..Record::default() }));
        }
        all
    }

    #[test]
    fn roots_reach_everything_and_none_is_needless() {
        assert_eq!(graph(&[('a', "b"), ('b', ""), ('c', "c")]).roots(), [path('a'), path('c')]);
        assert_eq!(graph(&[('a', "b"), ('b', "a"), ('c', "ab")]).roots(), [path('c')]);
        assert_eq!(graph(&[('a', "b"), ('b', "a")]).roots(), [path('a')]);
        assert_eq!(graph(&[('a', "b"), ('b', "a"), ('c', "da"), ('d', "c")]).roots(), [path('c')]);
        assert!(graph(&[]).roots().is_empty());
    }

    #[test]
    fn a_second_record_must_be_the_same() {
        let mut all = graph(&[('a', "b")]);
        assert!(all.insert(path('a'), Record { references: vec![path('b')], ..Record::default() }));
        assert!(!all.insert(path('a'), Record::default()));
        assert_eq!(all.references(&path('a')).unwrap(), [path('b')]);
    }
}
