//! The parts of the page that have figures: a sentence, a drawing, a table each.

use serde_json::Value;

use super::data::{Data, Kind, Number, text_of};
use super::figures::{self, By, OTHERS, Of, Tile, Which};
use super::html::{Cell, Figure, Table, escape, number, number_or_dash};

/// The most pairs, and the most store paths of a kind, that a table has.
const MOST_ROWS: usize = 500;
const MOST_UNUSED: usize = 20;

fn cell(data: &Data, pointer: &str, kind: Kind) -> Cell {
    Cell::Number(data.number(pointer, kind))
}

fn told(data: &Data, pointer: &str, kind: Kind) -> String {
    number_or_dash(data.number(pointer, kind).as_ref())
}

fn figure(data: &Data, which: Which, title: &str, summary: &str, table: &Table, open: bool) -> String {
    let id = which.id();
    let svg = which.draw(data).map(|drawing| drawing.inline(&Figure::label(&id)));
    Figure { id: &id, title, summary, svg, table, open }.html()
}

/// A table of all environments.
pub fn environments(data: &Data) -> String {
    // What most is asked for is first; the rest may be beside the edge of a screen.
    const FIRST: [(&str, &str, Kind); 2] =
        [("Paths", "paths", Kind::Count), ("Allocated", "allocated", Kind::Bytes)];
    const REST: [(&str, &str, Kind); 5] = [
        ("Apparent", "apparent", Kind::Bytes),
        ("NAR", "nar", Kind::Bytes),
        ("Files", "files", Kind::Count),
        ("Directories", "directories", Kind::Count),
        ("Links", "symlinks", Kind::Count),
    ];
    const COSTS: [(&str, &str); 3] = [("Unique", "unique"), ("Shared", "shared"), ("Marginal", "marginal")];
    let count = data.count("/du/environments");
    let some = |key: &str| {
        (0..count).any(|at| data.get(&format!("/du/environments/{at}/{key}")).is_some_and(|v| *v != 0))
    };
    let (missing, upper) = (some("whole/missing"), some("upper"));
    let mut columns = vec![("Environment", "")];
    columns.extend(FIRST.map(|(name, ..)| (name, "")));
    columns.extend(COSTS.map(|(name, _)| (name, "of the space on the disk")));
    columns.extend(missing.then_some(("Missing", "paths that are recorded and not in the store")));
    columns.extend(upper.then_some(("Upper", "what the view has changed")));
    columns.extend(REST.map(|(name, ..)| (name, "")));
    columns.push(("Given as", ""));
    let row = |name: &str, sizes: &str, [unique, shared, marginal, upper_size]: [&str; 4], given: &str| {
        let mut row = vec![Cell::Text(name.to_owned())];
        row.extend(FIRST.map(|(_, key, kind)| cell(data, &format!("{sizes}/{key}"), kind)));
        row.extend([unique, shared, marginal].map(|at| cell(data, at, Kind::Bytes)));
        row.extend(missing.then(|| cell(data, &format!("{sizes}/missing"), Kind::Count)));
        row.extend(upper.then(|| cell(data, upper_size, Kind::Bytes)));
        row.extend(REST.map(|(_, key, kind)| cell(data, &format!("{sizes}/{key}"), kind)));
        row.push(Cell::Path(given.to_owned()));
        row
    };
    let mut table = Table { caption: "What each environment takes".to_owned(), columns, ..Table::default() };
    for (at, env) in data.list("/du/environments").iter().enumerate() {
        let base = format!("/du/environments/{at}");
        let costs = ["unique", "shared", "marginal", "upper"].map(|part| format!("{base}/{part}/allocated"));
        let costs = costs.each_ref().map(String::as_str);
        table.rows.push(row(text_of(env, "name"), &format!("{base}/whole"), costs, text_of(env, "given")));
    }
    for (name, key) in
        [("Together", "together"), ("The whole store", "wholeStore"), ("In no environment", "unreached")]
    {
        if data.get(&format!("/du/{key}")).is_some() {
            let shared = if key == "together" { "/du/shared/allocated" } else { "" };
            table.totals.push(row(name, &format!("/du/{key}"), ["", shared, "", ""], ""));
        }
    }
    table.html()
}

