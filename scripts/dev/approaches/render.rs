//! Tables of what was measured, put into a document between two marks.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::build::Approach;
use crate::plots;
use crate::record::Row;
use crate::start::{STARTS_AT_ONCE, Way};
use crate::stats::{Cell, Spread, cell, different, spread};

const BEGIN: &str = "<!-- measured: what is between these marks is written by scripts/thesis -->";
const END: &str = "<!-- measured: end -->";

/// The lines of the overview: what it is, what it is built as, and how it is started.
const OVERVIEW: [(&str, &str, &str); 8] = [
    ("1, nixview by overlayfs, in a container", "nixview", "nixview by overlayfs, runc"),
    ("1, nixview with a server, in a container", "nixview", "nixview, runc"),
    ("1, nixview, as a shell", "nixview", "nixview shell"),
    ("1, nix-shell", "nix-shell", "nix-shell"),
    ("2, image of one layer", "image, one layer", "image of one layer, runc"),
    ("2, image of layers", "image, layered", "image of layers, runc"),
    ("bind mounts", "bind mounts", "bind mounts, runc"),
    ("copied closure", "copied closure", "copied closure, runc"),
];

const BUILDS: [&str; 3] = ["initial build", "rebuild after a change", "rebuild without a change"];
const STARTS: [&str; 2] = ["start, cold", "start, warm"];
const ALL_STARTS: [&str; 3] = [STARTS[0], STARTS[1], STARTS_AT_ONCE];

/// Replaces what is between the marks of the document, and writes the plots beside it.
pub(crate) fn document(rows: &[Row], path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a document without a name")?;
    let dir = path.parent().ok_or("a document without a directory")?;
    let mut measured = tables(rows);
    measured.push_str("\n### Plots\n\n");
    for (name, title, svg) in plots::all(rows) {
        let file = format!("{stem}-{name}.svg");
        fs::write(dir.join(&file), svg)?;
        writeln!(measured, "![{title}]({file})\n")?;
    }
    Ok(fs::write(path, between(&text, &measured)?)?)
}

/// The text with something else between the marks.
fn between(text: &str, measured: &str) -> Result<String> {
    let marks = "the document has not both marks";
    let (before, rest) = text.split_once(BEGIN).ok_or(marks)?;
    let (_, after) = rest.split_once(END).ok_or(marks)?;
    Ok(format!("{before}{BEGIN}\n{}\n\n{END}{after}", measured.trim()))
}

fn tables(rows: &[Row]) -> String {
    [machine(rows), overview(rows), builds(rows), starts(rows), disk(rows), memory(rows), failures(rows)]
        .concat()
}

