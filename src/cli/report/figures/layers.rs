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

/// Draws what is stored.
pub fn draw(data: &Data) -> Option<Drawing> {
    bars(data, &[("stored, each layer once", "stored".to_owned())])
}

/// Draws bars for each strategy: what they are, and where their numbers are in what [`sharing`] names.
pub(super) fn bars(data: &Data, what: &[(&'static str, String)]) -> Option<Drawing> {
    let mut largest: f64 = 0.0;
    let mut groups = Vec::new();
    for (at, simulation) in data.list("/layers/simulations").iter().enumerate() {
        let base = format!("/layers/simulations/{at}/{}", sharing(simulation));
        let numbers = what.iter().map(|(_, key)| data.number(&format!("{base}/{key}"), Kind::Bytes));
        let numbers = numbers.collect::<Option<Vec<_>>>()?;
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
        for (bar, (number, (label, _))) in numbers.into_iter().zip(what).enumerate() {
            let title = titles.len().to_string();
            bars.push((number.value / unit, SERIES.get(bar).copied().unwrap_or_default()));
            marks.add(title.clone(), Mark { what: format!("{name}, {label}"), number, written: None });
            titles.push(title);
        }
        plot = plot.with_group(name, bars);
    }
    let plots = vec![Plot::Bar(plot.with_tooltips().with_tooltip_labels(titles))];
    let labels: Vec<&str> = what.iter().map(|(label, _)| *label).collect();
    let layout = layout(&plots, WIDTH, 480.0)
        .with_y_label(unit_name)
        .with_legend_entries(legend(&labels))
        .with_x_tick_rotate(-30.0);
    Some(Drawing::new(plots, layout, marks))
}