/// The treemaps.
pub fn treemaps(data: &Data) -> String {
    let mut html = String::from("<div id=\"treemaps\">\n");
    let own = figures::with_treemap(data);
    if own.is_empty() {
        html += &treemap(data, Of::All, data.environments().first().copied().unwrap_or_default());
    } else {
        html += &treemap(data, Of::All, "all environments together");
    }
    for at in &own {
        html += &treemap(data, Of::One(*at), data.environments().get(*at).copied().unwrap_or_default());
    }
    html += "</div>\n";
    if !own.is_empty() && own.len() < data.count("/du/environments") {
        html += &format!(
            "<p class=\"note\">Of {} environments those have a treemap that take most; the numbers of all are above and in the JSON.</p>\n",
            number(&data.length("/du/environments"))
        );
    }
    html
}

fn treemap(data: &Data, of: Of, name: &str) -> String {
    let environments = data.count("/du/environments");
    let tiles = figures::tiles(data, of);
    let mut table = Table {
        caption: format!("Store paths of {name}, by the space that each takes alone"),
        columns: vec![("Store path", ""), ("Who has it", ""), ("Environments", ""), ("Allocated", "")],
        ..Table::default()
    };
    for tile in &tiles {
        let group = Tile::group_name(tile.group, of, environments).to_owned();
        let (name, users) = match tile.path {
            Some(at) => {
                let path = data.text(&format!("/du/paths/{at}/path")).to_owned();
                (path, Some(data.length(&format!("/du/paths/{at}/environments"))))
            }
            None => (format!("{} {OTHERS}", tile.count), None),
        };
        table.rows.push(vec![
            Cell::Path(name),
            Cell::Text(group),
            Cell::Number(users),
            Cell::Number(Some(tile.number.clone())),
        ]);
    }
    let base = match of {
        Of::All => "/du/together".to_owned(),
        Of::One(at) => format!("/du/environments/{at}/whole"),
    };
    let largest = tiles
        .iter()
        .filter(|tile| tile.path.is_some())
        .max_by(|a, b| a.number.value.total_cmp(&b.number.value));
    let largest =
        largest.and_then(|tile| Some((data.text(&format!("/du/paths/{}/path", tile.path?)), &tile.number)));
    let largest = largest.map_or_else(String::new, |(path, size)| {
        format!(" The largest, {}, takes {}.", escape(figures::name_of(path)), number(size))
    });
    let summary = format!(
        "{} store paths take {}.{largest} Each area is what a path takes alone, small ones are put together; files that several \
         paths have by hard links count in each.",
        told(data, &format!("{base}/paths"), Kind::Count),
        told(data, &format!("{base}/allocated"), Kind::Bytes),
    );
    let title = format!("Treemap of {name}");
    let html = figure(data, Which::Treemap(of), &title, &summary, &table, false);
    html.replacen("<figure ", &format!("<figure data-of=\"{}\" ", escape(name)), 1)
}

