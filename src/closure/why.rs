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
    if mode == Mode::Dev {
        return why_dev(source, roots, target);
    }
    // Breadth first, each level in the order of the chains that lead to it: the first chain to a path is its least.
    let mut came_from: BTreeMap<StorePath, Option<StorePath>> = BTreeMap::new();
    let mut level: Vec<StorePath> = roots.to_vec();
    level.sort_unstable();
    level.dedup();
    for root in &level {
        came_from.insert(root.clone(), None);
    }
    while !level.is_empty() && !came_from.contains_key(target) {
        let mut next_level = Vec::new();
        for path in level {
            let mut next = source.references(&path)?;
            if mode == Mode::Build && path.is_derivation() {
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
    if !came_from.contains_key(target) {
        return Ok(None);
    }
    let mut chain = vec![target.clone()];
    let mut at = target;
    while let Some(Some(before)) = came_from.get(at) {
        chain.push(before.clone());
        at = before;
    }
    chain.reverse();
    Ok(Some(chain))
}

fn why_dev(
    source: &dyn References,
    derivations: &[StorePath],
    target: &StorePath,
) -> Result<Option<Vec<StorePath>>, ClosureError> {
    let mut best: Option<Vec<StorePath>> = None;
    for derivation in derivations {
        let own = std::slice::from_ref(derivation);
        let roots = if derivation.is_derivation() { dev_roots(source, own)? } else { own.to_vec() };
        if let Some(mut chain) = why(source, &roots, Mode::Runtime, target)? {
            if derivation.is_derivation() {
                chain.insert(0, derivation.clone());
            }
            if best.as_ref().is_none_or(|b| (chain.len(), &chain) < (b.len(), b)) {
                best = Some(chain);
            }
        }
    }
    Ok(best)
}
