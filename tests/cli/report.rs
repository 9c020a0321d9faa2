//! `nixview du --html`, `--svg` and `--png` on a tiny store: every number of the page is that of the JSON; needs no privilege, no Nix
//! and no browser (`report/check.mjs` has one).
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use mini_store::MiniStore;
use nixview::cli::report::{Data, Head as PageHead, Picture, page, pictures};
use nixview::trace::{End, Head, Kind, TracedClosure, VERSION, end_line, head_line, use_line};
use serde_json::{Value, json};

struct Scene {
    store: MiniStore,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { store: MiniStore::temporary(), dir: tempfile::tempdir().unwrap() };
        for env in ["env-a", "env-b"] {
            let path = scene.store.path(env).to_owned();
            scene.ok("lock", &["-o", &format!("{env}.lock"), &path]);
        }
        scene
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_nixview"))
            .args([command, "--store"])
            .arg(self.store.root())
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("NIXVIEW_STATE_DIR", self.dir.path().join("state"))
            .env("NIXVIEW_RUNTIME_DIR", self.dir.path().join("run"))
            .output()
            .unwrap()
    }

    fn ok(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.run(command, arguments);
        assert!(output.status.success(), "{}", output.stderr.escape_ascii());
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, command: &str, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(command, &[&["--json"], arguments].concat())).unwrap()
    }
}

const LOCKS: [&str; 2] = ["env-a.lock", "env-b.lock"];

/// What is between two texts, each time.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    text.split(from).skip(1).map(|rest| rest.split(to).next().unwrap()).collect()
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let start = element.find(&format!(" {name}=\""))? + name.len() + 3;
    element[start..].split('"').next()
}

/// The JSON that a page has with it.
fn embedded(html: &str) -> Value {
    let found = between(html, "<script type=\"application/json\" id=\"data\">", "</script>");
    assert_eq!(found.len(), 1);
    serde_json::from_str(found[0]).unwrap()
}

/// A number for people, told here once more.
fn human(kind: &str, value: &Value) -> String {
    match kind {
        "count" => {
            let digits = value.as_u64().unwrap().to_string();
            let bytes = digits.as_bytes().rchunks(3).rev();
            bytes.map(|part| std::str::from_utf8(part).unwrap()).collect::<Vec<_>>().join(",")
        }
        "ratio" => format!("{:.3}", value.as_f64().unwrap()),
        "short" => format!("{:.2}", value.as_f64().unwrap()),
        "bytes" => {
            let bytes = value.as_u64().unwrap() as f64;
            let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
            let unit = units.iter().enumerate().rev().find(|(at, _)| bytes >= 1024_f64.powi(*at as i32 + 1));
            match unit {
                Some((at, unit)) => format!("{:.1} {unit}", bytes / 1024_f64.powi(at as i32 + 1)),
                None => format!("{bytes} B"),
            }
        }
        other => panic!("numbers of the kind '{other}'"),
    }
}

/// What the attributes of an element say that its number is.
fn meant(element: &str, all: &Value) -> Value {
    let at = |pointer: &str| all.pointer(pointer).unwrap_or_else(|| panic!("nothing is at {pointer}"));
    if let Some(pointer) = attribute(element, "data-json") {
        return at(pointer).clone();
    }
    if let Some(pointer) = attribute(element, "data-length") {
        return at(pointer).as_array().unwrap().len().into();
    }
    let (list, key) = (at(attribute(element, "data-sum").unwrap()), attribute(element, "data-key").unwrap());
    let mut sum = 0;
    for part in attribute(element, "data-of").unwrap().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        for index in first.parse::<usize>().unwrap()..=last.parse().unwrap() {
            sum += list[index][key].as_u64().unwrap();
        }
    }
    sum.into()
}