/// What each two have in common.
pub fn matrix(data: &Data) -> String {
    const COLUMNS: [(&str, &str, Kind); 6] = [
        ("Paths", "sizes/paths", Kind::Count),
        ("Apparent", "sizes/apparent", Kind::Bytes),
        ("Allocated", "sizes/allocated", Kind::Bytes),
        ("NAR", "sizes/nar", Kind::Bytes),
        ("Jaccard, paths", "byPaths", Kind::Ratio),
        ("Jaccard, NAR", "byNar", Kind::Ratio),
    ];
    let names = data.environments();
    if names.len() < 2 {
        return "<p>There is one environment, and nothing that it could share.</p>\n".to_owned();
    }
    let name = |at: usize| names.get(at).copied().unwrap_or_default();
    let mut pairs: Vec<(usize, usize, Number)> = Vec::new();
    for at in 0..names.len() {
        for other in at + 1..names.len() {
            let common = data.number(&format!("/du/matrix/{at}/{other}/byPaths"), Kind::Ratio);
            pairs.extend(common.map(|common| (at, other, common)));
        }
    }
    let all = pairs.len();
    if all > MOST_ROWS {
        pairs.sort_by(|a, b| b.2.value.total_cmp(&a.2.value).then((a.0, a.1).cmp(&(b.0, b.1))));
        pairs.truncate(MOST_ROWS);
    }
    let mut columns = vec![("First", ""), ("Second", "")];
    columns.extend(COLUMNS.map(|(name, ..)| (name, "")));
    let caption = if all > MOST_ROWS {
        format!(
            "Sharing between each two environments: the {MOST_ROWS} pairs that are most alike; all are in the JSON"
        )
    } else {
        "Sharing between each two environments".to_owned()
    };
    let mut table = Table { caption, columns, ..Table::default() };
    for (at, other, _) in &pairs {
        let mut row = vec![Cell::Text(name(*at).to_owned()), Cell::Text(name(*other).to_owned())];
        row.extend(COLUMNS.map(|(_, key, kind)| cell(data, &format!("/du/matrix/{at}/{other}/{key}"), kind)));
        table.rows.push(row);
    }
    let most = pairs.iter().max_by(|a, b| a.2.value.total_cmp(&b.2.value));
    let most = most.map_or_else(String::new, |(at, other, common)| {
        format!(
            "Most alike are {} and {}: {} of the paths that either has are in both, {} paths of {}. ",
            escape(name(*at)),
            escape(name(*other)),
            number(common),
            told(data, &format!("/du/matrix/{at}/{other}/sizes/paths"), Kind::Count),
            told(data, &format!("/du/matrix/{at}/{other}/sizes/allocated"), Kind::Bytes),
        )
    });
    let summary = format!(
        "{most}A field is the number of common paths divided by that of the paths of either (Jaccard index)."
    );
    let by_paths = Which::Matrix(By::Paths);
    let html = figure(
        data,
        by_paths,
        "Sharing between each two environments, by store paths",
        &summary,
        &table,
        false,
    );
    html + &matrix_by_bytes(data, &pairs, &name)
}

/// The same by bytes: few large paths count for more than many small ones.
fn matrix_by_bytes<'n>(
    data: &Data,
    pairs: &[(usize, usize, Number)],
    name: &dyn Fn(usize) -> &'n str,
) -> String {
    let mut table = Table {
        caption: "Sharing between each two environments, in bytes".to_owned(),
        columns: vec![
            ("First", ""),
            ("Second", ""),
            ("NAR", "lengths of common paths"),
            ("Jaccard, NAR", ""),
        ],
        ..Table::default()
    };
    let mut most: Option<(usize, usize, Number)> = None;
    for (at, other, _) in pairs {
        let base = format!("/du/matrix/{at}/{other}");
        table.rows.push(vec![
            Cell::Text(name(*at).to_owned()),
            Cell::Text(name(*other).to_owned()),
            cell(data, &format!("{base}/sizes/nar"), Kind::Bytes),
            cell(data, &format!("{base}/byNar"), Kind::Ratio),
        ]);
        if let Some(common) = data.number(&format!("{base}/byNar"), Kind::Ratio)
            && most.as_ref().is_none_or(|(.., least)| least.value < common.value)
        {
            most = Some((*at, *other, common));
        }
    }
    let most = most.map_or_else(String::new, |(at, other, common)| {
        format!(
            "Most alike are {} and {}: {} of the bytes that either has are in both, {}. ",
            escape(name(at)),
            escape(name(other)),
            number(&common),
            told(data, &format!("/du/matrix/{at}/{other}/sizes/nar"), Kind::Bytes),
        )
    });
    let summary = format!(
        "{most}A field is the length of the NARs of common paths divided by that of the paths of either."
    );
    figure(
        data,
        Which::Matrix(By::Bytes),
        "Sharing between each two environments, by bytes",
        &summary,
        &table,
        false,
    )
}

