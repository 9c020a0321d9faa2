//! Why a path is in a closure.

use std::collections::BTreeMap;

use super::resolve::dev_roots;
use super::{ClosureError, Mode};
use crate::store::{References, StorePath};

/// The shortest chain from one of `roots` to `target`, both included; `None` if it is not in the closure.
///
/// Among chains of the same length the one whose paths come first in bytewise order is taken, from the root on. In
/// `build` a step may also lead from a derivation to one of its outputs; in `dev` the chain starts with the derivation.
///
/// # Errors
/// As [`super::resolve`].
pub fn why(
    source: &dyn References,
    roots: &[StorePath],
    mode: Mode,
    target: &StorePath,
) -> Result<Option<Vec<StorePath>>, ClosureError> {
    Ok(Ways::found(source, roots, mode, Some(target))?.to(target))
}

/// The shortest chains to all paths of a closure, found at once; each as [`why`] has it.
#[derive(Clone, Debug)]
pub struct Ways {
    trees: Vec<Tree>,
}

/// How each path was first come to.
#[derive(Clone, Debug)]
struct Tree {
    /// What stands before the path that it starts from.
    derivation: Option<StorePath>,
    came_from: BTreeMap<StorePath, Option<StorePath>>,
}

impl Ways {
    /// From `roots` to everything.
    ///
    /// # Errors
    /// As [`super::resolve`].
    pub fn new(source: &dyn References, roots: &[StorePath], mode: Mode) -> Result<Self, ClosureError> {
        Self::found(source, roots, mode, None)
    }

    /// The same, until the way to `target` is found.
    fn found(
        source: &dyn References,
        roots: &[StorePath],
        mode: Mode,
        target: Option<&StorePath>,
    ) -> Result<Self, ClosureError> {
        if mode != Mode::Dev {
            return Ok(Self { trees: vec![Tree::grown(source, roots, mode, target)?] });
        }
        let tree = |root: &StorePath| {
            let own = std::slice::from_ref(root);
            if !root.is_derivation() {
                return Tree::grown(source, own, Mode::Runtime, target);
            }
            let tree = Tree::grown(source, &dev_roots(source, own)?, Mode::Runtime, target)?;
            Ok(Tree { derivation: Some(root.clone()), ..tree })
        };
        Ok(Self { trees: roots.iter().map(tree).collect::<Result<_, ClosureError>>()? })
    }

    /// The shortest chain to `target`, both ends included.
    #[must_use]
    pub fn to(&self, target: &StorePath) -> Option<Vec<StorePath>> {
        self.trees.iter().filter_map(|tree| tree.to(target)).min_by(|a, b| (a.len(), a).cmp(&(b.len(), b)))
    }
}

impl Tree {
    fn grown(
        source: &dyn References,
        roots: &[StorePath],
        mode: Mode,
        target: Option<&StorePath>,
    ) -> Result<Self, ClosureError> {
        // Breadth first, each level in the order of the chains that lead to it: the first chain to a path is its least.
        let mut came_from: BTreeMap<StorePath, Option<StorePath>> = BTreeMap::new();
        let mut level: Vec<StorePath> = roots.to_vec();
        level.sort_unstable();
        level.dedup();
        for root in &level {
            came_from.insert(root.clone(), None);
        }
        while !level.is_empty() && !target.is_some_and(|target| came_from.contains_key(target)) {
            let mut next_level = Vec::new();
            for path in level {
                let mut next = source.references(&path)?;
                if mode == Mode::Build && source.leads_to_outputs(&path) {
                    for output in source.outputs(&path)?.into_iter().filter_map(|output| output.path) {
                        if source.is_valid(&output)? {
                            next.push(output);
                        }
                    }
                }
                next.sort_unstable();
                for reference in next {
                    if !came_from.contains_key(&reference) {
                        came_from.insert(reference.clone(), Some(path.clone()));
                        next_level.push(reference);
                    }
                }
            }
            level = next_level;
        }
        Ok(Self { derivation: None, came_from })
    }

    fn to(&self, target: &StorePath) -> Option<Vec<StorePath>> {
        let (target, mut before) = self.came_from.get_key_value(target)?;
        let mut chain = vec![target.clone()];
        while let Some(path) = before {
            chain.push(path.clone());
            before = self.came_from.get(path)?;
        }
        chain.extend(self.derivation.clone());
        chain.reverse();
        Some(chain)
    }
}
