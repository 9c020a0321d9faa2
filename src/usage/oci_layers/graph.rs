//! What the algorithms work on: the store paths of one closure, what refers to what, and how large each is.

use super::LayoutError;
use super::bits::Bits;
use crate::store::{StoreDir, StorePath};

/// The most paths that a graph may have: what is below and above each takes a bit a pair, 256 MiB at this size.
pub const MAX_PATHS: usize = 1 << 15;

/// The closure of one environment.
///
/// Invariants, kept by [`Graph::new`]: paths are sorted bytewise and each there once, references are sets within them without self
/// references and without cycles, and the sum of all sizes is less than 2^64.
#[derive(Clone, Debug)]
pub struct Graph {
    dir: StoreDir,
    paths: Vec<StorePath>,
    sizes: Vec<u64>,
    references: Vec<Vec<usize>>,
    referrers: Vec<Vec<usize>>,
    tops: Vec<usize>,
    /// Each before what it refers to.
    order: Vec<usize>,
    below: Vec<Bits>,
    above: Vec<Bits>,
}

impl Graph {
    /// Of paths with the sizes of their NARs, sorted and each once; of pairs of referrer and reference, as indexes into them; and
    /// of those that the environment starts from.
    ///
    /// Self references are left out, and so are tops that are no members.
    ///
    /// # Errors
    /// If an invariant does not hold, or there are more than [`MAX_PATHS`].
    pub fn new(
        dir: StoreDir,
        members: Vec<(StorePath, u64)>,
        references: &[(usize, usize)],
        tops: &[StorePath],
    ) -> Result<Self, LayoutError> {
        let (paths, sizes): (Vec<StorePath>, Vec<u64>) = members.into_iter().unzip();
        if paths.len() > MAX_PATHS {
            return Err(LayoutError::TooMany { count: paths.len() });
        }
        if !paths.is_sorted_by(|a, b| a < b) {
            return Err(LayoutError::Malformed("its paths are not sorted"));
        }
        if sizes.iter().try_fold(0_u64, |sum, size| sum.checked_add(*size)).is_none() {
            return Err(LayoutError::Malformed("its sizes are no sizes"));
        }
        let mut below = vec![Vec::new(); paths.len()];
        let mut above = vec![Vec::new(); paths.len()];
        for (from, to) in references.iter().filter(|(from, to)| from != to) {
            match (below.get_mut(*from), above.get_mut(*to)) {
                (Some(references), Some(referrers)) => {
                    references.push(*to);
                    referrers.push(*from);
                }
                _ => return Err(LayoutError::Malformed("a path refers to one that is no member")),
            }
        }
        for list in below.iter_mut().chain(&mut above) {
            list.sort_unstable();
            list.dedup();
        }
        let mut tops: Vec<usize> = tops.iter().filter_map(|top| paths.binary_search(top).ok()).collect();
        tops.sort_unstable();
        tops.dedup();
        let mut graph = Self {
            dir,
            paths,
            sizes,
            references: below,
            referrers: above,
            tops,
            order: Vec::new(),
            below: Vec::new(),
            above: Vec::new(),
        };
        graph.order = graph.ordered()?;
        graph.below = graph.reached(graph.order.iter().rev(), Self::references);
        graph.above = graph.reached(graph.order.iter(), Self::referrers);
        Ok(graph)
    }

    /// Referrers first.
    fn ordered(&self) -> Result<Vec<usize>, LayoutError> {
        let mut waiting: Vec<usize> = self.referrers.iter().map(Vec::len).collect();
        let mut order: Vec<usize> = self.starts().collect();
        let mut next = 0;
        while let Some(node) = order.get(next) {
            for reference in self.references(*node) {
                if let Some(count) = waiting.get_mut(*reference) {
                    *count -= 1;
                    if *count == 0 {
                        order.push(*reference);
                    }
                }
            }
            next += 1;
        }
        if order.len() == self.count() {
            return Ok(order);
        }
        // Each that waits has a referrer that waits: going up for long enough ends in a cycle.
        let waits = |node: &usize| waiting.get(*node).is_some_and(|count| *count > 0);
        let mut node = (0..self.count()).find(|node| waits(node)).unwrap_or_default();
        for _ in 0..self.count() {
            node = self.referrers(node).iter().copied().find(waits).unwrap_or(node);
        }
        Err(LayoutError::Cycle(self.paths.get(node).cloned()))
    }