/// What the first 1, 2, … cost together.
pub fn curve(data: &Data) -> String {
    let names = data.environments();
    let Some(last) = data.count("/du/cumulative").checked_sub(1) else { return String::new() };
    let mut table = Table {
        caption: "Costs of the first environments together, by name".to_owned(),
        columns: vec![
            ("Last added", ""),
            ("Environments", ""),
            ("One store", "space on the disk"),
            ("One image", "space on the disk, unpacked"),
            ("An image for each", "space on the disk, unpacked"),
            ("Files of one image", "their lengths"),
            ("Files of an image for each", "their lengths"),
        ],
        ..Table::default()
    };
    for at in 0..=last {
        let base = format!("/du/cumulative/{at}");
        let mut row = vec![Cell::Text(names.get(at).copied().unwrap_or_default().to_owned())];
        row.push(cell(data, &format!("{base}/environments"), Kind::Count));
        row.extend(
            ["store", "oneImageAllocated", "imagesAllocated", "oneImage", "images"]
                .map(|key| cell(data, &format!("{base}/{key}"), Kind::Bytes)),
        );
        table.rows.push(row);
    }
    let summary = format!(
        "All {} environments take {} in one store. Unpacked as images of one layer each they take {}, as one image with all {}. All \
         lines are space on the disk. In an image files of different store paths are no hard links of each other.",
        told(data, &format!("/du/cumulative/{last}/environments"), Kind::Count),
        told(data, &format!("/du/cumulative/{last}/store"), Kind::Bytes),
        told(data, &format!("/du/cumulative/{last}/imagesAllocated"), Kind::Bytes),
        told(data, &format!("/du/cumulative/{last}/oneImageAllocated"), Kind::Bytes),
    );
    figure(data, Which::Curve, "What 1, 2, … environments cost together", &summary, &table, false)
}

/// How the strategies cut layers; why not, where it is not known.
pub fn layers(data: &Data, why_not: Option<&str>) -> String {
    const COLUMNS: [(&str, &str, Kind); 3] = [
        ("Distinct", "distinct", Kind::Count),
        ("Shared", "shared", Kind::Count),
        ("Stored", "stored", Kind::Bytes),
    ];
    if let Some(why) = why_not {
        return format!("<p class=\"note\">Layers are not simulated: {}</p>\n", escape(why));
    }
    let Some(last) = data.count("/layers/environments").checked_sub(1) else { return String::new() };
    let mut columns = vec![("Strategy", "with the most layers of an image")];
    columns.extend([("Distinct", "layers of all images"), ("Shared", "layers that several images have")]);
    columns.extend([
        ("Stored", "each layer once"),
        ("First pulls", "where nothing is there"),
        ("Last pulls", "where all others are"),
    ]);
    columns.push(("Unpacked", "where a layer is the same only if all below it are"));
    let mut table =
        Table { caption: "Environments as OCI images, by strategy".to_owned(), columns, ..Table::default() };
    let mut best: Option<(String, Number)> = None;
    for (at, simulation) in data.list("/layers/simulations").iter().enumerate() {
        let base = format!("/layers/simulations/{at}/{}", figures::layers::sharing(simulation));
        let name = figures::layers::name_of(simulation);
        let mut row = vec![Cell::Text(name.clone())];
        row.extend(COLUMNS.map(|(_, key, kind)| cell(data, &format!("{base}/{key}"), kind)));
        row.extend([0, last].map(|env| cell(data, &format!("{base}/pulledInOrder/{env}"), Kind::Bytes)));
        row.push(cell(data, &format!("/layers/simulations/{at}/chain/stored"), Kind::Bytes));
        table.rows.push(row);
        if let Some(stored) = data.number(&format!("{base}/stored"), Kind::Bytes)
            && best.as_ref().is_none_or(|(_, least)| stored.value < least.value)
        {
            best = Some((name, stored));
        }
    }
    let best = best.map_or_else(String::new, |(name, stored)| {
        format!("Least is stored by {}: {}. ", escape(&name), number(&stored))
    });
    let summary = format!("{best}A number behind a strategy is the most layers that an image may have.");
    let html = figure(data, Which::Layers, "Layer strategies side by side", &summary, &table, true);
    html + &pulls(data, last)
}

/// What the first and the last environment pull, with a scale of their own.
fn pulls(data: &Data, last: usize) -> String {
    let names = data.list("/layers/environments");
    let name = |at: usize| names.get(at).map_or("", |env| text_of(env, "name"));
    let mut table = Table {
        caption: "Pulls, by strategy".to_owned(),
        columns: vec![("Strategy", ""), ("First pulls", ""), ("Last pulls", "")],
        ..Table::default()
    };
    for (at, simulation) in data.list("/layers/simulations").iter().enumerate() {
        let base = format!("/layers/simulations/{at}/{}", figures::layers::sharing(simulation));
        let mut row = vec![Cell::Text(figures::layers::name_of(simulation))];
        row.extend([0, last].map(|env| cell(data, &format!("{base}/pulledInOrder/{env}"), Kind::Bytes)));
        table.rows.push(row);
    }
    let summary = format!(
        "The first image, {}, is pulled where nothing is there, the last, {}, where all others are.",
        escape(name(0)),
        escape(name(last))
    );
    figure(data, Which::Pulls, "Pulls of the first and the last environment", &summary, &table, false)
}