/// Every number of a page or a drawing is what the JSON has at its place, and is written as such; answers how many there are.
fn assert_numbers(html: &str, all: &Value) -> usize {
    let mut count = 0;
    for element in between(html, "<data", "</data>") {
        let value = meant(element, all);
        assert_eq!(attribute(element, "value").unwrap(), value.to_string(), "{element}");
        let told = element.split('>').next_back().unwrap();
        assert_eq!(told, human(attribute(element, "data-as").unwrap(), &value), "{element}");
        count += 1;
    }
    for mark in between(html, "<g class=\"mark\"", "</g>") {
        let value = meant(mark, all);
        assert_eq!(attribute(mark, "data-value").unwrap(), value.to_string(), "{mark}");
        let kind = attribute(mark, "data-as").unwrap();
        let title = between(mark, "<title>", "</title>")[0];
        assert_eq!(title.rsplit(": ").next().unwrap(), human(kind, &value), "{mark}");
        if kind == "ratio" {
            for text in between(mark, "<text", "</text>") {
                assert_eq!(text.split('>').next_back().unwrap(), human("short", &value), "{mark}");
            }
        }
        count += 1;
    }
    count
}

/// No number of the text between elements stands outside of an element that says where it is from.
fn assert_no_other_numbers(html: &str) {
    let main = between(html, "<main", "</main>")[0];
    let mut text = String::new();
    let mut rest = main;
    while let Some(start) = rest.find('<') {
        text += &rest[..start];
        let end = ["<data", "<svg", "<time", "<code"]
            .iter()
            .find(|open| rest[start..].starts_with(**open))
            .map(|open| {
                let close = format!("</{}>", &open[1..]);
                start + rest[start..].find(&close).unwrap() + close.len()
            });
        // Names of store paths, strategies and environments have digits and are no numbers.
        let named =
            rest[start..].starts_with("<th scope=\"row\"") || rest[start..].starts_with("<td class=\"path\"");
        let end = match (end, named) {
            (Some(end), _) => end,
            (None, true) => start + rest[start..].find("</t").unwrap(),
            (None, false) => start + rest[start..].find('>').unwrap() + 1,
        };
        rest = &rest[end..];
    }
    for units in [" KiB", " MiB", " GiB", " B "] {
        assert!(!text.contains(units), "a size outside of its element: {text}");
    }
}

#[test]
fn every_number_of_the_page_is_that_of_the_json() {
    let scene = Scene::new();
    let arguments = ["--all", "--duplicates", "--chunks", LOCKS[0], LOCKS[1]];
    scene.ok("du", &[&["--html", "report.html"], &arguments[..]].concat());
    let html = fs::read_to_string(scene.dir.path().join("report.html")).unwrap();
    let all = embedded(&html);
    // What was read for the duplicates is remembered by the second time.
    let mut du = scene.json("du", &arguments);
    du["duplicates"]["read"] = all["du"]["duplicates"]["read"].clone();
    assert_eq!(all["du"], du);
    assert_eq!(all["layers"], scene.json("layers", &LOCKS));
    assert_eq!(all.as_object().unwrap().len(), 2);
    assert!(assert_numbers(&html, &all) > 150);
    assert_no_other_numbers(&html);
    for part in ["treemap", "treemap-1", "matrix", "matrix-bytes", "curve", "layers", "pulls"] {
        assert!(
            html.contains(&format!("<figure id=\"{part}\"")) || html.contains(&format!(" id=\"{part}\"")),
            "{part}"
        );
    }
    assert!(html.contains("id=\"part-duplicates\"") && html.contains("nixview run --trace"));
    assert!(html.contains("2023-11-14T22:13:20Z"));
    // The same again, and the same on standard output.
    let arguments = [LOCKS[0], LOCKS[1]];
    let one = scene.ok("du", &[&["--html", "-"], &arguments[..]].concat());
    assert_eq!(one, scene.ok("du", &[&["--html", "-"], &arguments[..]].concat()));
    assert_eq!(embedded(&one)["du"], scene.json("du", &arguments));
}

