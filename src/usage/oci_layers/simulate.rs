//! Several images at once: which layers they share, what is stored, and what is pulled.

use std::collections::{BTreeSet, HashMap};

use crate::store::StorePath;

/// When two images have the same layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// If it has the same paths in the same order: what a registry stores, and what is pulled.
    Digest,
    /// If all layers below it are the same as well: what overlay2 and containers-storage keep unpacked.
    Chain,
}

/// Images as lists of layers, each distinct layer once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// The distinct layers, in the order in which they are first met.
    pub layers: Vec<Vec<StorePath>>,
    /// For each image its layers from the lowest up, as indexes into `layers`.
    pub images: Vec<Vec<usize>>,
}

/// What images store and pull, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Layers, each once.
    pub distinct: usize,
    /// Those of them that more than one image has.
    pub shared: usize,
    /// All distinct layers: what a registry has that all images were pushed to.
    pub stored: u64,
    /// By image: all its layers.
    pub whole: Vec<u64>,
    /// By image: what is pulled where those before it are there already.
    pub in_order: Vec<u64>,
    /// By image: what is pulled where all others are there already.
    pub with_all_others: Vec<u64>,
}

impl Images {
    /// Of the layers of some images.
    #[must_use]
    pub fn new(images: impl IntoIterator<Item = Vec<Vec<StorePath>>>) -> Self {
        let mut known: HashMap<Vec<StorePath>, usize> = HashMap::new();
        let mut all = Self::default();
        for image in images {
            let mut layers = Vec::with_capacity(image.len());
            for layer in image {
                let next = all.layers.len();
                let number = *known.entry(layer.clone()).or_insert(next);
                if number == next {
                    all.layers.push(layer);
                }
                layers.push(number);
            }
            all.images.push(layers);
        }
        all
    }

    /// The images that have a layer, in order.
    #[must_use]
    pub fn with_layer(&self, layer: usize) -> Vec<usize> {
        let images = self.images.iter().enumerate();
        images.filter(|(_, layers)| layers.contains(&layer)).map(|(image, _)| image).collect()
    }

    /// What they share; `sizes` are those of [`Images::layers`].
    #[must_use]
    pub fn sharing(&self, identity: Identity, sizes: &[u64]) -> Sharing {
        let images: Vec<Vec<(usize, u64)>> = match identity {
            Identity::Digest => {
                self.images.iter().map(|image| sized(image.iter().copied(), image, sizes)).collect()
            }
            Identity::Chain => {
                let mut chains = HashMap::new();
                let mut chained = |image: &Vec<usize>| {
                    let mut below = None;
                    let chain = image.iter().map(|layer| {
                        let next = chains.len();
                        let number = *chains.entry((below, *layer)).or_insert(next);
                        below = Some(number);
                        number
                    });
                    sized(chain, image, sizes)
                };
                self.images.iter().map(&mut chained).collect()
            }
        };
        sharing(&images)
    }
}

/// Numbers that stand for the layers of an image, with their sizes.
fn sized(numbers: impl Iterator<Item = usize>, image: &[usize], sizes: &[u64]) -> Vec<(usize, u64)> {
    numbers
        .zip(image)
        .map(|(number, layer)| (number, sizes.get(*layer).copied().unwrap_or_default()))
        .collect()
}

fn sharing(images: &[Vec<(usize, u64)>]) -> Sharing {
    let sets: Vec<BTreeSet<(usize, u64)>> =
        images.iter().map(|image| image.iter().copied().collect()).collect();
    let mut holders: HashMap<usize, usize> = HashMap::new();
    for (layer, _) in sets.iter().flatten() {
        *holders.entry(*layer).or_default() += 1;
    }
    let mut answer = Sharing {
        distinct: holders.len(),
        shared: holders.values().filter(|count| **count > 1).count(),
        ..Sharing::default()
    };
    let mut there: BTreeSet<usize> = BTreeSet::new();
    for set in &sets {
        let new = set.iter().filter(|(layer, _)| there.insert(*layer)).map(|(_, size)| size).sum();
        let own = set.iter().filter(|(layer, _)| holders.get(layer) == Some(&1)).map(|(_, size)| size).sum();
        answer.stored += new;
        answer.in_order.push(new);
        answer.with_all_others.push(own);
        answer.whole.push(set.iter().map(|(_, size)| size).sum());
    }
    answer
}