/// A table with a head, and a line for each of `lines`.
fn table(head: &[String], lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for line in lines {
        text.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    text.push('\n');
    text
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn machine(rows: &[Row]) -> String {
    let notes = rows.iter().filter(|row| row.approach == "machine" && row.what != "approaches");
    let lines = notes.map(|row| vec![row.what.clone(), row.value.clone()]);
    let store = |what: &str| middle(&cell(rows, "store", "all", what));
    let more = [
        (
            "paths of the store",
            format!(
                "{:.0}, of which {:.0} in the closures of {} environments",
                store("paths"),
                store("paths of the closures"),
                environments(rows).len()
            ),
        ),
        (
            "disk of these closures, each path once",
            format!("{} MB", megabytes(store("disk of all closures"))),
        ),
        ("building the store, first path to last", format!("{:.0} s", store("build of the store"))),
    ];
    let more = more.map(|(what, value)| vec![what.to_owned(), value]);
    format!("### Machine and store\n\n{}", table(&texts(&["", ""]), lines.chain(more)))
}

fn environments(rows: &[Row]) -> Vec<&str> {
    different(rows, |row| row.approach == "store" && row.environment != "all", |row| &row.environment)
}

fn timed(rows: &[Row]) -> Vec<&str> {
    different(rows, |row| row.what == STARTS[0], |row| &row.environment)
}

/// The median of numbers; not a number of none.
fn middle(cell: &Cell) -> f64 {
    spread(&cell.numbers).map_or(f64::NAN, |spread| spread.median)
}

/// The median over environments of their medians, and the range of these.
pub(crate) fn over(rows: &[Row], approach: &str, environments: &[&str], what: &str) -> Option<Spread> {
    let of = |environment: &&str| spread(&cell(rows, approach, environment, what).numbers);
    spread(&environments.iter().filter_map(of).map(|spread| spread.median).collect::<Vec<_>>())
}

/// What an approach keeps after the last environment was built beside all others.
pub(crate) fn of_so_many(rows: &[Row], approach: &str) -> Vec<(u32, f64)> {
    let fits = |row: &&Row| row.approach == approach && row.what == "disk of so many";
    rows.iter().filter(fits).filter_map(|row| Some((row.run, row.value.parse().ok()?))).collect()
}

fn overview(rows: &[Row]) -> String {
    let (all, timed) = (environments(rows), timed(rows));
    let count = all.len();
    let containers = rows.iter().find(|row| row.what == "containers together");
    let head: Vec<String> = [
        "approach",
        "initial build, s",
        "rebuild after a change, s",
        "rebuild without a change, s",
        "start cold, ms",
        "start warm, ms",
        "layers",
        "disk of one, MB",
    ]
    .iter()
    .map(|word| (*word).to_owned())
    .chain([
        format!("disk of {count}, MB"),
        "with the store, MB".to_owned(),
        format!("page cache of {}, MB", containers.map_or("containers", |row| &row.value)),
    ])
    .collect();
    let closures = middle(&cell(rows, "store", "all", "disk of all closures"));
    let line = |(title, approach, way): (&str, &str, &str)| {
        let seconds = |what| shown(over(rows, approach, &timed, what), 1.0);
        let mut line = vec![title.to_owned()];
        line.extend(BUILDS.map(seconds));
        line.extend(STARTS.map(|what| shown(over(rows, way, &timed, what), 1.0)));
        line.push(shown(over(rows, approach, &all, "layers"), 1.0));
        line.push(shown(over(rows, approach, &all, "disk"), 1e6));
        let kept = of_so_many(rows, approach).last().map_or(f64::NAN, |(_, kept)| *kept);
        line.push(megabytes(kept));
        line.push(megabytes(kept + closures));
        line.push(shown(spread(&cell(rows, way, "by turns", "page cache").numbers), 1e6));
        line
    };
    let text = table(&head, OVERVIEW.map(line));
    format!(
        "### The table\n\nTimes are the median over the timed environments ({}) of each one's median, disk and layers that over all {count}; in brackets the least and \
         the greatest. Page cache is the median of the rounds, with their range.\n\n{text}",
        timed.join(", ")
    )
}

/// What has rows of a measurement, in the order of the approaches and not in that of the rows.
pub(crate) fn measured<'a>(rows: &'a [Row], what: &str) -> Vec<&'a str> {
    let mut found = different(rows, |row| row.what == what, |row| &row.approach);
    let order = Approach::ALL.map(Approach::key).into_iter().chain(Way::ALL.map(Way::key));
    let order: Vec<&str> = order.collect();
    found.sort_by_key(|approach| order.iter().position(|other| other == approach));
    found
}

fn builds(rows: &[Row]) -> String {
    let approaches = measured(rows, BUILDS[0]);
    per_environment(rows, "Builds", &BUILDS, "s", &approaches)
}

fn starts(rows: &[Row]) -> String {
    let ways = measured(rows, STARTS[0]);
    let whats: Vec<&str> =
        ALL_STARTS.into_iter().filter(|what| rows.iter().any(|row| row.what == *what)).collect();
    per_environment(rows, "Starts", &whats, "ms", &ways) + &beside_binds(rows, &ways)
}

/// The starts of each way beside those of bind mounts by the same runtime: the k-th measurements are a pair.
fn beside_binds(rows: &[Row], ways: &[&str]) -> String {
    let timed = timed(rows);
    let mut text = String::new();
    for what in ALL_STARTS {
        let line = |way: &&str| {
            let (_, runtime) = way.rsplit_once(", ")?;
            let binds = format!("bind mounts, {runtime}");
            if **way == binds {
                return None;
            }
            let ratios = timed.iter().map(|environment| {
                let [own, beside] = [*way, &binds].map(|way| cell(rows, way, environment, what).numbers);
                let pairs: Vec<f64> = own.iter().zip(&beside).map(|(own, beside)| own / beside).collect();
                shown(spread(&pairs), 1.0)
            });
            let ratios: Vec<String> = ratios.collect();
            ratios.iter().any(|ratio| ratio != "–").then(|| [vec![(*way).to_owned()], ratios].concat())
        };
        let lines: Vec<Vec<String>> = ways.iter().filter_map(line).collect();
        if !lines.is_empty() {
            let head: Vec<String> = [""].iter().chain(&timed).map(|word| (*word).to_owned()).collect();
            let table = table(&head, lines);
            text.push_str(&format!(
                "**{what}**, ratio to bind mounts of the same round: median (least–greatest)\n\n{table}"
            ));
        }
    }
    text
}