#[test]
fn what_was_used_is_what_trace_report_says() {
    let scene = Scene::new();
    let lock = scene.dir.path().join("env-a.lock");
    let locked: Value = serde_json::from_slice(&fs::read(&lock).unwrap()).unwrap();
    let head = Head {
        nixview_trace: VERSION,
        view: "v".to_owned(),
        environment: "env-a".to_owned(),
        lock_file: lock,
        closure: TracedClosure {
            digest: locked["closure"]["digest"].as_str().unwrap().to_owned(),
            count: locked["closure"]["count"].as_u64().unwrap(),
        },
        store: scene.store.root().to_owned(),
        store_dir: "/nix/store".to_owned(),
        io: "passthrough".to_owned(),
        exact: true,
        from_start: true,
        since: 1_700_000_000,
    };
    let mut text = head_line(&head).unwrap();
    let used = format!("store/{}/bin/tool", scene.store.path("tool"));
    text.extend(use_line(Kind::Opened, used.as_bytes(), false).unwrap());
    text.extend(end_line(End { until: 1_700_000_001, complete: true }).unwrap());
    fs::write(scene.dir.path().join("a.trace"), text).unwrap();
    let html = scene.ok("du", &["--html", "-", "--trace", "a.trace", LOCKS[0], LOCKS[1]]);
    let all = embedded(&html);
    let report = Command::new(env!("CARGO_BIN_EXE_nixview"))
        .args(["trace", "report", "--json", "a.trace"])
        .current_dir(scene.dir.path())
        .env("NIXVIEW_STATE_DIR", scene.dir.path().join("state"))
        .env("NIXVIEW_RUNTIME_DIR", scene.dir.path().join("run"))
        .output()
        .unwrap();
    assert!(report.status.success(), "{}", report.stderr.escape_ascii());
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(all["traces"], json!([report]));
    assert!(
        report["touched"]["paths"].as_u64().unwrap() > 0
            && report["untouched"]["paths"].as_u64().unwrap() > 0
    );
    assert!(html.contains("id=\"used\"") && html.contains("Never used of "));
    assert!(
        report["files"]["usedAllocated"].as_u64().unwrap() < report["touched"]["allocated"].as_u64().unwrap()
    );
    assert!(
        html.matches("data-json=\"/traces/0/files/usedAllocated\"").count() >= 3,
        "figure, table and text"
    );
    assert_numbers(&html, &all);
}

#[test]
fn a_page_asks_for_nothing() {
    let scene = Scene::new();
    let html = scene.ok("du", &["--html", "-", LOCKS[0], LOCKS[1]]);
    for word in ["src=", "http:", "https:", "@import", "url(", " style=\"", " onclick", "<link"] {
        let outside = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains(word), "{word}");
    }
    assert!(html.contains("default-src 'none'"));
    assert_eq!(html.matches("<script").count(), 2);
}

#[test]
fn without_a_database_the_page_says_why_it_has_no_layers() {
    let scene = Scene::new();
    let bare = scene.dir.path().join("bare/nix/store");
    fs::create_dir_all(&bare).unwrap();
    for base in scene.store.closure("env-a") {
        let from = scene.store.store_dir().join(base);
        assert!(Command::new("cp").arg("-a").arg(from).arg(&bare).status().unwrap().success());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_nixview"))
        .args(["du", "--html", "-", "--store"])
        .arg(scene.dir.path().join("bare"))
        .arg(scene.store.path("env-a"))
        .env("NIXVIEW_STATE_DIR", scene.dir.path().join("state"))
        .env("NIXVIEW_RUNTIME_DIR", scene.dir.path().join("run"))
        .output()
        .unwrap();
    let html = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", output.stderr.escape_ascii());
    assert!(html.contains("Layers are not simulated: ") && html.contains("has no Nix database"));
    let all = embedded(&html);
    assert!(all.get("layers").is_none());
    assert!(assert_numbers(&html, &all) > 10);
    assert!(output.stderr.escape_ascii().to_string().contains("without layers"));
}

#[test]
fn figures_are_files() {
    let scene = Scene::new();
    scene.ok("du", &["--svg", "svg", "--png", "png", LOCKS[0], LOCKS[1]]);
    let all = json!({ "du": scene.json("du", &LOCKS), "layers": scene.json("layers", &LOCKS) });
    let names = |dir: &str| {
        let mut names: Vec<String> = fs::read_dir(scene.dir.path().join(dir))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let expected =
        ["curve", "layers", "matrix-bytes", "matrix", "pulls", "treemap-env-a", "treemap-env-b", "treemap"];
    assert_eq!(names("svg"), expected.map(|name| format!("{name}.svg")));
    assert_eq!(names("png"), expected.map(|name| format!("{name}.png")));
    let mut numbers = 0;
    for name in names("svg") {
        let svg = fs::read_to_string(scene.dir.path().join("svg").join(&name)).unwrap();
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count(), "{name}: groups end");
        assert!(!svg.contains("var(--") && svg.contains("sans-serif"), "{name}");
        numbers += assert_numbers(&svg, &all);
    }
    assert!(numbers > 30, "{numbers}");
    for name in names("png") {
        let png = fs::read(scene.dir.path().join("png").join(&name)).unwrap();
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "{name}");
        let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
        assert_eq!(width, 3000, "{name}: 9.6 inches of 96 units, 300 pixels to the inch each");
    }
}

