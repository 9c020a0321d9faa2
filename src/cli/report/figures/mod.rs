//! The figures of a report, each from the JSON that it shows.

use super::data::Data;
use super::drawing::Drawing;

pub mod curve;
pub mod layers;
pub mod matrix;
pub mod pulls;
pub mod treemap;
pub mod used;

pub use treemap::{OTHERS, Tile, name_of, tiles};

/// The width of a figure.
const WIDTH: f64 = 960.0;

/// Of which the treemaps are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// All environments together.
    All,
    /// The environment of this index.
    One(usize),
}

/// By what two environments are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The number of common store paths.
    Paths,
    /// The lengths of their NARs.
    Bytes,
}

/// Which figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The store paths as areas.
    Treemap(Of),
    /// What each two have in common, by this.
    Matrix(By),
    /// What the first 1, 2, … cost together.
    Curve,
    /// How the strategies cut layers.
    Layers,
    /// What the first and the last environment pull.
    Pulls,
    /// Used against unused.
    Used,
}

impl Which {
    /// Its name in the page: letters, digits and dashes.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            Self::Treemap(Of::All) => "treemap".to_owned(),
            Self::Treemap(Of::One(at)) => format!("treemap-{}", at + 1),
            Self::Matrix(By::Paths) => "matrix".to_owned(),
            Self::Matrix(By::Bytes) => "matrix-bytes".to_owned(),
            Self::Curve => "curve".to_owned(),
            Self::Layers => "layers".to_owned(),
            Self::Pulls => "pulls".to_owned(),
            Self::Used => "used".to_owned(),
        }
    }

    /// Draws it; nothing if there is nothing to draw.
    #[must_use]
    pub fn draw(self, data: &Data) -> Option<Drawing> {
        match self {
            Self::Treemap(of) => treemap::draw(data, of),
            Self::Matrix(by) => matrix::draw(data, by),
            Self::Curve => curve::draw(data),
            Self::Layers => layers::draw(data),
            Self::Pulls => pulls::draw(data),
            Self::Used => used::draw(data),
        }
    }
}

/// The most environments of which each has a treemap; of more, those that take most.
pub const TREEMAPS: usize = 24;

/// The environments that have a treemap of their own, in the order given.
#[must_use]
pub fn with_treemap(data: &Data) -> Vec<usize> {
    let size = |at: usize| {
        data.get(&format!("/du/environments/{at}/whole/allocated")).and_then(serde_json::Value::as_u64)
    };
    let mut all: Vec<usize> = (0..data.count("/du/environments")).collect();
    if all.len() < 2 {
        return Vec::new();
    }
    all.sort_by_key(|at| std::cmp::Reverse(size(*at)));
    all.truncate(TREEMAPS);
    all.sort_unstable();
    all
}

/// All figures of a report.
#[must_use]
pub fn all(data: &Data) -> Vec<Which> {
    let mut all = vec![Which::Treemap(Of::All)];
    all.extend(with_treemap(data).into_iter().map(|at| Which::Treemap(Of::One(at))));
    all.extend([Which::Matrix(By::Paths), Which::Matrix(By::Bytes)]);
    all.extend([Which::Curve, Which::Layers, Which::Pulls, Which::Used]);
    all
}