/// What was used, against what was not.
pub fn used(data: &Data) -> String {
    if data.count("/traces") == 0 {
        return "<p class=\"note\">No trace was given. One is made by <code>nixview run --trace FILE</code> or \
                <code>nixview mount --trace FILE</code>, and shown here with <code>nixview du --html report.html --trace FILE</code>.</p>\n"
            .to_owned();
    }
    let mut table = Table {
        caption: "What of each environment was used".to_owned(),
        columns: vec![
            ("Environment", ""),
            ("Paths", ""),
            ("Paths used", ""),
            ("Never used", "paths"),
            ("Allocated", ""),
            ("Used", "space of the paths that were used"),
            ("Opened", "space of the files that were opened"),
            ("Unused", "space of the paths that were not"),
            ("Files", ""),
            ("Files opened", ""),
        ],
        ..Table::default()
    };
    let mut summary = String::new();
    let mut more = String::new();
    for (at, trace) in data.list("/traces").iter().enumerate() {
        let base = format!("/traces/{at}");
        let name = text_of(trace, "environment");
        let mut row = vec![Cell::Text(name.to_owned())];
        for part in ["closure", "touched", "untouched"] {
            row.push(cell(data, &format!("{base}/{part}/paths"), Kind::Count));
        }
        for part in ["closure/allocated", "touched/allocated", "files/usedAllocated", "untouched/allocated"] {
            row.push(cell(data, &format!("{base}/{part}"), Kind::Bytes));
        }
        row.push(cell(data, &format!("{base}/files/all"), Kind::Count));
        row.push(cell(data, &format!("{base}/files/used"), Kind::Count));
        table.rows.push(row);
        if at < 6 {
            summary += &format!(
                "Of {}, {} of {} paths were never used: {} of {}. Of the {} of the others, {} are files that were opened. ",
                escape(name),
                told(data, &format!("{base}/untouched/paths"), Kind::Count),
                told(data, &format!("{base}/closure/paths"), Kind::Count),
                told(data, &format!("{base}/untouched/allocated"), Kind::Bytes),
                told(data, &format!("{base}/closure/allocated"), Kind::Bytes),
                told(data, &format!("{base}/touched/allocated"), Kind::Bytes),
                told(data, &format!("{base}/files/usedAllocated"), Kind::Bytes),
            );
        }
        if trace.get("exact") == Some(&Value::Bool(false)) {
            summary += &format!("The trace of {} does not have every open. ", escape(name));
        }
        more += &never_used(data, at, trace);
    }
    format!("{}{more}", figure(data, Which::Used, "Used against never used", &summary, &table, true))
}

/// The largest store paths of a trace that were not used, with why they are in the closure.
fn never_used(data: &Data, trace: usize, answer: &Value) -> String {
    let size = |path: &Value| path.get("allocated").and_then(Value::as_u64).unwrap_or_default();
    let paths = data.list(&format!("/traces/{trace}/paths"));
    let unused =
        paths.iter().enumerate().filter(|(_, path)| path.get("touched") == Some(&Value::Bool(false)));
    let mut unused: Vec<(usize, &Value)> = unused.collect();
    unused.sort_by_key(|(at, path)| (std::cmp::Reverse(size(path)), *at));
    unused.truncate(MOST_UNUSED);
    if unused.is_empty() {
        return String::new();
    }
    let name = text_of(answer, "environment");
    let mut table = Table {
        caption: format!(
            "{name}: the largest store paths that were never used, and by what they are in the closure"
        ),
        columns: vec![("Store path", ""), ("Allocated", ""), ("Why", "the shortest chain of references")],
        ..Table::default()
    };
    for (at, path) in unused {
        let chain = path.get("why").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let chain: Vec<&str> = chain.iter().filter_map(Value::as_str).map(figures::name_of).collect();
        table.rows.push(vec![
            Cell::Path(text_of(path, "path").to_owned()),
            cell(data, &format!("/traces/{trace}/paths/{at}/allocated"), Kind::Bytes),
            Cell::Text(chain.join(" → ")),
        ]);
    }
    format!("<h3>Never used of {}</h3>\n{}", escape(name), table.html())
}

