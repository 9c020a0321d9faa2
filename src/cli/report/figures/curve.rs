//! What the first 1, 2, … environments cost together.

use kuva::plot::line::LineStyle;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::plots::Plot;

use super::WIDTH;
use crate::cli::report::colours::SERIES;
use crate::cli::report::data::{Data, Kind};
use crate::cli::report::drawing::{Drawing, Marks, layout, short, unit};

/// The most environments whose names fit.
const NAMES: usize = 40;

/// Draws it.
pub fn draw(data: &Data) -> Option<Drawing> {
    const LINES: [(&str, &str); 3] = [
        ("imagesAllocated", "an image for each"),
        ("oneImageAllocated", "one image with all"),
        ("store", "one store"),
    ];
    let count = data.count("/du/cumulative");
    if count < 2 {
        return None;
    }
    let points = |key: &str| -> Option<Vec<f64>> {
        (0..count)
            .map(|at| Some(data.number(&format!("/du/cumulative/{at}/{key}"), Kind::Bytes)?.value))
            .collect()
    };
    let largest = points("imagesAllocated")?.into_iter().fold(0.0, f64::max);
    let (unit, unit_name) = unit(largest);
    let mut plots = Vec::new();
    for (at, (key, label)) in LINES.into_iter().enumerate() {
        let colour = SERIES.get(at).copied().unwrap_or_default();
        let style = match at {
            0 => LineStyle::Solid,
            1 => LineStyle::Custom("14 8".to_owned()),
            _ => LineStyle::Custom("3 7".to_owned()),
        };
        let line: Vec<(f64, f64)> =
            points(key)?.into_iter().enumerate().map(|(at, value)| ((at + 1) as f64, value / unit)).collect();
        plots.push(Plot::Line(
            LinePlot::new()
                .with_data(line.clone())
                .with_color(colour)
                .with_stroke_width(2.5)
                .with_line_style(style)
                .with_legend(label),
        ));
        if count <= NAMES {
            plots.push(Plot::Scatter(ScatterPlot::new().with_data(line).with_color(colour).with_size(3.5)));
        }
    }
    let step = (count as f64 / 20.0).ceil().max(1.0);
    let mut layout = layout(&plots, WIDTH, 440.0)
        .with_x_label("environments by name, each with all before it")
        .with_y_label(format!("{unit_name} on the disk"))
        .with_y_axis_min(0.0)
        .with_x_axis_min(1.0)
        .with_x_axis_max(count as f64)
        .with_x_tick_step(step);
    if count <= NAMES {
        let names = data.environments().into_iter().map(|name| short(name, 18)).collect();
        layout = layout.with_x_categories(names).with_x_tick_rotate(-40.0);
    }
    Some(Drawing::new(plots, layout, Marks::default()))
}
