//! The page: one file, which asks the network for nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::data::{Data, Kind};
use super::html::{escape, number, number_or_dash};
use super::sections;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What is told beside the numbers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// When it was measured, in UTC.
    pub when: String,
    /// Why there are no layers, if there are none.
    pub no_layers: Option<String>,
}

/// The words of the page that are not plain.
const TERMS: [(&str, &str); 10] = [
    (
        "Environment",
        "what a lock, a view or a store path names: its store path and everything that needs, its closure",
    ),
    ("Apparent", "the lengths of regular files and symbolic links, each name for itself"),
    ("Allocated", "space on the disk, each inode once: files that are hard links of each other count once"),
    ("NAR", "the lengths of the paths as Nix's archives"),
    ("Unique", "of the space on the disk what no other of these environments has"),
    (
        "Shared",
        "of the space on the disk what at least one other has too; Unique of all and Shared of all together are the whole",
    ),
    ("Marginal", "what the disk gets back without the environment"),
    (
        "Jaccard index",
        "what two have in common, divided by what either has: 1 for equal ones, 0 for those that share nothing",
    ),
    ("Strategy", "how a tool cuts a closure into the layers of an OCI image"),
    ("Upper", "what a view has changed of its environment"),
];

/// Writes the page.
#[must_use]
pub fn page(data: &Data, head: &Head) -> String {
    let duplicates = sections::duplicates(data);
    let uppers = sections::uppers(data);
    let mut parts: Vec<(&str, &str, String)> = vec![
        ("measured", "What was measured", measured(data, head)),
        ("environments", "Environments", sections::environments(data)),
        ("paths", "Store paths", sections::treemaps(data)),
        ("sharing", "Sharing", sections::matrix(data)),
        ("together", "Together", sections::curve(data)),
        ("use", "Used against unused", sections::used(data)),
        ("images", "As OCI images", sections::layers(data, head.no_layers.as_deref())),
    ];
    parts.extend(duplicates.map(|html| ("duplicates", "Duplicates", html)));
    parts.extend(uppers.map(|html| ("uppers", "Changes of views", html)));
    parts.push(("json", "The numbers as JSON", json_part(data)));

    let title = "What environments cost";
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"generator\" content=\"nixview {}\">\n<title>{title}: {}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        hash(SCRIPT),
        hash(STYLE),
        env!("CARGO_PKG_VERSION"),
        escape(data.text("/du/store")),
    );
    html += &format!(
        "<a class=\"skip\" href=\"#main\">Skip to the report</a>\n<header>\n<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n</header>\n\
         <nav aria-label=\"Parts of the report\"><ul>",
        lead(data)
    );
    for (id, name, _) in &parts {
        html += &format!("<li><a href=\"#part-{id}\">{name}</a></li>");
    }
    html += "</ul></nav>\n<main id=\"main\" tabindex=\"-1\">\n<div class=\"tools\" id=\"tools\"></div>\n<p id=\"said\" role=\"status\"></p>\n";
    for (id, name, inner) in &parts {
        html += &format!(
            "<section aria-labelledby=\"part-{id}\">\n<h2 id=\"part-{id}\">{name}</h2>\n{inner}</section>\n"
        );
    }
    html += &format!(
        "</main>\n<footer><p>Made by nixview {} on <time datetime=\"{when}\">{when}</time>. Figures by kuva.</p></footer>\n\
         <script type=\"application/json\" id=\"data\">{}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        data.embedded(),
        when = escape(&head.when),
    );
    html
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

fn told(data: &Data, pointer: &str, kind: Kind) -> String {
    number_or_dash(data.number(pointer, kind).as_ref())
}

fn lead(data: &Data) -> String {
    let count = data.count("/du/environments");
    let environments = number(&data.length("/du/environments"));
    let paths = told(data, "/du/together/paths", Kind::Count);
    let space = told(data, "/du/together/allocated", Kind::Bytes);
    match count {
        1 => format!("{environments} environment of {paths} store paths takes {space} on the disk."),
        _ => format!(
            "{environments} environments of together {paths} store paths take {space} on the disk; {} of it at least two of them have.",
            told(data, "/du/shared/allocated", Kind::Bytes)
        ),
    }
}

fn measured(data: &Data, head: &Head) -> String {
    let mut html = String::from("<dl>");
    let mut line = |name: &str, inner: &str| {
        html += &format!("<dt>{name}</dt><dd>{inner}</dd>");
    };
    line("Store", &format!("<code>{}</code>", escape(data.text("/du/store"))));
    let when = escape(&head.when);
    line("Time", &format!("<time datetime=\"{when}\">{when}</time>"));
    line("By", &format!("nixview {}", env!("CARGO_PKG_VERSION")));
    let names: Vec<String> = data.environments().iter().take(40).map(|name| escape(name)).collect();
    let more = if data.count("/du/environments") > names.len() { ", …" } else { "" };
    line("Environments", &format!("{}{more}", names.join(", ")));
    if let Some(popularity) = data.get("/layers/popularity").and_then(Value::as_object) {
        let from: Vec<String> = popularity.values().filter_map(Value::as_str).map(escape).collect();
        line("Popularity for Nixery", &format!("<code>{}</code>", from.join(", ")));
    }
    html += "</dl>\n";
    let missing = data.number("/du/together/missing", Kind::Count).filter(|missing| missing.value > 0.0);
    if let Some(missing) = missing {
        html += &format!(
            "<p class=\"note\">Recorded and not in the store: {} paths. Nothing else is known of them, and no size counts them.</p>\n",
            number(&missing)
        );
    }
    html += "<details open><summary>What the words mean</summary><dl>";
    for (term, meaning) in TERMS {
        html += &format!("<dt>{term}</dt><dd>{meaning}</dd>");
    }
    html + "</dl></details>\n"
}

fn json_part(data: &Data) -> String {
    let mut made = vec!["<code>du</code> is the answer of <code>nixview du --json</code>"];
    if data.get("/layers").is_some() {
        made.push("<code>layers</code> that of <code>nixview layers --json</code>");
    }
    if data.get("/traces").is_some() {
        made.push("<code>traces</code> those of <code>nixview trace report --json</code>");
    }
    format!(
        "<p>Every number of this page is one of the JSON that the page has with it, in the element <code>#data</code>: {}. Each \
         <code>data</code> element names its place there: <code>data-json</code> is a JSON pointer, <code>data-length</code> one to a list \
         that is counted, <code>data-sum</code> one to a list of which the members <code>data-of</code> are added.</p>\n",
        made.join(", ")
    )
}