/// What is there more than once, if that was asked for.
pub fn duplicates(data: &Data) -> Option<String> {
    const COLUMNS: [(&str, &str, &str, Kind); 12] = [
        ("Files", "files", "", Kind::Count),
        ("Links", "symlinks", "symbolic links", Kind::Count),
        ("Contents", "contents", "different ones", Kind::Count),
        ("Apparent", "apparent", "", Kind::Bytes),
        ("Duplicate", "duplicate", "lengths of what repeats a content", Kind::Bytes),
        ("Linked", "linked", "of it further names of one inode", Kind::Bytes),
        ("Nix links", "optimise/files", "files that nix-store --optimise would link", Kind::Count),
        ("Nix frees", "optimise/nixBytes", "as nix-store --optimise says", Kind::Bytes),
        ("Disk frees", "optimise/diskBytes", "what the disk would get back", Kind::Bytes),
        ("Chunks", "chunks/count", "different chunks", Kind::Count),
        ("Chunk bytes", "chunks/distinct", "", Kind::Bytes),
        ("Chunks save", "chunks/saved", "less than one of each content", Kind::Bytes),
    ];
    data.get("/du/duplicates")?;
    let with_chunks = data.get("/du/duplicates/together/chunks").is_some();
    let shown: Vec<_> =
        COLUMNS.into_iter().filter(|(_, key, ..)| with_chunks || !key.starts_with("chunks")).collect();
    let row = |name: &str, base: &str| {
        let mut row = vec![Cell::Text(name.to_owned())];
        row.extend(shown.iter().map(|(_, key, _, kind)| cell(data, &format!("{base}/{key}"), *kind)));
        row
    };
    let mut columns = vec![("Environment", "")];
    columns.extend(shown.iter().map(|(name, _, meaning, _)| (*name, *meaning)));
    let mut table = Table { caption: "What is there more than once".to_owned(), columns, ..Table::default() };
    for (at, env) in data.list("/du/duplicates/environments").iter().enumerate() {
        table.rows.push(row(text_of(env, "name"), &format!("/du/duplicates/environments/{at}")));
    }
    table.totals.push(row("Together", "/du/duplicates/together"));
    if data.get("/du/duplicates/wholeStore").is_some() {
        table.totals.push(row("The whole store", "/du/duplicates/wholeStore"));
    }
    let summary = format!(
        "<p>Of {} in all environments, {} repeat what is there already. <code>nix-store --optimise</code> would give the disk {} back.</p>\n",
        told(data, "/du/duplicates/together/apparent", Kind::Bytes),
        told(data, "/du/duplicates/together/duplicate", Kind::Bytes),
        told(data, "/du/duplicates/together/optimise/diskBytes", Kind::Bytes),
    );
    Some(summary + &table.html())
}

/// What views have changed, if one of the environments is a view.
pub fn uppers(data: &Data) -> Option<String> {
    const COLUMNS: [(&str, &str, Kind); 6] = [
        ("Files", "files", Kind::Count),
        ("Directories", "directories", Kind::Count),
        ("Links", "symlinks", Kind::Count),
        ("Others", "others", Kind::Count),
        ("Apparent", "apparent", Kind::Bytes),
        ("Allocated", "allocated", Kind::Bytes),
    ];
    let mut columns = vec![("View", ""), ("Upper", "")];
    columns.extend(COLUMNS.map(|(name, ..)| (name, "")));
    let mut table = Table {
        caption: "What views have changed, apart from all else".to_owned(),
        columns,
        ..Table::default()
    };
    for (at, env) in data.list("/du/environments").iter().enumerate() {
        let Some(upper) = env.get("upper") else { continue };
        let mut row =
            vec![Cell::Text(text_of(env, "name").to_owned()), Cell::Path(text_of(upper, "path").to_owned())];
        row.extend(
            COLUMNS.map(|(_, key, kind)| cell(data, &format!("/du/environments/{at}/upper/{key}"), kind)),
        );
        table.rows.push(row);
    }
    (!table.rows.is_empty()).then(|| table.html())
}