/// A table for each measurement: lines are approaches, columns the timed environments.
fn per_environment(rows: &[Row], title: &str, whats: &[&str], unit: &str, approaches: &[&str]) -> String {
    let timed = timed(rows);
    let mut text = format!("### {title}\n\n");
    for what in whats {
        let most =
            approaches.iter().flat_map(|a| timed.iter().map(|e| cell(rows, a, e, what).numbers.len())).max();
        text.push_str(&format!("**{what}**, {unit}: median (least–greatest) of {}\n\n", most.unwrap_or(0)));
        let head: Vec<String> = [""].iter().chain(&timed).map(|word| (*word).to_owned()).collect();
        let line = |approach: &&str| {
            let cells = timed.iter().map(|environment| told(&cell(rows, approach, environment, what), 1.0));
            std::iter::once((*approach).to_owned()).chain(cells).collect()
        };
        text.push_str(&table(&head, approaches.iter().map(line)));
    }
    text
}

fn disk(rows: &[Row]) -> String {
    let approaches = measured(rows, "disk");
    let head: Vec<String> = ["environment", "paths", "closure, MB", "layers"]
        .iter()
        .map(|word| (*word).to_owned())
        .chain(approaches.iter().map(|approach| format!("{approach}, MB")))
        .chain(["blobs of one layer, MB".to_owned(), "blobs of layers, MB".to_owned()])
        .collect();
    let images = ["image, one layer", "image, layered"];
    let line = |environment: &&str| {
        let of = |approach, what, unit| told(&cell(rows, approach, environment, what), unit);
        let mut line =
            vec![(*environment).to_owned(), of("store", "paths", 1.0), of("store", "closure", 1e6)];
        line.push(of(images[1], "layers", 1.0));
        line.extend(approaches.iter().map(|approach| of(approach, "disk", 1e6)));
        line.extend(images.map(|image| of(image, "blobs", 1e6)));
        line
    };
    let all = || {
        let of = |approach, what, unit| told(&cell(rows, approach, "all", what), unit);
        let mut line = vec!["all together".to_owned(), of("store", "paths of the closures", 1.0)];
        line.extend([of("store", "disk of all closures", 1e6), of(images[1], "layers", 1.0)]);
        let kept = |approach: &&str| of_so_many(rows, approach).last().map_or(f64::NAN, |(_, kept)| *kept);
        line.extend(approaches.iter().map(|approach| megabytes(kept(approach))));
        line.extend(images.map(|image| of(image, "blobs", 1e6)));
        line
    };
    let text = table(&head, environments(rows).iter().map(line).chain([all()]));
    format!(
        "### Layers and disk\n\nWhat each keeps beside the shared store. Images: compressed blobs, and each layer unpacked once; layers are those of `image, layered`. Of \
         nixview, nix-shell and bind mounts what was added as this environment came to those above.\n\n{text}"
    )
}

fn memory(rows: &[Row]) -> String {
    let ways = measured(rows, "page cache");
    let which = different(rows, |row| row.what == "page cache", |row| &row.environment);
    let what = ["page cache", "anonymous memory", "kernel memory", "shared memory", "PSS of nixview"];
    let mut text = "### Memory of containers together\n\n".to_owned();
    for which in which {
        let head: Vec<String> = [""].iter().chain(&what).map(|word| (*word).to_owned()).collect();
        let line = |way: &&str| {
            let cells = what.iter().map(|what| told(&cell(rows, way, which, what), 1e6));
            std::iter::once((*way).to_owned()).chain(cells).collect()
        };
        text.push_str(&format!("**{which}**, MB: median (least–greatest)\n\n"));
        text.push_str(&table(&head, ways.iter().map(line)));
    }
    text
}

fn failures(rows: &[Row]) -> String {
    let failed = rows.iter().filter(|row| !row.failure.is_empty());
    let line = |row: &Row| {
        vec![row.approach.clone(), row.environment.clone(), row.what.clone(), row.failure.replace('|', "¦")]
    };
    let lines: Vec<_> = failed.map(line).collect();
    if lines.is_empty() {
        return "No measurement failed.\n".to_owned();
    }
    format!("### What failed\n\n{}", table(&texts(&["approach", "environment", "what", "why"]), lines))
}

