//! Traces without a mount: where what is used lies, the report on a trace that is made by hand, and the lock of what was used.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::scene::Scene;
use crate::support::union_support::{Disk, MemDisk, View, name, options};
use nixview::layer::mem::MemLayer;
use nixview::lock::EnvLock;
use nixview::trace::{self, End, Head, Kind, TracedClosure};
use nixview::union::{Io, UnionFs};
use nixview::vfs::{RenameMode, Vfs};
use serde_json::Value;

#[test]
fn what_the_lower_has_is_told_by_its_path_there() {
    let disk = MemDisk::new();
    let mut view = View::new(disk.lower(), disk.upper(), options(Io::Cached));
    let whereabouts = |view: &mut View<UnionFs<MemLayer, MemLayer>>, path: &str| {
        let ino = view.ino(path);
        view.fs.whereabouts(ino).map(|place| (String::from_utf8(place.path).unwrap(), place.upper))
    };
    let lower = |path: &str| Some((path.to_owned(), false));
    for path in ["", "a", "a/b/a", "a/b/b"] {
        assert_eq!(whereabouts(&mut view, path), lower(path));
    }
    view.write("a/a", 0, b"changed").unwrap();
    assert_eq!(whereabouts(&mut view, "a/a"), Some(("a/a".to_owned(), true)), "copied up");
    assert_eq!(whereabouts(&mut view, "a"), lower("a"), "in which the lower shows still");
    let (from, to) = (view.ino("a"), view.ino(""));
    view.fs.rename((from, &name("b")), (to, &name("moved")), RenameMode::Replace).unwrap();
    assert_eq!(whereabouts(&mut view, "moved/a"), lower("a/b/a"), "moved, and read from where it was");
    let gone = view.ino("moved/a");
    let moved = view.ino("moved");
    view.fs.unlink(moved, &name("a")).unwrap();
    assert_eq!(view.fs.whereabouts(gone), None);
    assert_eq!(view.fs.whereabouts(nixview::vfs::Ino(999_999)), None);
}

/// Writes a trace of an environment, as a keeper would.
fn hand_made(scene: &Scene, label: &str, file: &str, exact: bool, uses: &[(Kind, String)]) -> PathBuf {
    let lock_file = scene.path(&format!("{label}.lock"));
    let lock = EnvLock::read(&lock_file).unwrap();
    let head = Head {
        nixview_trace: trace::VERSION,
        view: "v".to_owned(),
        environment: lock.name.clone(),
        lock_file,
        closure: TracedClosure { digest: lock.closure.digest.to_string(), count: lock.closure.count },
        store: scene.store.store_dir(),
        store_dir: lock.store_dir.to_string(),
        io: "passthrough".to_owned(),
        exact,
        from_start: true,
        since: 1_700_000_000,
    };
    let mut text = trace::head_line(&head).unwrap();
    for (kind, path) in uses {
        text.extend(trace::use_line(*kind, path.as_bytes(), false).unwrap());
    }
    text.extend(trace::end_line(End { until: 1_700_000_060, complete: true }).unwrap());
    let path = scene.path(file);
    fs::write(&path, text).unwrap();
    path
}

fn at(scene: &Scene, label: &str, below: &str) -> String {
    let path = format!("store/{}/{below}", scene.store.path(label));
    path.trim_end_matches('/').to_owned()
}

/// As `exec env-a/bin/hello` leaves it, with a `find` of all.
fn hello(scene: &Scene) -> PathBuf {
    let mut uses = vec![
        (Kind::LookedUp, "store".to_owned()),
        (Kind::Listed, "store".to_owned()),
        (Kind::LookedUp, at(scene, "env-a", "bin")),
        (Kind::LinkRead, at(scene, "env-a", "bin/hello")),
        (Kind::LookedUp, at(scene, "left", "bin/hello")),
        (Kind::Opened, at(scene, "left", "bin/hello")),
        (Kind::Opened, at(scene, "left", "gone")),
        (Kind::Opened, "store/new-in-the-view".to_owned()),
        (Kind::Opened, "var/nix/db/db.sqlite".to_owned()),
    ];
    uses.extend(["top", "left", "tool", "config"].map(|label| (Kind::LookedUp, at(scene, label, ""))));
    hand_made(scene, "env-a", "hello.trace", true, &uses)
}

