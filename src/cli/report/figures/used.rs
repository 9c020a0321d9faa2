//! What of an environment was used: store paths, and the files in them that were opened, against all.

use kuva::plot::BarPlot;
use kuva::render::plots::Plot;

use super::WIDTH;
use crate::cli::report::colours::SERIES;
use crate::cli::report::data::{Data, Kind, text_of};
use crate::cli::report::drawing::{Drawing, Mark, Marks, layout, legend, short, unit};

/// Draws it.
pub fn draw(data: &Data) -> Option<Drawing> {
    const PARTS: [(&str, &str); 3] = [
        ("closure/allocated", "all store paths"),
        ("touched/allocated", "store paths that were used"),
        ("files/usedAllocated", "files that were opened"),
    ];
    let traces = data.list("/traces");
    let mut largest: f64 = 0.0;
    let mut rows = Vec::new();
    for (at, trace) in traces.iter().enumerate() {
        let name = text_of(trace, "environment");
        let mut numbers = Vec::new();
        for (key, label) in PARTS {
            numbers.push((label, data.number(&format!("/traces/{at}/{key}"), Kind::Bytes)?));
        }
        largest = numbers.iter().map(|(_, number)| number.value).fold(largest, f64::max);
        rows.push((name, numbers));
    }
    if rows.is_empty() {
        return None;
    }
    let (unit, unit_name) = unit(largest);
    // A few bars are not as wide as the figure.
    let mut plot = BarPlot::new().with_width((0.2 * rows.len() as f64).min(0.8));
    let mut titles = Vec::new();
    let mut marks = Marks::default();
    for (name, numbers) in rows {
        let mut bars = Vec::new();
        for (bar, (label, number)) in numbers.into_iter().enumerate() {
            let title = titles.len().to_string();
            bars.push((number.value / unit, SERIES.get(bar).copied().unwrap_or_default()));
            marks.add(title.clone(), Mark { what: format!("{name}, {label}"), number, written: None });
            titles.push(title);
        }
        plot = plot.with_group(short(name, 18), bars);
    }
    let plots = vec![Plot::Bar(plot.with_tooltips().with_tooltip_labels(titles))];
    let layout = layout(&plots, WIDTH, 420.0)
        .with_y_label(unit_name)
        .with_legend_entries(legend(&PARTS.map(|(_, label)| label)));
    Some(Drawing::new(plots, layout, marks))
}
