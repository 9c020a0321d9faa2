//! The roots of a graph that may have cycles.

/// The least set of nodes from which all are reached, sorted; of a cycle that nothing else leads to, its first node.
/// `below` has what each node leads to; what is no node is passed over.
///
/// In depth-first order a node that others lead to ends before the last of these. So of what is not reached yet, the node
/// that ended last lies on a cycle that nothing else leads to, or is one by itself.
pub(super) fn roots(below: &[Vec<usize>]) -> Vec<usize> {
    let mut above = vec![Vec::new(); below.len()];
    for (node, next) in below.iter().enumerate() {
        for other in next {
            if let Some(above) = above.get_mut(*other) {
                above.push(node);
            }
        }
    }
    let mut reached = vec![false; below.len()];
    let mut seen = vec![false; below.len()];
    let mut roots = Vec::new();
    for node in ended(below).into_iter().rev() {
        if reached.get(node) != Some(&false) {
            continue;
        }
        // All that leads to it lies on its cycle.
        let cycle = visit(&above, node, &mut seen);
        roots.extend(cycle.into_iter().min());
        visit(below, node, &mut reached);
    }
    roots.sort_unstable();
    roots
}

/// All nodes in the order in which a depth-first search leaves them.
fn ended(below: &[Vec<usize>]) -> Vec<usize> {
    let mut entered = vec![false; below.len()];
    let mut ended = Vec::with_capacity(below.len());
    for node in 0..below.len() {
        let mut open = vec![(node, 0)];
        while let Some((node, next)) = open.pop() {
            if next == 0 && std::mem::replace(entered.get_mut(node).unwrap_or(&mut true), true) {
                continue;
            }
            match below.get(node).and_then(|all| all.get(next)) {
                Some(other) => open.extend([(node, next + 1), (*other, 0)]),
                None => ended.push(node),
            }
        }
    }
    ended
}

/// The nodes that are reached from one, itself among them, and were not seen before.
fn visit(edges: &[Vec<usize>], from: usize, seen: &mut [bool]) -> Vec<usize> {
    let (mut open, mut found) = (vec![from], Vec::new());
    while let Some(node) = open.pop() {
        if seen.get_mut(node).is_some_and(|seen| !std::mem::replace(seen, true)) {
            found.push(node);
            open.extend(edges.get(node).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn reached(below: &[Vec<usize>], from: usize) -> BTreeSet<usize> {
        let mut seen = vec![false; below.len()];
        visit(below, from, &mut seen).into_iter().collect()
    }

    /// The first node of each class of nodes that reach each other, if nothing else reaches it.
    fn naive(below: &[Vec<usize>]) -> Vec<usize> {
        let all: Vec<BTreeSet<usize>> = (0..below.len()).map(|node| reached(below, node)).collect();
        let is_root = |node: &usize| {
            (0..below.len())
                .all(|other| !all[other].contains(node) || (all[*node].contains(&other) && *node <= other))
        };
        (0..below.len()).filter(is_root).collect()
    }

    #[test]
    fn a_long_chain_of_cycles_has_one_root() {
        // Of two nodes each, and each is reached from the next: a search from each one anew would go through all before it.
        let count = 200_000;
        let below: Vec<Vec<usize>> = (0..count)
            .map(|node| {
                let pair = node ^ 1;
                if node >= 2 { vec![pair, node - 2] } else { vec![pair] }
            })
            .collect();
        assert_eq!(roots(&below), [count - 2]);
    }

    proptest! {
        #[test]
        fn roots_are_those_of_the_definition(
            below in (1..12_usize).prop_flat_map(|count| {
                proptest::collection::vec(proptest::collection::vec(0..count + 1, 0..4), count)
            }),
        ) {
            prop_assert_eq!(roots(&below), naive(&below));
        }
    }
}