#[test]
fn the_order_of_the_arguments_changes_nothing() {
    let scene = Scene::new();
    let page = |locks: [&str; 2]| scene.ok("du", &[&["--html", "-"], &locks[..]].concat());
    let [a, b] = LOCKS;
    assert!(page([a, b]) == page([b, a]));
}

/// The curve names its environments, and all its lines are space on the disk.
#[test]
fn the_curve_has_names_and_one_unit() {
    let scene = Scene::new();
    let dir = scene.dir.path().join("svg");
    scene.ok("du", &["--svg", "svg", LOCKS[0], LOCKS[1]]);
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let curve = read("curve.svg");
    for text in [">env-a<", ">env-b<", "KiB on the disk"] {
        assert!(curve.contains(text), "{text}");
    }
    let du = scene.json("du", &LOCKS);
    let last = &du["cumulative"][1];
    let size = |key: &str| last[key].as_u64().unwrap();
    assert!(size("store") <= size("oneImageAllocated"));
    assert!(size("oneImageAllocated") < size("imagesAllocated"));
    let alone: u64 =
        du["paths"].as_array().unwrap().iter().map(|path| path["allocated"].as_u64().unwrap()).sum();
    assert_eq!(size("oneImageAllocated"), alone);
    // What the first and the last environment pull is not drawn beside what is stored.
    let (layers, pulls) = (read("layers.svg"), read("pulls.svg"));
    assert!(layers.contains("/stored\"") && !layers.contains("pulledInOrder"));
    assert!(pulls.contains("pulledInOrder/0\"") && pulls.contains("pulledInOrder/1\""));
    assert!(read("matrix-bytes.svg").contains("/byNar\"") && !read("matrix.svg").contains("byNar"));
}

