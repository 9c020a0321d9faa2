//! How environments would look as OCI images, by the ways in which the usual tools cut a closure into layers.
//!
//! | strategy | tool | file |
//! |---|---|---|
//! | popularity | nixpkgs `dockerTools`, 19.03 to 25.05 | `popularity` |
//! | auto | nixpkgs `dockerTools`, since 25.11 | `auto_layer` |
//! | nixery | Nixery of 2025-11 | `nixery` |
//! | nix2container | nix2container of 2026-03 | `nix2container` |
//! | per-path, per-image | none; the two ends | `single` |
//!
//! [`Graph`] is a closure, `recorded` makes it of Nix's records, [`Strategy::layers`] cuts it, `tar_size` and `archive` tell how large a
//! layer is, and [`Images`] what several images store and pull; `run` does all of that. The strategies are functions of plain data; where their tools leave an order open, the files say
//! which one is taken here.
//!
//! Layers are those of store paths: what tools add for links, `/etc` and the like is left out, as is what of the graph is there for
//! that alone. All are measured as one kind of archive, so that a difference is one of the strategy.

pub mod archive;
pub mod auto_layer;
mod bits;
pub mod graph;
pub mod nix2container;
pub mod nixery;
pub mod popularity;
pub mod recorded;
pub mod run;
pub mod simulate;
pub mod single;
pub mod tar_size;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;

use crate::store::StorePath;

pub use graph::Graph;
pub use simulate::{Identity, Images, Sharing};

/// The paths of a layer in the order of its archive, as indexes into a graph's.
pub type Layer = Vec<usize>;

/// Why a closure cannot be cut into layers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More paths than are worked on.
    #[error("the closure has {count} paths, and layers are simulated for at most {}", graph::MAX_PATHS)]
    TooMany {
        /// How many it has.
        count: usize,
    },
    /// Not what a closure is.
    #[error("the records of the closure are damaged: {0}")]
    Malformed(&'static str),
    /// Paths that need each other.
    #[error("{} needs itself through other paths, and no tool orders such a closure", shown(.0.as_ref()))]
    Cycle(Option<StorePath>),
    /// A number that does not fit.
    #[error("more ways lead to {} than can be counted", shown(.0.as_ref()))]
    Popularity(Option<StorePath>),
    /// Fewer layers than the strategy needs.
    #[error("the strategy {strategy} needs at least {least} layers, and {given} is less")]
    TooFew {
        /// The strategy.
        strategy: Strategy,
        /// What it needs.
        least: usize,
        /// What it was given.
        given: usize,
    },
}

fn shown(path: Option<&StorePath>) -> &str {
    path.map_or("a path", StorePath::as_str)
}

/// A way to cut a closure into layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strategy {
    /// nixpkgs' popularity contest.
    Popularity,
    /// nixpkgs' default since 25.11.
    AutoLayer,
    /// Nixery's.
    Nixery,
    /// nix2container's.
    Nix2container,
    /// A layer for each path.
    PerPath,
    /// A layer for each image.
    PerImage,
}

impl Strategy {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 6] =
        [Self::Popularity, Self::AutoLayer, Self::Nixery, Self::Nix2container, Self::PerPath, Self::PerImage];

    /// What it is called on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Popularity => "popularity",
            Self::AutoLayer => "auto",
            Self::Nixery => "nixery",
            Self::Nix2container => "nix2container",
            Self::PerPath => "per-path",
            Self::PerImage => "per-image",
        }
    }

    /// How many layers an image has at most where nobody says it; nothing for the two that know no limit.
    ///
    /// nix2container's own default is one layer: that is [`Strategy::PerImage`].
    #[must_use]
    pub fn usual_limits(self) -> &'static [usize] {
        match self {
            Self::Popularity | Self::AutoLayer | Self::Nix2container => &[100, 125],
            Self::Nixery => &[nixery::BUDGET + 1],
            Self::PerPath | Self::PerImage => &[],
        }
    }

    /// The layers of a closure, from the lowest up; together they have each path once.
    ///
    /// `max_layers` is that of the image: the tools of nixpkgs and Nixery need one of them for what is in no store path. It is
    /// ignored by those without [`Strategy::usual_limits`].
    ///
    /// # Errors
    /// If there are too few layers, or numbers do not fit.
    pub fn layers(
        self,
        graph: &Graph,
        max_layers: usize,
        popularity: &nixery::Popularity,
    ) -> Result<Vec<Layer>, LayoutError> {
        let least = match self {
            Self::Popularity | Self::AutoLayer | Self::Nixery => 2,
            Self::Nix2container => 1,
            Self::PerPath | Self::PerImage => 0,
        };
        if max_layers < least {
            return Err(LayoutError::TooFew { strategy: self, least, given: max_layers });
        }
        let available = max_layers.saturating_sub(1);
        match self {
            Self::Popularity => popularity::layers(graph, available),
            Self::AutoLayer => Ok(auto_layer::layers(graph, available)),
            Self::Nixery => Ok(nixery::layers(graph, popularity, available)),
            Self::Nix2container => Ok(nix2container::layers(graph, max_layers)),
            Self::PerPath => Ok(single::per_path(graph)),
            Self::PerImage => Ok(single::per_image(graph)),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
