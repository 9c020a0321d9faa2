//! What nix2container does (`closure/layered.go` and `popularity.go`): by popularity as well, but one of its own.
//!
//! The popularity of a path is the number of walks that end in it, wherever they begin.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::popularity::singles_and_rest;
use super::{Graph, Layer};

/// The popularity of each path; wraps, as nix2container's does.
#[must_use]
pub fn popularity(graph: &Graph) -> Vec<i64> {
    let mut popularity = vec![1_i64; graph.count()];
    for node in graph.order() {
        let referrers = graph.referrers(*node).iter().filter_map(|other| popularity.get(*other));
        let sum = referrers.fold(1_i64, |sum, one| sum.wrapping_add(*one));
        if let Some(slot) = popularity.get_mut(*node) {
            *slot = sum;
        }
    }
    popularity
}

/// The paths in the order in which they are first met when each is read with its references after it.
fn met(graph: &Graph) -> HashMap<usize, usize> {
    let mut met = HashMap::with_capacity(graph.count());
    for node in 0..graph.count() {
        for one in std::iter::once(&node).chain(graph.references(node)) {
            let next = met.len();
            met.entry(*one).or_insert(next);
        }
    }
    met
}

/// The most popular paths alone, and all that are left in one last layer; with 0 one for each path.
///
/// Of two that are equally popular the one that was met later is first. A layer's archive is a sorted tree: so are its paths.
#[must_use]
pub fn layers(graph: &Graph, max_layers: usize) -> Vec<Layer> {
    let (popularity, met) = (popularity(graph), met(graph));
    let mut nodes: Vec<usize> = (0..graph.count()).collect();
    nodes.sort_by_cached_key(|node| Reverse((popularity.get(*node).copied(), met.get(node).copied())));
    let most = if max_layers == 0 { nodes.len() } else { max_layers };
    let mut layers = singles_and_rest(&nodes, most);
    layers.iter_mut().for_each(|layer| layer.sort_unstable());
    layers
}