#[test]
fn what_cannot_be_together_is_refused() {
    let scene = Scene::new();
    for arguments in [
        ["--html", "a.html", "--json"].as_slice(),
        &["--svg", "a", "--csv"],
        &["--png", "a", "--matrix"],
        &["--html", "a.html", "--top", "3"],
        &["--trace", "a.trace"],
    ] {
        let output = scene.run("du", &[arguments, &LOCKS].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", output.stderr.escape_ascii());
    }
    let output = scene.run("du", &["--html", "no/such/report.html", LOCKS[0]]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.escape_ascii().to_string().contains("no/such/report.html"));
}

fn sizes(number: u64) -> Value {
    json!({ "paths": number, "missing": 0, "files": number, "directories": 1, "symlinks": 0, "apparent": number * 1000,
            "directoryLengths": 0, "allocated": number * 4096, "nar": number * 1200 })
}

/// An answer of so many environments of hostile names, with so many paths.
fn made(environments: usize, paths: usize) -> Value {
    let name = |at: usize| match at {
        0 => "</script><script>alert(1)</script>".to_owned(),
        1 => "\"'><img src=x onerror=alert(1)> $\\alpha$ & \u{202e}\u{7}\n".to_owned(),
        2 => "grüße 日本語 =\"#1b1d20\"".to_owned(),
        at => format!("env {at}"),
    };
    let names: Vec<String> = (0..environments).map(name).collect();
    let list: Vec<Value> = (0..paths)
        .map(|at| {
            let mut path = sizes((paths - at) as u64);
            path["path"] = format!("/nix/store/{at:032}-p<b>{at}</b>&\"$x$-{}", at % 7).into();
            path["environments"] = names.iter().skip(at % 3).step_by(1 + at % 2).cloned().collect();
            path
        })
        .collect();
    let common = |a: usize, b: usize| {
        // Exact in binary: what reads JSON here may be off by the last digit.
        let jaccard = 0.5_f64.powi(if a == b { 0 } else { 1 + (a + b) as i32 % 9 });
        json!({ "sizes": sizes((a + b) as u64), "byPaths": jaccard, "byNar": jaccard / 2.0 })
    };
    let environment = |(at, name): (usize, &String)| {
        let part = sizes(at as u64 + 1);
        json!({ "name": name, "given": name, "whole": part, "unique": part, "shared": part, "marginal": part, "sharedWith": {} })
    };
    let step = |at: usize| {
        json!({ "environments": at + 1, "store": at * 9000, "images": at * 20_000, "oneImage": at * 8000,
                                       "imagesAllocated": at * 21_000, "oneImageAllocated": at * 9500 })
    };
    let trace = |name: &String| {
        let mut path = sizes(7);
        path["path"] = "/nix/store/x-<i>".into();
        path["touched"] = false.into();
        path["why"] = json!(["/nix/store/y-</td>", "/nix/store/x-<i>"]);
        json!({ "environment": name, "exact": false, "closure": sizes(9), "touched": sizes(2), "untouched": sizes(7),
                "files": { "all": 9, "used": 2, "usedAllocated": 4096 }, "paths": [path] })
    };
    json!({
        "du": {
            "store": "/nix/<store>",
            "environments": names.iter().enumerate().map(environment).collect::<Vec<_>>(),
            "together": sizes(40), "shared": sizes(20), "paths": list,
            "matrix": (0..environments).map(|a| (0..environments).map(|b| common(a, b)).collect::<Vec<_>>()).collect::<Vec<_>>(),
            "cumulative": (0..environments).map(step).collect::<Vec<_>>(),
        },
        "traces": names.iter().take(3).map(trace).collect::<Vec<_>>(),
    })
}

#[test]
fn names_are_no_markup() {
    let all = made(4, 300);
    let html = page(
        &Data::new(all.clone()),
        &PageHead { when: "now".to_owned(), no_layers: Some("<b>".to_owned()) },
    );
    assert!(embedded(&html) == all);
    assert_eq!(html.matches("<script").count(), 2);
    for bad in ["<img", "<b>", "<i>", "alert(1)</script><", "\u{202e}</", "\u{7}"] {
        assert!(!html.split("<script type").next().unwrap().contains(bad), "{bad:?}");
    }
    assert!(assert_numbers(&html, &all) > 300);
    assert_no_other_numbers(&html);
    assert!(html.contains("Used against never used") && html.contains("does not have every open"));
    let dir = tempfile::tempdir().unwrap();
    for file in pictures(&Data::new(all.clone()), Picture::Svg, dir.path(), false).unwrap() {
        let svg = fs::read_to_string(&file).unwrap();
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
        assert!(
            !svg.contains("<img") && !svg.contains("<b>") && !svg.contains('\u{7}'),
            "{}",
            file.display()
        );
        assert!(file.starts_with(dir.path()) && file.parent() == Some(dir.path()));
        assert_numbers(&svg, &all);
    }
    assert!(Path::new(&dir.path().join("used.svg")).exists());
}

#[test]
fn many_environments_are_cut_and_said_to_be() {
    let all = made(200, 400);
    let html = page(&Data::new(all.clone()), &PageHead::default());
    assert!(embedded(&html) == all);
    assert_eq!(html.matches("class=\"wide drawing\"").count(), 1 + 24 + 2 + 1 + 1);
    assert!(
        html.contains("the 500 pairs that are most alike")
            && html.contains("those have a treemap that take most")
    );
    assert_numbers(&html, &all);
    let drawn = html.len() - all.to_string().len();
    assert!(drawn < 9 << 20, "{drawn} bytes beside the JSON");
}

/// Not a test: leaves a page with all parts where a browser is to open it (`scripts/report-check`).
#[test]
#[ignore = "for scripts/report-check"]
fn a_page_for_a_browser() {
    let Some(file) = std::env::var_os("NIXVIEW_REPORT_OUT") else { return };
    let scene = Scene::new();
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let mut all = made(number("NIXVIEW_REPORT_ENVIRONMENTS", 18), number("NIXVIEW_REPORT_PATHS", 2030));
    all["layers"] = scene.json("layers", &LOCKS);
    all["du"]["duplicates"] =
        scene.json("du", &["--duplicates", "--chunks", LOCKS[0], LOCKS[1]])["duplicates"].clone();
    let head = PageHead { when: "2026-01-01T00:00:00Z".to_owned(), no_layers: None };
    fs::write(file, page(&Data::new(all), &head)).unwrap();
}
