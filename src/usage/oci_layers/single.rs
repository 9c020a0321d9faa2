//! The two ends: a layer for each path, and one for all.

use super::{Graph, Layer};

/// One layer for each path, sorted. The most that can be shared; no runtime stacks that many.
#[must_use]
pub fn per_path(graph: &Graph) -> Vec<Layer> {
    (0..graph.count()).map(|node| vec![node]).collect()
}

/// One layer with all paths, sorted: shared by nobody who has not the very same.
#[must_use]
pub fn per_image(graph: &Graph) -> Vec<Layer> {
    if graph.count() == 0 { Vec::new() } else { vec![(0..graph.count()).collect()] }
}
