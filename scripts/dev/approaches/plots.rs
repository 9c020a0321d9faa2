//! Plots of what was measured, as SVG.

use kuva::backend::svg::SvgBackend;
use kuva::plot::{BarPlot, LinePlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::render_multiple;

use crate::record::Row;
use crate::render::{measured, of_so_many, over};
use crate::stats::{cell, different, spread};

/// Colours that differ in lightness too.
const COLOURS: [&str; 6] = ["#0b3c5d", "#d9822b", "#3f8f5f", "#8a5fbf", "#c0392b", "#7f8c8d"];

/// Name, title and text of each plot.
pub(crate) fn all(rows: &[Row]) -> Vec<(&'static str, &'static str, String)> {
    let timed = different(rows, |row| row.what == "start, cold", |row| &row.environment);
    let median = |approach: &str, what: &str| over(rows, approach, &timed, what).map(|spread| spread.median);
    let of = |what: &str| measured(rows, what);
    let builds = ["initial build", "rebuild after a change", "rebuild without a change"];
    let starts = ["start, cold", "start, warm"];
    let cached = |way: &str, what: &str| {
        spread(&cell(rows, way, what, "page cache").numbers).map(|spread| spread.median / 1e6)
    };
    let together = different(rows, |row| row.what == "page cache", |row| &row.environment);
    vec![
        (
            "build",
            "Builds",
            bars(&of(builds[0]), &builds, "seconds, median of the timed environments", median),
        ),
        (
            "start",
            "Starts",
            bars(&of(starts[1]), &starts, "milliseconds, median of the timed environments", median),
        ),
        ("disk", "Disk of environments", lines(rows)),
        (
            "memory",
            "Page cache of containers",
            bars(&of("page cache"), &together, "MB that the page cache grows", cached),
        ),
    ]
}

/// A group of bars for each of `groups`, with one for each of `whats`.
fn bars(groups: &[&str], whats: &[&str], label: &str, of: impl Fn(&str, &str) -> Option<f64>) -> String {
    if groups.is_empty() {
        return draw(Vec::new(), |layout| layout);
    }
    let mut plot = BarPlot::new();
    for group in groups {
        let bar = |(what, colour): (&&str, &&'static str)| (of(group, what).unwrap_or(0.0), *colour);
        plot = plot.with_group(*group, whats.iter().zip(&COLOURS).map(bar).collect::<Vec<_>>());
    }
    draw(vec![Plot::Bar(plot.with_legend(whats.to_vec()))], |layout| {
        layout.with_y_label(label).with_x_tick_rotate(-35.0)
    })
}

/// What each approach keeps as environments come to it, one after another.
fn lines(rows: &[Row]) -> String {
    let approaches = measured(rows, "disk of so many");
    let line = |(approach, colour): (&&str, &&'static str)| {
        let points =
            of_so_many(rows, approach).into_iter().map(|(count, kept)| (f64::from(count), kept / 1e6));
        let line = LinePlot::new().with_data(points.collect::<Vec<_>>()).with_color(*colour);
        Plot::Line(line.with_stroke_width(2.0).with_legend(*approach))
    };
    let plots = approaches.iter().zip(&COLOURS).map(line).collect();
    draw(plots, |layout| {
        layout.with_x_label("environments, the smallest first").with_y_label("MB beside the shared store")
    })
}

fn draw(plots: Vec<Plot>, with: impl Fn(Layout) -> Layout) -> String {
    let layout = with(Layout::auto_from_plots(&plots)).with_width(900.0).with_height(480.0);
    SvgBackend.render_scene(&render_multiple(plots, layout))
}