    /// For each node all that can be reached by `next`, given that this is known already for those that come before it.
    fn reached<'g>(
        &'g self,
        order: impl Iterator<Item = &'g usize>,
        next: impl Fn(&'g Self, usize) -> &'g [usize],
    ) -> Vec<Bits> {
        let mut all = vec![Bits::default(); self.count()];
        for node in order {
            let mut reached = Bits::new(self.count());
            for other in next(self, *node) {
                reached.insert(*other);
                if let Some(further) = all.get(*other) {
                    reached.unite(further);
                }
            }
            if let Some(slot) = all.get_mut(*node) {
                *slot = reached;
            }
        }
        all
    }

    /// The number of paths.
    #[must_use]
    pub fn count(&self) -> usize {
        self.paths.len()
    }

    /// All paths, sorted; the others speak of indexes into them.
    #[must_use]
    pub fn paths(&self) -> &[StorePath] {
        &self.paths
    }

    /// The paths at some indexes.
    #[must_use]
    pub fn named(&self, nodes: &[usize]) -> Vec<StorePath> {
        nodes.iter().filter_map(|node| self.paths.get(*node)).cloned().collect()
    }

    /// The name of a path, without its hash part.
    pub(super) fn name(&self, node: usize) -> &str {
        self.paths.get(node).map_or("", StorePath::name)
    }

    /// The full path, cut at its first dash: the store directory with the hash part, and the name.
    pub(super) fn halves(&self, node: usize) -> (String, String) {
        let full = self.paths.get(node).map_or_else(String::new, |path| format!("{}/{path}", self.dir));
        let (head, name) = full.split_once('-').unwrap_or((&full, ""));
        (head.to_owned(), name.to_owned())
    }

    /// What a path refers to, sorted, without itself.
    #[must_use]
    pub fn references(&self, node: usize) -> &[usize] {
        self.references.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// What refers to a path, sorted, without itself.
    #[must_use]
    pub fn referrers(&self, node: usize) -> &[usize] {
        self.referrers.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those that no other path refers to, sorted.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        (0..self.count()).filter(|node| self.referrers(*node).is_empty())
    }

    /// What the environment starts from, and [`Self::starts`]: closures of other modes than `runtime` have members that nothing refers to.
    pub(super) fn tops(&self) -> Vec<usize> {
        let mut tops: Vec<usize> = self.tops.iter().copied().chain(self.starts()).collect();
        tops.sort_unstable();
        tops.dedup();
        tops
    }

    /// All, each before what it refers to.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// All that a path needs, without itself.
    pub(super) fn below(&self, node: usize) -> Option<&Bits> {
        self.below.get(node)
    }

    /// All that needs a path, without itself.
    pub(super) fn above(&self, node: usize) -> Option<&Bits> {
        self.above.get(node)
    }

    /// The size of a path's NAR in bytes.
    #[must_use]
    pub fn nar_size(&self, node: usize) -> u64 {
        self.sizes.get(node).copied().unwrap_or_default()
    }

    /// The sum of the NARs of some paths and of all that they need, each once.
    #[must_use]
    pub fn closure_size(&self, nodes: &[usize]) -> u64 {
        let mut all = Bits::new(self.count());
        for node in nodes {
            all.insert(*node);
            if let Some(below) = self.below(*node) {
                all.unite(below);
            }
        }
        all.iter().map(|node| self.nar_size(node)).sum()
    }
}
