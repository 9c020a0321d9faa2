//! What an import does at its end: names to hide, and times of directories.

use std::collections::HashMap;

use crate::vfs::{Name, Timespec};

/// The place of the root.
pub(super) const ROOT: usize = 0;

/// Paths with what is to be done there, as a tree: a path costs one node more than the one above it, however long it is.
#[derive(Debug)]
pub(super) struct Plan {
    nodes: Vec<Node>,
    places: HashMap<(usize, Name), usize>,
    /// The names of the path that was last asked for, each with its place: the next path has most of them in common.
    walked: Vec<(Name, usize)>,
    #[cfg(test)]
    lookups: usize,
}

/// A path, and what is to be done there.
#[derive(Debug)]
pub(super) struct Node {
    /// Its last name; `None` for the root.
    pub(super) name: Option<Name>,
    /// The place of the path above; that of the root for the root.
    above: usize,
    /// The places of its first path below, and of the next one beside it.
    below: Option<usize>,
    beside: Option<usize>,
    /// The name is hidden.
    pub(super) hidden: bool,
    /// All names of the lower directory are hidden.
    pub(super) opaque: bool,
    /// Something below it is hidden.
    pub(super) hides_below: bool,
    /// The lower is known to have no directory there, or none that shows.
    pub(super) not_in_lower: bool,
    /// The time that the directory there gets.
    pub(super) mtime: Option<Timespec>,
}

impl Node {
    fn new(name: Option<Name>, above: usize, beside: Option<usize>) -> Self {
        Self {
            name,
            above,
            below: None,
            beside,
            hidden: false,
            opaque: false,
            hides_below: false,
            not_in_lower: false,
            mtime: None,
        }
    }
}

impl Plan {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::new(None, ROOT, None)],
            places: HashMap::new(),
            walked: Vec::new(),
            #[cfg(test)]
            lookups: 0,
        }
    }

    /// The place of a name below a place; it is made if it is missing.
    pub(super) fn inner(&mut self, above: usize, name: &Name) -> usize {
        #[cfg(test)]
        {
            self.lookups += 1;
        }
        let new = self.nodes.len();
        let place = *self.places.entry((above, name.clone())).or_insert(new);
        if place == new {
            let beside = self.nodes.get_mut(above).and_then(|node| node.below.replace(new));
            self.nodes.push(Node::new(Some(name.clone()), above, beside));
        }
        place
    }

    /// The place of a path. Looked up is what it does not have in common with the path before, so that the members of a deep
    /// tree, each after the one that it lies in, take one look-up each.
    pub(super) fn place(&mut self, path: &[Name]) -> usize {
        let common = self.walked.iter().zip(path).take_while(|((walked, _), name)| walked == *name).count();
        self.walked.truncate(common);
        for name in path.iter().skip(common) {
            let place = self.inner(self.walked_to(), name);
            self.walked.push((name.clone(), place));
        }
        self.walked_to()
    }

    fn walked_to(&self) -> usize {
        self.walked.last().map_or(ROOT, |(_, place)| *place)
    }

    /// What is to be done at a place.
    pub(super) fn node(&self, place: usize) -> Option<&Node> {
        self.nodes.get(place)
    }

    /// True if the lower is known to have no directory at the path above.
    pub(super) fn above_is_not_in_lower(&self, place: usize) -> bool {
        let above = self.node(place).map(|node| node.above);
        above.and_then(|above| self.node(above)).is_some_and(|above| above.not_in_lower)
    }

    /// Changes what is to be done at a place.
    pub(super) fn change(&mut self, place: usize, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(place) {
            change(node);
        }
    }

    /// Notes with each path whether something below it is hidden.
    pub(super) fn sum_up(&mut self) {
        // A path comes after the one above it.
        for place in (1..self.nodes.len()).rev() {
            let Some(node) = self.nodes.get(place) else { continue };
            if node.hidden || node.opaque || node.hides_below {
                self.change(node.above, |above| above.hides_below = true);
            }
        }
    }

    /// The paths right below one.
    pub(super) fn below(&self, place: usize) -> impl Iterator<Item = usize> {
        let first = self.node(place).and_then(|node| node.below);
        std::iter::successors(first, |place| self.node(*place).and_then(|node| node.beside))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_path_has_one_place_whatever_was_asked_before() {
        let mut plan = Plan::new();
        let name = |name: &str| Name::new(name.as_bytes()).unwrap();
        let paths =
            ["a/b/c", "a/b", "a/b/c/d", "a/x/c", "", "x", "a/b/c", "x/b/c", "a/b/c/d", "x", "a/x/c", "a"];
        for path in paths {
            let path: Vec<Name> = path.split_terminator('/').map(name).collect();
            let walked = plan.place(&path);
            assert_eq!(walked, path.iter().fold(ROOT, |above, name| plan.inner(above, name)), "{path:?}");
            let mut back = Vec::new();
            let mut at = walked;
            while let Some(name) = plan.node(at).and_then(|node| node.name.clone()) {
                back.insert(0, name);
                at = plan.node(at).unwrap().above;
            }
            assert_eq!(back, path);
        }
        // The root, a, b, c, d, x and c below a, x, and b and c below it.
        assert_eq!(plan.nodes.len(), 10);
    }
    /// Each directory of a chain, as a member of its own and with one in it that is hidden.
    #[test]
    fn the_members_of_a_deep_tree_take_two_lookups_each() {
        const LEVELS: usize = 8_000;
        let (d, hidden) = (Name::new(b"d").unwrap(), Name::new(b"hidden").unwrap());
        let (mut plan, mut path) = (Plan::new(), Vec::new());
        for _ in 0..LEVELS {
            path.push(d.clone());
            let above = plan.place(&path);
            plan.inner(above, &hidden);
        }
        assert_eq!((plan.nodes.len(), plan.lookups), (1 + 2 * LEVELS, 2 * LEVELS));
    }
}
