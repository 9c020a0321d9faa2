//! What each two environments have in common.

use kuva::plot::Heatmap;
use kuva::plot::histogram2d::ColorMap;
use kuva::render::plots::Plot;
use std::sync::Arc;

use super::{By, WIDTH};
use crate::cli::report::colours;
use crate::cli::report::data::{Data, Kind};
use crate::cli::report::drawing::{Drawing, Mark, Marks, layout, short};

/// The most environments whose names fit, whose numbers fit, and whose fields have titles.
const NAMES: usize = 40;
const NUMBERS: usize = 20;
const TITLES: usize = 60;

/// Draws it.
pub fn draw(data: &Data, by: By) -> Option<Drawing> {
    let (key, label) = match by {
        By::Paths => ("byPaths", "common paths / paths of either"),
        By::Bytes => ("byNar", "common bytes / bytes of either"),
    };
    let names = data.environments();
    let count = names.len();
    if count < 2 {
        return None;
    }
    // The library spreads the colours from the least to the most, which is 1.
    let values = data.list("/du/matrix").iter().flat_map(|row| row.as_array().into_iter().flatten());
    let least = values.filter_map(|common| common.get(key)?.as_f64()).fold(1.0, f64::min);
    let mut rows = Vec::with_capacity(count);
    let mut tooltips = Vec::new();
    let mut marks = Marks::default();
    // The first row is the lowest: the last environment's.
    for at in (0..count).rev() {
        let mut row = Vec::with_capacity(count);
        for other in 0..count {
            let number = data.number(&format!("/du/matrix/{at}/{other}/{key}"), Kind::Ratio)?;
            row.push(number.value);
            let title = format!("{at}/{other}");
            let name = |at: usize| names.get(at).copied().unwrap_or_default();
            let what = format!("{} and {}", name(at), name(other));
            let written =
                (count <= NUMBERS).then(|| colours::on_scale((number.value - least) / (1.0 - least)));
            marks.add(title.clone(), Mark { what, number, written });
            tooltips.push(title);
        }
        rows.push(row);
    }
    let map = ColorMap::Custom(Arc::new(colours::scale));
    let mut plot = Heatmap::new().with_data(rows).with_color_map(map).with_legend(label);
    if count <= TITLES {
        plot = plot.with_tooltip_labels(tooltips);
    }
    let plots = vec![Plot::Heatmap(plot)];
    let side = (count as f64 * 46.0).clamp(220.0, 620.0);
    let mut layout = layout(&plots, WIDTH, side + 140.0);
    if count <= NAMES {
        let labels: Vec<String> = names.iter().map(|name| short(name, 18)).collect();
        layout = layout
            .with_y_categories(labels.iter().rev().cloned().collect())
            .with_x_categories(labels)
            .with_x_tick_rotate(-40.0);
    }
    Some(Drawing::new(plots, layout, marks))
}
