//! The store paths of a closure as areas.

use kuva::plot::treemap::{TreemapColorMode, TreemapLayout, TreemapNode, TreemapPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use serde_json::Value;

use super::{Of, WIDTH};
use crate::cli::report::colours;
use crate::cli::report::data::{Data, Kind, Number, text_of};
use crate::cli::report::drawing::{Drawing, Mark, Marks, clean};

/// What the small paths of a group are called together.
pub const OTHERS: &str = "others";

/// How many store paths are areas of their own, of all environments and of one.
const MOST: [usize; 2] = [100, 60];

/// An area.
#[derive(Clone, Debug)]
pub struct Tile {
    /// By how many environments it is had: see [`Tile::group_name`].
    pub group: usize,
    /// The index in the list of paths; none for what was put together.
    pub path: Option<usize>,
    /// How many paths it is.
    pub count: usize,
    /// How much.
    pub number: Number,
}

impl Tile {
    /// What the paths of a group have in common.
    #[must_use]
    pub fn group_name(group: usize, of: Of, environments: usize) -> &'static str {
        match (group, of, environments) {
            (_, _, 1) => "the closure",
            (0, Of::All, _) => "in one environment",
            (0, Of::One(_), _) => "in no other environment",
            (1, ..) => "in several",
            _ => "in all environments",
        }
    }
}

/// The name of a store path, without directory and hash.
pub fn name_of(path: &str) -> &str {
    let base = path.rsplit('/').next().unwrap_or(path);
    base.split_once('-').map_or(base, |(_, name)| name)
}

/// The areas of a treemap: by group, the largest first, what was put together last.
#[must_use]
pub fn tiles(data: &Data, of: Of) -> Vec<Tile> {
    let environments = data.count("/du/environments");
    let (most, wanted) = match of {
        Of::All => (MOST[0], None),
        Of::One(at) => (MOST[1], data.get(&format!("/du/environments/{at}/name"))),
    };
    let mut groups: [Vec<(usize, u64)>; 3] = Default::default();
    let mut sizes: Vec<u64> = Vec::new();
    for (at, path) in data.list("/du/paths").iter().enumerate() {
        let users = path.get("environments").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let size = path.get("allocated").and_then(Value::as_u64).unwrap_or_default();
        if size == 0 || users.is_empty() || wanted.is_some_and(|wanted| !users.contains(wanted)) {
            continue;
        }
        let group = if users.len() == environments { 2 } else { usize::from(users.len() > 1) };
        if let Some(group) = groups.get_mut(group) {
            group.push((at, size));
        }
        sizes.push(size);
    }
    sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
    let least = sizes.get(most).copied().unwrap_or_default();
    let mut tiles = Vec::new();
    for (group, mut paths) in groups.into_iter().enumerate() {
        paths.sort_by_key(|(at, size)| (std::cmp::Reverse(*size), *at));
        let mut rest = Vec::new();
        for (at, size) in paths {
            if size > least || least == 0 {
                let number = data.number(&format!("/du/paths/{at}/allocated"), Kind::Bytes);
                tiles.extend(number.map(|number| Tile { group, path: Some(at), count: 1, number }));
            } else {
                rest.push(at);
            }
        }
        rest.sort_unstable();
        if !rest.is_empty() {
            let count = rest.len();
            let number = data.sum("/du/paths", "allocated", rest, Kind::Bytes);
            tiles.push(Tile { group, path: None, count, number });
        }
    }
    tiles
}

/// Draws it.
pub fn draw(data: &Data, of: Of) -> Option<Drawing> {
    let environments = data.count("/du/environments");
    let tiles = tiles(data, of);
    // Its squares are not square: it lays strips along the longer side. Halves are better.
    let mut plot = TreemapPlot::new()
        .with_layout(TreemapLayout::Binary)
        .with_color_mode(TreemapColorMode::Explicit)
        .with_min_label_area(900.0)
        .with_padding(2.0);
    let mut marks = Marks::default();
    for group in 0..3 {
        let title = Tile::group_name(group, of, environments);
        let colour = colours::AREAS.get(group).copied().unwrap_or(colours::INK);
        let mut children = Vec::new();
        for tile in tiles.iter().filter(|tile| tile.group == group) {
            let (label, what) = match tile.path.and_then(|at| data.list("/du/paths").get(at)) {
                Some(path) => (name_of(text_of(path, "path")).to_owned(), text_of(path, "path").to_owned()),
                None => (format!("{} {OTHERS}", tile.count), format!("{} {OTHERS}, {title}", tile.count)),
            };
            let label = clean(&label);
            marks.add(
                format!("{title} > {label}\n{:.4}", tile.number.value),
                Mark { what, number: tile.number.clone(), written: None },
            );
            children.push(TreemapNode::leaf_colored(label, tile.number.value, colour));
        }
        if !children.is_empty() {
            let mut node = TreemapNode::new(title, children);
            node.color = Some(colours::FRAME.to_owned());
            plot = plot.with_node(node);
        }
    }
    if plot.roots.is_empty() {
        return None;
    }
    let plots = vec![Plot::Treemap(plot)];
    let layout = Layout::auto_from_plots(&plots)
        .with_width(WIDTH)
        .with_height(540.0)
        .with_force_margins(2.0, 2.0)
        .with_force_margins_y(2.0, 2.0);
    Some(Drawing::new(plots, layout, marks))
}
