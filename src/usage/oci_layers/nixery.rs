//! What Nixery does (`layers/layers.go`): a layer is a path with all that is needed through it alone.
//!
//! A root refers to what the environment starts from, and to each path that is large or popular. Below the root, a path and all that
//! it dominates (that no walk from the root reaches but through it) are a layer. Where these are too many, those with the
//! least rating are merged.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Graph, Layer};

/// How many paths refer to paths of a name.
pub type Popularity = BTreeMap<String, u64>;

/// Layers before Nixery's last, which has the links of the environment.
pub const BUDGET: usize = 94;

/// A path of which the closure is larger, in bytes, is referred to by the root.
const LARGE: u64 = 100_000_000;

/// So is a path of this popularity.
const POPULAR: u64 = 100;

/// What every image has.
const EVERYWHERE: [&str; 2] = ["nss-cacert", "iana-etc"];
const POPULARITY_EVERYWHERE: u64 = 500_000;

/// The popularity by name: of each path, as often as `referrers` says that one refers to it. Names with one are left out, as
/// those that are not known count one as well.
#[must_use]
pub fn popularity<'n>(referrers: impl IntoIterator<Item = (&'n str, u64)>) -> Popularity {
    let mut all = Popularity::new();
    for (name, count) in referrers {
        let sum = all.entry(name.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }
    all.retain(|_, count| *count > 1);
    all
}

fn popularity_of(name: &str, popularity: &Popularity) -> u64 {
    if EVERYWHERE.iter().any(|start| name.starts_with(start)) {
        return POPULARITY_EVERYWHERE;
    }
    popularity.get(name).copied().unwrap_or(1)
}

/// A layer before merging.
struct Rated {
    rating: u64,
    nodes: Layer,
}

/// At most `budget` layers (at least one), the highest rated first.
///
/// Of two that are rated alike the one is first whose contents are: Nixery leaves that open.
#[must_use]
pub fn layers(graph: &Graph, popularity: &Popularity, budget: usize) -> Vec<Layer> {
    let closure_sizes: Vec<u64> = (0..graph.count()).map(|node| graph.closure_size(&[node])).collect();
    let closure_size = |node: usize| closure_sizes.get(node).copied().unwrap_or_default();
    let mut rated: Vec<Rated> = dominated(graph, popularity, closure_size)
        .into_iter()
        .map(|(top, nodes)| {
            // The closures of a layer's paths overlap, and are counted again and again, as Nixery does.
            let size = nodes.iter().fold(0_u64, |sum, node| sum.wrapping_add(closure_size(*node)));
            Rated { rating: size.wrapping_mul(popularity_of(graph.name(top), popularity)), nodes }
        })
        .collect();
    rated.sort_by(|a, b| (a.rating, &a.nodes).cmp(&(b.rating, &b.nodes)));
    // The first two become one and stay first, until they are few enough.
    let merged = rated.len().saturating_sub(budget.max(1));
    let mut rest = rated.split_off((merged + 1).min(rated.len())).into_iter();
    let mut all: Vec<Rated> = Vec::with_capacity(budget.min(graph.count()));
    all.extend(rated.into_iter().reduce(|mut first, second| {
        first.rating = first.rating.wrapping_add(second.rating);
        first.nodes.extend(second.nodes);
        first
    }));
    all.extend(&mut rest);
    all.sort_by(|a, b| (Reverse(a.rating), &a.nodes).cmp(&(Reverse(b.rating), &b.nodes)));
    all.into_iter().map(|layer| layer.nodes).collect()
}

/// What the root dominates directly, each with all that it dominates, sorted.
fn dominated(
    graph: &Graph,
    popularity: &Popularity,
    closure_size: impl Fn(usize) -> u64,
) -> BTreeMap<usize, Layer> {
    let tops = graph.tops();
    // By path: the child of the root that it is below in the dominator tree. In an order where referrers come first this needs no more
    // than theirs: below one child if all are, else the root alone dominates it.
    let mut child_of = vec![usize::MAX; graph.count()];
    for node in graph.order() {
        let of_root = tops.binary_search(node).is_ok()
            || closure_size(*node) > LARGE
            || popularity_of(graph.name(*node), popularity) >= POPULAR;
        let mut above = graph.referrers(*node).iter().filter_map(|other| child_of.get(*other).copied());
        let child = match above.next() {
            Some(first) if !of_root && above.all(|other| other == first) => first,
            _ => *node,
        };
        if let Some(slot) = child_of.get_mut(*node) {
            *slot = child;
        }
    }
    let mut all: BTreeMap<usize, Layer> = BTreeMap::new();
    for (node, child) in child_of.into_iter().enumerate() {
        all.entry(child).or_default().push(node);
    }
    all
}
