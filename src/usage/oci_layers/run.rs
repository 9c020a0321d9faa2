//! A whole simulation: several environments, several strategies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::archive::{Compression, compressed_sizes};
use super::nixery::Popularity;
use super::{Graph, Images, LayoutError, Strategy, tar_size};
use crate::store::{Location, StorePath};

/// What is simulated.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The environments, in the order in which they are pulled.
    pub environments: &'a [Graph],
    /// The strategies, each with the most layers that an image may have.
    pub strategies: &'a [(Strategy, usize)],
    /// For Nixery.
    pub popularity: &'a Popularity,
    /// Compress each layer as well.
    pub compression: Option<Compression>,
}

/// The environments as images of one strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulated {
    /// The strategy.
    pub strategy: Strategy,
    /// The most layers that an image may have, if the strategy has a limit.
    pub max_layers: Option<usize>,
    /// The layers.
    pub images: Images,
    /// By layer: the bytes of its archive.
    pub sizes: Vec<u64>,
    /// By layer: the bytes of its archive compressed, if that was asked.
    pub compressed: Option<Vec<u64>>,
}

/// What takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looking at store paths.
    Measuring,
    /// Compressing layers.
    Compressing,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A closure cannot be cut.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A store path cannot be looked at or read.
    #[error(transparent)]
    Store(#[from] io::Error),
}

/// Simulates. `progress` is told the step, and how many of how many are done, by any thread.
///
/// A layer that several strategies make is compressed once.
///
/// # Errors
/// [`RunError`].
pub fn run(
    location: &Location,
    asked: &Asked<'_>,
    progress: &(dyn Fn(Step, usize, usize) + Sync),
) -> Result<Vec<Simulated>, RunError> {
    let mut all = Vec::with_capacity(asked.strategies.len());
    for (strategy, max_layers) in asked.strategies {
        let mut images = Vec::with_capacity(asked.environments.len());
        for graph in asked.environments {
            let layers = strategy.layers(graph, *max_layers, asked.popularity)?;
            images.push(layers.iter().map(|layer| graph.named(layer)).collect::<Vec<_>>());
        }
        let max_layers = (!strategy.usual_limits().is_empty()).then_some(*max_layers);
        let images = Images::new(images);
        all.push(Simulated { strategy: *strategy, max_layers, images, sizes: Vec::new(), compressed: None });
    }
    let paths: BTreeSet<&StorePath> = asked.environments.iter().flat_map(|graph| graph.paths()).collect();
    let paths: Vec<StorePath> = paths.into_iter().cloned().collect();
    let sizes = tar_size::of_paths(location, &paths, &|done, total| progress(Step::Measuring, done, total))?;
    for one in &mut all {
        one.sizes = one.images.layers.iter().map(|layer| size(location, layer, &sizes)).collect();
    }
    if let Some(how) = asked.compression {
        compress(location, &mut all, how, &|done, total| progress(Step::Compressing, done, total))?;
    }
    Ok(all)
}

fn size(location: &Location, layer: &[StorePath], sizes: &BTreeMap<StorePath, u64>) -> u64 {
    tar_size::of_layer(&location.dir, layer.iter().filter_map(|path| sizes.get(path).copied()))
}

fn compress(
    location: &Location,
    all: &mut [Simulated],
    how: Compression,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> io::Result<()> {
    let mut distinct: HashMap<&[StorePath], u64> = HashMap::new();
    for one in all.iter() {
        distinct.extend(one.images.layers.iter().map(Vec::as_slice).zip(one.sizes.iter().copied()));
    }
    // The largest first: so no thread ends up alone with one of them.
    let mut order: Vec<(&[StorePath], u64)> = distinct.into_iter().collect();
    order.sort_unstable_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
    let layers: Vec<&[StorePath]> = order.into_iter().map(|(layer, _)| layer).collect();
    let sizes = compressed_sizes(location, &layers, how, progress)?;
    let known: HashMap<Vec<StorePath>, u64> = layers.iter().map(|layer| layer.to_vec()).zip(sizes).collect();
    for one in all {
        let sizes = one.images.layers.iter().map(|layer| known.get(layer).copied().unwrap_or_default());
        one.compressed = Some(sizes.collect());
    }
    Ok(())
}
