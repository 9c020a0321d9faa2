//! The layers of the source, kept by reading it: which module uses which, how long files are, where unsafe code is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which module may use which. `cli` may use everything, nothing may use `cli`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("vfs", &[]),
    ("sys", &[]),
    ("telemetry", &[]),
    ("json", &[]),
    ("printable", &[]),
    ("trace", &["json", "sys"]),
    ("control", &["json", "sys"]),
    ("store", &["json", "sys"]),
    ("layer", &["vfs", "sys"]),
    ("union", &["vfs", "layer"]),
    ("overlay", &["vfs", "sys", "json", "store"]),
    ("fuse", &["vfs", "sys", "telemetry"]),
    ("closure", &["store"]),
    ("lock", &["json", "store", "closure", "sys"]),
    ("usage", &["store", "closure", "lock", "sys", "trace"]),
    ("view", &["json", "vfs", "sys", "layer", "union", "closure", "lock", "store"]),
    (
        "daemon",
        &[
            "vfs",
            "sys",
            "telemetry",
            "printable",
            "json",
            "control",
            "store",
            "layer",
            "union",
            "overlay",
            "fuse",
            "closure",
            "lock",
            "view",
            "trace",
        ],
    ),
    (
        "cli",
        &[
            "vfs",
            "sys",
            "telemetry",
            "printable",
            "json",
            "trace",
            "control",
            "store",
            "layer",
            "union",
            "overlay",
            "fuse",
            "closure",
            "lock",
            "usage",
            "view",
            "daemon",
        ],
    ),
];

/// The longest a file may be, without its tests and blank and comment lines.
const MAX_LINES: usize = 600;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Path below `src`, and the code of each file: without comments, and without what follows `#[cfg(test)]\nmod`.
fn code() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources were found");
    files
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let code: String = text
                .lines()
                .filter(|l| !l.trim_start().starts_with("//"))
                .fold(String::new(), |all, line| all + line + "\n");
            (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), code)
        })
        .collect()
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules named after `crate::` in a text, also in `crate::{a, b}`.
fn used_modules(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for part in code.split("crate::").skip(1) {
        let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = part.strip_prefix('{') {
            let mut depth = 1;
            let mut top = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    c if depth == 1 => top.push(c),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            used.extend(top.split(',').map(|s| word(s.trim())));
        } else {
            used.push(word(part));
        }
    }
    used
}

#[test]
fn modules_use_only_what_they_may() {
    for (file, code) in code() {
        let module = module_of(&file);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let (_, allowed) = ALLOWED.iter().find(|(m, _)| *m == module).unwrap_or_else(|| {
            panic!("src/{file}: the module '{module}' has no line in ALLOWED of tests/architecture.rs")
        });
        for used in used_modules(&code) {
            let known = ALLOWED.iter().any(|(m, _)| *m == used);
            assert!(
                !known || used == module || allowed.contains(&used.as_str()),
                "src/{file} uses '{used}', which '{module}' may not"
            );
        }
    }
}

#[test]
fn fuse_and_sqlite_stay_where_they_belong() {
    for (file, code) in code() {
        let module = module_of(&file);
        assert!(module == "fuse" || !code.contains("fuser::"), "src/{file}: fuser is used in 'fuse' alone");
        // `sys` has what SQLite needs to go through a descriptor.
        let sqlite = matches!(module, "store" | "closure" | "lock" | "usage") || file == "sys/sqlite.rs";
        assert!(
            sqlite || !code.contains("rusqlite::"),
            "src/{file}: SQLite is used in store, closure, lock and usage alone"
        );
        let raw = matches!(module, "sys") || !code.contains("RawFd");
        assert!(raw, "src/{file}: raw descriptors are used in 'sys' alone");
        let env = matches!(module, "cli") || !code.contains("env::var");
        assert!(env, "src/{file}: the environment is read in 'cli' alone");
    }
}

/// What serde derives for a struct also reads an array; `json` does not.
/// A path leads elsewhere as soon as its owner wants it to (docs/security.md).
#[test]
fn what_is_unmounted_was_looked_at_by_descriptor() {
    for (file, code) in code() {
        let one_place = module_of(&file) == "sys" || file == "daemon/mounted.rs";
        for how in ["mount::unmount(", "fusermount::unmount("] {
            assert!(one_place || !code.contains(how), "src/{file}: daemon::mounted unmounts views");
        }
    }
}

