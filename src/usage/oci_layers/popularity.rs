//! The popularity contest of nixpkgs: the layers of `dockerTools.buildLayeredImage` and `streamLayeredImage` from NixOS 19.03 to 25.05.
//!
//! A path is the more popular the more ways lead to it. Published as a recursion (`closure-graph.py` of nixpkgs): a contest over some
//! paths gives each of them one, and all below a path what the contest over its references gives them, and one more; popular is who wins
//! the contest over the roots. That takes exponential time where it is written down naively, and comes to this: with w(x) the number of
//! walks from the roots to x, the popularity of x is w(x) and the sum of w over all that need x.

use std::cmp::Reverse;

use super::{Graph, Layer, LayoutError};

/// The popularity of each path.
///
/// # Errors
/// [`LayoutError::Popularity`] where it needs more than 128 bits: cut off it would change the order.
pub fn popularity(graph: &Graph) -> Result<Vec<u128>, LayoutError> {
    let too_large = |node: usize| LayoutError::Popularity(graph.paths().get(node).cloned());
    let mut walks = vec![0_u128; graph.count()];
    let walks_to = |walks: &[u128], node: usize| walks.get(node).copied().unwrap_or_default();
    for node in graph.order() {
        let referrers = graph.referrers(*node);
        let sum = referrers.iter().try_fold(0_u128, |sum, other| sum.checked_add(walks_to(&walks, *other)));
        let sum = sum.ok_or_else(|| too_large(*node))?;
        if let Some(slot) = walks.get_mut(*node) {
            *slot = if referrers.is_empty() { 1 } else { sum };
        }
    }
    (0..graph.count())
        .map(|node| {
            let above = graph.above(node).into_iter().flat_map(|above| above.iter());
            above
                .map(|other| walks_to(&walks, other))
                .try_fold(walks_to(&walks, node), u128::checked_add)
                .ok_or_else(|| too_large(node))
        })
        .collect()
}

/// The most popular paths alone, and all that are left in one last layer; at most `available` layers (at least one).
///
/// Of two that are equally popular the one is first whose name is, then whose hash part is.
///
/// # Errors
/// As [`popularity`].
pub fn layers(graph: &Graph, available: usize) -> Result<Vec<Layer>, LayoutError> {
    let popularity = popularity(graph)?;
    let key = |node: usize| {
        let (head, name) = graph.halves(node);
        (Reverse(popularity.get(node).copied().unwrap_or_default()), format!("{name}-{head}"))
    };
    let mut nodes: Vec<usize> = (0..graph.count()).collect();
    nodes.sort_by_cached_key(|node| key(*node));
    Ok(singles_and_rest(&nodes, available))
}

/// Each of the first in a layer of its own, and what is left in the last of `available`.
pub(super) fn singles_and_rest(nodes: &[usize], available: usize) -> Vec<Layer> {
    let singles = if nodes.len() <= available { nodes.len() } else { available.saturating_sub(1) };
    let (singles, rest) = nodes.split_at_checked(singles).unwrap_or((nodes, &[]));
    let mut layers: Vec<Layer> = singles.iter().map(|node| vec![*node]).collect();
    if !rest.is_empty() {
        layers.push(rest.to_vec());
    }
    layers
}
