//! How the strategies cut environments into layers.

use kuva::plot::BarPlot;
use kuva::render::plots::Plot;
use serde_json::Value;

use super::WIDTH;
use crate::cli::report::colours::SERIES;
use crate::cli::report::data::{Data, Kind, text_of};
use crate::cli::report::drawing::{Drawing, Mark, Marks, layout, legend, unit};

/// The name of a strategy, with its limit.
pub fn name_of(simulation: &Value) -> String {
    let name = text_of(simulation, "strategy");
    match simulation.get("maxLayers").and_then(Value::as_u64) {
        Some(most) => format!("{name} {most}"),
        None => name.to_owned(),
    }
}

/// Where the numbers of a simulation are that are shown: compressed ones if there are any.
pub fn sharing(simulation: &Value) -> &'static str {
    if simulation.get("digestCompressed").is_some() { "digestCompressed" } else { "digest" }
}

/// Draws it.
pub fn draw(data: &Data) -> Option<Drawing> {
    const BARS: [&str; 3] =
        ["stored, each layer once", "pulled by the first environment", "pulled by the last"];
    let simulations = data.list("/layers/simulations");
    let last = data.count("/layers/environments").checked_sub(1)?;
    let mut largest: f64 = 0.0;
    let mut groups = Vec::new();
    for (at, simulation) in simulations.iter().enumerate() {
        let base = format!("/layers/simulations/{at}/{}", sharing(simulation));
        let numbers = [
            data.number(&format!("{base}/stored"), Kind::Bytes)?,
            data.number(&format!("{base}/pulledInOrder/0"), Kind::Bytes)?,
            data.number(&format!("{base}/pulledInOrder/{last}"), Kind::Bytes)?,
        ];
        largest = numbers.iter().map(|number| number.value).fold(largest, f64::max);
        groups.push((name_of(simulation), numbers));
    }
    if groups.is_empty() {
        return None;
    }
    let (unit, unit_name) = unit(largest);
    let mut plot = BarPlot::new();
    let mut titles = Vec::new();
    let mut marks = Marks::default();
    for (name, numbers) in groups {
        let mut bars = Vec::new();
        for (bar, number) in numbers.into_iter().enumerate() {
            let title = titles.len().to_string();
            bars.push((number.value / unit, SERIES.get(bar).copied().unwrap_or_default()));
            let what = format!("{name}, {}", BARS.get(bar).copied().unwrap_or_default());
            marks.add(title.clone(), Mark { what, number, written: None });
            titles.push(title);
        }
        plot = plot.with_group(name, bars);
    }
    let plots = vec![Plot::Bar(plot.with_tooltips().with_tooltip_labels(titles))];
    let layout = layout(&plots, WIDTH, 480.0)
        .with_y_label(unit_name)
        .with_legend_entries(legend(&BARS))
        .with_x_tick_rotate(-30.0);
    Some(Drawing::new(plots, layout, marks))
}