/// Numbers of one kind: their median and spread, and how many failed.
fn told(cell: &Cell, unit: f64) -> String {
    let text = match spread(&cell.numbers) {
        None if cell.failures == 0 => return "–".to_owned(),
        None => return "failed".to_owned(),
        found => shown(found, unit),
    };
    if cell.failures > 0 { format!("{text}, {} failed", cell.failures) } else { text }
}

fn shown(found: Option<Spread>, unit: f64) -> String {
    let Some(found) = found else { return "–".to_owned() };
    let [median, least, greatest] = [found.median, found.least, found.greatest].map(|n| short(n / unit));
    if least == greatest { median } else { format!("{median} ({least}–{greatest})") }
}

fn megabytes(number: f64) -> String {
    short(number / 1e6)
}

/// Three digits are as many as mean anything.
fn short(number: f64) -> String {
    match number.abs() {
        _ if number.is_nan() => "–".to_owned(),
        size if size >= 99.5 || number.fract() == 0.0 => format!("{number:.0}"),
        size if size >= 9.95 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(approach: &str, environment: &str, what: &str, value: &str) -> Row {
        let [approach, environment, what, value] = [approach, environment, what, value].map(str::to_owned);
        let failure = if value.is_empty() { "no | disk".to_owned() } else { String::new() };
        Row { run: 1, approach, environment, what, unit: String::new(), value, failure }
    }

    #[test]
    fn a_number_has_three_digits() {
        let all = [0.004, 1.0, 9.876, 45.67, 123.4, f64::NAN].map(short);
        assert_eq!(all, ["0.00", "1", "9.88", "45.7", "123", "–"]);
    }

    #[test]
    fn a_failure_is_no_gap() {
        let rows = [
            row("a", "e", "start, cold", "2"),
            row("a", "e", "start, cold", "4"),
            row("a", "e", "start, cold", ""),
            row("b", "e", "start, cold", ""),
        ];
        assert_eq!(told(&cell(&rows, "a", "e", "start, cold"), 1.0), "3 (2–4), 1 failed");
        assert_eq!(told(&cell(&rows, "b", "e", "start, cold"), 1.0), "failed");
        assert_eq!(told(&cell(&rows, "c", "e", "start, cold"), 1.0), "–");
        assert!(failures(&rows).contains("| b | e | start, cold | no ¦ disk |"));
        assert!(starts(&rows).contains("| a | 3 (2–4), 1 failed |"));
    }

    #[test]
    fn a_start_is_compared_with_that_of_bind_mounts_beside_it() {
        let mut rows = Vec::new();
        for (way, value) in [
            ("bind mounts, runc", "10"),
            ("nixview, runc", "20"),
            ("bind mounts, runc", "20"),
            ("nixview, runc", "20"),
            ("nix-shell", "5"),
        ] {
            rows.push(row(way, "e", "start, cold", value));
        }
        let text = beside_binds(&rows, &["nix-shell", "nixview, runc", "bind mounts, runc"]);
        assert!(text.contains("| nixview, runc | 1.50 (1–2) |"), "{text}");
        assert_eq!(text.matches("runc").count(), 1, "{text}");
    }

    #[test]
    fn the_overview_is_over_environments() {
        let mut rows = vec![row("store", "e", "closure", "1"), row("store", "f", "closure", "1")];
        for (environment, value) in [("e", "10"), ("e", "30"), ("e", "20"), ("f", "40")] {
            rows.push(row("nixview, runc", environment, "start, cold", value));
        }
        let found = over(&rows, "nixview, runc", &["e", "f"], "start, cold");
        assert_eq!(found.map(|f| (f.median, f.least, f.greatest)), Some((30.0, 20.0, 40.0)));
        assert!(overview(&rows).contains("| 30 (20–40) |"));
    }

    #[test]
    fn approaches_have_one_order() {
        let rows = ["copied closure, runc", "nothing started", "nix-shell", "runc without /nix"];
        let rows = rows.map(|way| row(way, "e", "page cache", "1"));
        let order = ["nothing started", "nix-shell", "runc without /nix", "copied closure, runc"];
        assert_eq!(measured(&rows, "page cache"), order);
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("by hand\n{BEGIN}\nold\n{END}\nmore\n");
        let once = between(&text, "new\n").unwrap_or_default();
        assert_eq!(once, format!("by hand\n{BEGIN}\nnew\n\n{END}\nmore\n"));
        assert_eq!(between(&once, "new").unwrap_or_default(), once);
        assert!(between("no marks", "new").is_err());
    }
}