fn report(scene: &Scene, more: &[&str]) -> Value {
    let mut arguments = vec!["trace", "report", "--json"];
    arguments.extend(more);
    serde_json::from_str(&scene.nixview(&arguments).ok().out).unwrap()
}

fn of<'a>(answer: &'a Value, scene: &Scene, label: &str) -> &'a Value {
    let path = scene.store.logical(label);
    answer["paths"].as_array().unwrap().iter().find(|one| one["path"] == path.as_str()).unwrap()
}

#[test]
fn a_report_says_what_was_used_and_why_the_rest_is_there() {
    let scene = Scene::new();
    let trace = hello(&scene);
    let trace = trace.to_str().unwrap();
    let answer = report(&scene, &[trace]);
    let number = |keys: &[&str]| {
        keys.iter()
            .fold(&answer, |value, key| &value[*key])
            .as_u64()
            .unwrap_or_else(|| panic!("{keys:?}: {answer}"))
    };
    let count = EnvLock::read(&scene.path("env-a.lock")).unwrap().closure.count;
    assert_eq!(number(&["closure", "paths"]), count);
    assert_eq!((number(&["touched", "paths"]), number(&["untouched", "paths"])), (2, count - 2));
    assert_eq!((number(&["pathsOpened"]), number(&["files", "used"]), number(&["files", "gone"])), (1, 2, 1));
    for size in ["apparent", "allocated", "nar", "files", "symlinks"] {
        assert_eq!(
            number(&["touched", size]) + number(&["untouched", size]),
            number(&["closure", size]),
            "{size}"
        );
    }
    let program = fs::metadata(scene.store.real("left").join("bin/hello")).unwrap().len();
    assert_eq!(number(&["files", "usedApparent"]), program);
    assert_eq!(number(&["foreign"]), 1);
    assert_eq!(answer["exact"], true);
    let left = of(&answer, &scene, "left");
    assert_eq!((left["filesUsed"].as_u64(), left["usedApparent"].as_u64()), (Some(2), Some(program)));
    assert_eq!(left["uses"]["lookedUp"].as_u64(), Some(2), "itself and its program");
    let (top, libc) = (of(&answer, &scene, "top"), of(&answer, &scene, "libc"));
    assert_eq!(
        (&top["touched"], &libc["touched"]),
        (&false.into(), &false.into()),
        "a look at its name is no use"
    );
    let logical =
        |labels: &[&str]| Value::from(labels.iter().map(|l| scene.store.logical(l)).collect::<Vec<_>>());
    assert_eq!(libc["why"], logical(&["env-a", "left", "libc"]));
    assert_eq!(top["why"], logical(&["env-a", "top"]));
    // `top` takes `right` with it: nothing else that refers to it was used.
    let cut = &answer["cuts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|cut| cut["path"] == scene.store.logical("top").as_str());
    assert_eq!(cut.unwrap()["referrers"], logical(&["env-a"]));
    assert_eq!(cut.unwrap()["frees"]["paths"].as_u64(), Some(2), "{answer}");

    let unused = report(&scene, &[trace, "--unused", "--top", "1", "--sort", "nar"]);
    assert_eq!(unused["paths"].as_array().unwrap().len(), 1);
    let used = report(&scene, &[trace, "--used", "--sort", "path"]);
    assert_eq!(used["paths"].as_array().unwrap().len(), 2);
    let table = scene.nixview(&["trace", "report", "-h", trace]).ok();
    for text in ["touched", "Never used", "env-a → left-1.0", "Where to cut", "a root"].iter().take(4) {
        assert!(table.out.contains(text), "{text}: {}", table.out);
    }
    assert!(
        table.err.contains("1 name in the store directory")
            && table.err.contains("not in the store any more")
    );
    let csv = scene.nixview(&["trace", "report", "--csv", trace]).ok().out;
    assert_eq!(csv.lines().count() as u64, count + 1);
}

#[test]
fn traces_are_merged_and_those_of_something_else_refused() {
    let scene = Scene::new();
    let first = hello(&scene);
    let more = [(Kind::Opened, at(&scene, "config", "")), (Kind::Opened, at(&scene, "left", "bin/hello"))];
    let second = hand_made(&scene, "env-a", "more.trace", false, &more);
    let other = hand_made(&scene, "env-b", "other.trace", true, &[]);
    let [first, second, other] = [first, second, other].map(|path| path.to_str().unwrap().to_owned());
    let answer = report(&scene, &[&first, &second]);
    assert_eq!(answer["touched"]["paths"].as_u64(), Some(3));
    assert_eq!((&answer["exact"], answer["files"]["used"].as_u64()), (&false.into(), Some(3)));
    let refused = |arguments: &[&str], told: &[&str]| {
        let all: Vec<&str> = ["trace", "report"].into_iter().chain(arguments.iter().copied()).collect();
        scene.nixview(&all).failed(1, told);
    };
    refused(&[&first, &other], &["other.trace is of another closure than", "env-a.lock"]);
    let lock = scene.path("env-b.lock");
    refused(&["--lock", lock.to_str().unwrap(), &first], &["hello.trace is of another closure"]);
    refused(&["--lock", "/no/lock", &first], &["/no/lock"]);
    refused(&["/no/trace"], &["cannot read /no/trace"]);
    fs::write(scene.path("bad.trace"), [fs::read(&first).unwrap(), b"{}\n".to_vec()].concat()).unwrap();
    refused(
        &[scene.path("bad.trace").to_str().unwrap()],
        &["bad.trace", "line 16: it follows the line that ends"],
    );
    fs::remove_file(scene.path("env-a.lock")).unwrap();
    refused(&[&first], &["cannot use the lock that the trace names", "--lock"]);
}

#[test]
fn a_lock_of_what_was_used_keeps_that_and_what_it_starts_from() {
    let scene = Scene::new();
    let trace = hello(&scene);
    let [trace, lock, small] = [trace, scene.path("env-a.lock"), scene.path("small.lock")]
        .map(|path| path.to_str().unwrap().to_owned());
    let store = scene.store.root().to_str().unwrap().to_owned();
    let make = |output: &str| {
        scene.nixview(&["lock", "--store", &store, "--only-traced", &trace, &lock, "-o", output])
    };
    let count = EnvLock::read(Path::new(&lock)).unwrap().closure.count;
    let said = make(&small).ok();
    assert!(said.out.contains(&format!("kept 2 of {count} paths")), "{said:?}");
    assert!(
        said.out.contains("not closed under references") && said.err.contains("nixview run --closure"),
        "{said:?}"
    );
    let closure = scene.nixview(&["closure", "--store", &store, &small]).ok();
    let mut kept = [scene.store.logical("env-a"), scene.store.logical("left")];
    kept.sort();
    assert_eq!(closure.out.lines().collect::<Vec<_>>(), kept);
    assert!(closure.err.contains("is a proposal"), "{closure:?}");
    make(&small).ok();
    make(&lock).failed(2, &["would be replaced", "-o"]);
    let tree = scene.nixview(&["closure", "--store", &store, "--tree", &small]).ok().out;
    assert!(tree.contains("└─") && tree.lines().count() == 2, "{tree}");
    // What others measure is what is kept.
    let du: Value =
        serde_json::from_str(&scene.nixview(&["du", "--json", "--store", &store, &small]).ok().out).unwrap();
    assert_eq!(du["together"]["paths"].as_u64(), Some(2));
    scene.nixview(&["layers", "--store", &store, &small]).ok();

    // One that claims more is refused, whatever it is used for.
    let mut lying = EnvLock::read(Path::new(&small)).unwrap();
    let only = lying.only.as_mut().unwrap();
    only.paths.push(scene.store.path("secret").parse().unwrap());
    only.paths.sort();
    let claimed = nixview::closure::Closure::new(only.paths.clone(), None);
    lying.closure.digest = nixview::lock::Digest::parse(&claimed.digest()).unwrap();
    lying.closure.count += 1;
    let file = scene.path("lying.lock");
    lying.write(&file).unwrap();
    let said = scene.nixview(&["closure", "--store", &store, file.to_str().unwrap()]);
    said.failed(1, &["-secret", "not in the closure of its roots"]);
    // And one of another store, whose closure is another.
    let mut other = EnvLock::read(Path::new(&small)).unwrap();
    other.only.as_mut().unwrap().of.count += 1;
    other.write(&file).unwrap();
    scene
        .nixview(&["closure", "--store", &store, file.to_str().unwrap()])
        .failed(1, &["made for another store"]);
}