#[test]
fn json_is_read_by_one_module() {
    for (file, code) in code() {
        if module_of(&file) == "json" || file.ends_with("tests.rs") {
            continue;
        }
        for how in ["from_slice", "from_str", "from_reader", "from_value", "Deserializer"] {
            let by_serde = code.contains(&format!("serde_json::{how}"));
            assert!(!by_serde, "src/{file}: JSON is read by the module 'json'");
        }
    }
}

#[test]
fn unsafe_is_in_sys_alone_and_explained() {
    for (file, code) in code() {
        // `fuser` has no other way to the number of a backing file that another process registered.
        if module_of(&file) != "sys" && file != "fuse/backing.rs" {
            for word in code.split(|c: char| !c.is_alphanumeric() && c != '_') {
                assert!(word != "unsafe", "src/{file}: unsafe code belongs into 'sys'");
            }
        }
    }
}

#[test]
fn files_are_short() {
    for (file, code) in code() {
        let lines = code.lines().filter(|l| !l.trim().is_empty()).count();
        assert!(
            lines <= MAX_LINES,
            "src/{file} has {lines} lines of code; split it by subject (at most {MAX_LINES})"
        );
        assert!(file != "main.rs" || lines <= 30, "src/main.rs has {lines} lines; it only calls the library");
    }
}

/// Adds a file, and those of the modules that it declares: `mod name;`, also after `#[path = "file"]` and in an inline module
/// whose `#[path = "folder"]` says where.
fn add_modules(file: PathBuf, found: &mut BTreeSet<PathBuf>) {
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let own = file.parent().unwrap().to_path_buf();
    let is_root = matches!(file.file_name().unwrap().to_str().unwrap(), "main.rs" | "mod.rs");
    let below = if is_root { own.clone() } else { file.with_extension("") };
    found.insert(file);
    let (mut folder, mut path) = (below.clone(), None);
    for line in text.lines().map(str::trim) {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if let Some(named) = line.strip_prefix("#[path = \"") {
            path = Some(own.join(named.trim_end_matches("\"]")));
        } else if let Some(name) = line.strip_prefix("mod ").and_then(|line| line.strip_suffix(';')) {
            let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            let file = path.take().or_else(|| candidates.into_iter().find(|file| file.exists()));
            add_modules(file.unwrap_or_else(|| panic!("no file of 'mod {name}'")), found);
        } else if line.starts_with("mod ") {
            folder = path.take().unwrap_or_else(|| below.clone());
        } else if line == "}" {
            folder.clone_from(&below);
        }
    }
}

#[test]
fn every_test_file_is_compiled() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut compiled = BTreeSet::new();
    for binary in ["model", "cli", "root", "nix"] {
        add_modules(tests.join(binary).join("main.rs"), &mut compiled);
    }
    let same = |path: &PathBuf| path.canonicalize().unwrap();
    let compiled: BTreeSet<PathBuf> = compiled.iter().map(same).collect();
    let mut all = Vec::new();
    sources(&tests, &mut all);
    // A crate of its own.
    let all = all.iter().filter(|path| !path.starts_with(tests.join("conformance"))).map(same);
    let forgotten: Vec<PathBuf> = all.filter(|path| !compiled.contains(path)).collect();
    assert!(compiled.len() > 60, "the tests were found");
    assert_eq!(forgotten, Vec::<PathBuf>::new(), "no `mod` line of a main.rs below tests/ leads there");
}

/// Scripts count the lines of `skip!`, and no others.
#[test]
fn every_skipped_test_is_counted() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for dir in ["src", "tests", "mount-helpers"] {
        sources(&top.join(dir), &mut files);
    }
    for file in &files {
        let name = file.strip_prefix(top).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let counted = name == "tests/support/skip.rs" || name.starts_with("tests/conformance");
        if !counted && text.contains(concat!("\"skip", "ped: ")) {
            others.push(name.to_owned());
        }
    }
    assert!(files.len() > 100, "the sources were found");
    assert_eq!(others, Vec::<PathBuf>::new(), "each of these prints a line of its own instead of skip!");
}

#[test]
fn the_scanner_sees_what_it_must() {
    assert_eq!(used_modules("use crate::{vfs::{Ino, Name}, layer, sys::open};"), ["vfs", "layer", "sys"]);
    assert_eq!(used_modules("crate::union::merge()"), ["union"]);
    assert_eq!(module_of("layer/dir/mod.rs"), "layer");
}
