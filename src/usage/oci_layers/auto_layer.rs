//! What `dockerTools` does since NixOS 25.11 (`auto-layer.py` of nixpkgs): the largest paths decide what belongs together.
//!
//! Each path carries a set of *primaries*, and paths with equal sets are a layer. Path after path, the largest first, becomes a primary
//! and is added to the sets of what it needs, as long as the layers suffice.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::{Graph, Layer};

/// Sorted.
type Primaries = Vec<usize>;

/// The sets, each once, and for each path which is its own.
struct Sets {
    distinct: Vec<Primaries>,
    of: Vec<usize>,
}

/// At most `available` layers (at least one), what needs least first.
///
/// Of two paths of one size the one with the greater base name decides first. Of two layers that need equally much the one is first that
/// begins with the lesser path: nixpkgs leaves that open. Paths of a layer are ordered by name, then by hash part.
#[must_use]
pub fn layers(graph: &Graph, available: usize) -> Vec<Layer> {
    let mut sets = Sets { distinct: vec![Vec::new()], of: vec![0; graph.count()] };
    let mut candidates: Vec<usize> = (0..graph.count()).collect();
    if available >= graph.count() {
        // A primary carries itself, and nothing is added to it any more: in the end each path is alone.
        sets = Sets { distinct: candidates.iter().map(|node| vec![*node]).collect(), of: candidates };
        candidates = Vec::new();
    }
    candidates.sort_by_key(|node| Reverse((graph.nar_size(*node), *node)));
    for primary in candidates {
        match with_primary(graph, &sets, primary, available) {
            Some(next) => sets = next,
            None => break,
        }
    }
    let mut layers: Vec<Layer> = vec![Vec::new(); sets.distinct.len()];
    for (node, set) in sets.of.iter().enumerate() {
        if let Some(layer) = layers.get_mut(*set) {
            layer.push(node);
        }
    }
    layers.retain(|layer| !layer.is_empty());
    for layer in &mut layers {
        layer.sort_by_cached_key(|node| {
            let (head, name) = graph.halves(*node);
            (name, head)
        });
    }
    layers.sort_by_cached_key(|layer| (graph.closure_size(layer), layer.first().copied()));
    layers
}

/// The sets once `primary` is one; nothing if that makes more than `available` layers.
fn with_primary(graph: &Graph, sets: &Sets, primary: usize, available: usize) -> Option<Sets> {
    let (below, above) = (graph.below(primary)?, graph.above(primary)?);
    // What becomes of a set of something that the primary needs depends on the set alone.
    let changed = |set: &Primaries| {
        let mut kept: Primaries = set.iter().copied().filter(|other| !above.has(*other)).collect();
        if !kept.iter().any(|other| below.has(*other))
            && let Err(place) = kept.binary_search(&primary)
        {
            kept.insert(place, primary);
        }
        kept
    };
    let mut next = Sets { distinct: Vec::new(), of: Vec::with_capacity(sets.of.len()) };
    let mut known: HashMap<Primaries, usize> = HashMap::new();
    // By set, and whether the primary needs the path: which of the next ones it becomes.
    let mut becomes: HashMap<(usize, bool), usize> = HashMap::new();
    for (node, old) in sets.of.iter().enumerate() {
        let needed = below.has(node);
        let remembered = becomes.get(&(*old, needed)).copied().filter(|_| node != primary);
        let number = match remembered {
            Some(number) => number,
            None => {
                let old_set = sets.distinct.get(*old)?;
                let set = match (node == primary, needed) {
                    (true, _) => vec![primary],
                    (false, true) => changed(old_set),
                    (false, false) => old_set.clone(),
                };
                let number = *known.entry(set.clone()).or_insert(next.distinct.len());
                if number == next.distinct.len() {
                    next.distinct.push(set);
                }
                if node != primary {
                    becomes.insert((*old, needed), number);
                }
                number
            }
        };
        if next.distinct.len() > available {
            return None;
        }
        next.of.push(number);
    }
    Some(next)
}
