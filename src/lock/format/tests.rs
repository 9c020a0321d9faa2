//! Tests of the format, as its text and as a file.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::File;
use std::path::Path;

use proptest::prelude::*;

use super::super::source::{Inputs, InputsFrom, Kind, SearchPathEntry, SourceFile};
use super::*;

pub(in super::super) fn path(letter: char, name: &str) -> StorePath {
    format!("{}-{name}", String::from(letter).repeat(32)).parse().unwrap()
}

pub(in super::super) fn sample() -> EnvLock {
    EnvLock {
        closure: LockedClosure {
            count: 17,
            digest: Digest::of(b"names"),
            nar_size: Some(1234),
            references: None,
        },
        environment: None,
        extra_roots: Vec::new(),
        mode: Mode::Runtime,
        name: "web".to_owned(),
        only: None,
        roots: vec![
            Root {
                derivation: Some(path('d', "env.drv")),
                output: Some("out".to_owned()),
                path: path('a', "env"),
            },
            Root::plain(path('b', "bash")),
        ],
        source: Source::new(Kind::Paths, vec!["result".to_owned()]),
        store_dir: StoreDir::default(),
        system: Some("x86_64-linux".to_owned()),
    }
}

/// The text of the sample with one replacement; both must occur.
fn altered(from: &str, to: &str) -> Vec<u8> {
    let text = sample().print().unwrap();
    assert!(text.contains(from), "the sample has {from}");
    text.replacen(from, to, 1).into_bytes()
}

fn refused(text: &[u8]) -> String {
    EnvLock::parse(text, "a.lock").unwrap_err().to_string()
}

#[test]
fn the_text_is_what_the_documentation_shows() {
    let text = sample().print().unwrap();
    let expected = r#"{
  "closure": {
    "count": 17,
    "digest": "sha256-/fIqEF9Ka6UGmpyvAbf8jk8kLaYsgrBnYTKBmwfRpBw=",
    "narSize": 1234
  },
  "mode": "runtime",
  "name": "web",
  "roots": [
    {
      "drvPath": "/nix/store/dddddddddddddddddddddddddddddddd-env.drv",
      "output": "out",
      "path": "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-env"
    },
    {
      "path": "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash"
    }
  ],
  "source": {
    "given": [
      "result"
    ],
    "kind": "paths"
  },
  "storeDir": "/nix/store",
  "system": "x86_64-linux",
  "version": 1
}
"#;
    let digest = sample().closure.digest.to_string();
    assert_eq!(text, expected.replace("sha256-/fIqEF9Ka6UGmpyvAbf8jk8kLaYsgrBnYTKBmwfRpBw=", &digest));
}

#[test]
fn what_is_printed_is_read_back() {
    let lock = sample();
    assert_eq!(EnvLock::parse(lock.print().unwrap().as_bytes(), "x").unwrap(), lock);
}

#[test]
fn names_that_are_no_store_paths_are_refused() {
    let bash = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash";
    for (to, why) in [
        ("/nix/store/../bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "roots[1].path"),
        ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/../../../etc", "roots[1].path"),
        ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash/bin", "roots[1].path"),
        ("/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "not in the store directory"),
        ("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "not in the store directory"),
        ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-ba\\u0000sh", "roots[1].path"),
        ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-ba\\nsh", "roots[1].path"),
        ("/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-.-bash", "begins with one"),
        ("/nix/store/eeeebbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "nixbase32"),
        ("/nix/store/", "roots[1].path"),
    ] {
        let said = refused(&altered(bash, to));
        assert!(said.contains(why), "{to}: {said}");
    }
    let long = |n: usize| format!("/nix/store/{}-{}", "b".repeat(32), "n".repeat(n));
    assert!(refused(&altered(bash, &long(212))).contains("longer than 211"));
    assert!(EnvLock::parse(&altered(bash, &long(211)), "x").is_ok());
}

#[test]
fn another_store_directory_moves_all_paths_or_is_refused() {
    assert!(
        refused(&altered("\"storeDir\": \"/nix/store\"", "\"storeDir\": \"/gnu/store\""))
            .contains("roots[0]")
    );
    for wrong in ["", "nix/store", "/nix/store/", "/nix/../store", "/"] {
        refused(&altered("\"storeDir\": \"/nix/store\"", &format!("\"storeDir\": \"{wrong}\"")));
    }
}

#[test]
fn unknown_fields_and_versions_and_doubles_are_refused() {
    for (from, to, why) in [
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("\"version\": 1", "\"version\": 1.0", "invalid type"),
        ("\"version\": 1", "\"version\": -1", "invalid value"),
        (",\n  \"version\": 1", "", "no \"version\""),
        ("\"version\": 1", "\"version\": 1, \"version\": 1", "duplicate field"),
        ("\"version\": 1", "\"version\": 1, \"extra\": 0", "unknown field"),
        ("\"count\": 17", "\"count\": 17, \"paths\": []", "unknown field"),
        ("\"count\": 17", "\"count\": 17, \"count\": 17", "duplicate field"),
        ("\"output\": \"out\"", "\"output\": \"out\", \"outputs\": []", "unknown field"),
        ("\"kind\": \"paths\"", "\"kind\": \"paths\", \"url\": \"\"", "unknown field"),
        ("\"kind\": \"paths\"", "\"kind\": \"tarball\"", "unknown variant"),
        ("\"mode\": \"runtime\"", "\"mode\": \"everything\"", "unknown variant"),
        ("\"count\": 17", "\"count\": 1", "fewer paths"),
        ("\"count\": 17", "\"count\": -17", "invalid value"),
        ("\"digest\": \"sha256-", "\"digest\": \"sha512-", "sha256-"),
        ("\"name\": \"web\"", "\"name\": \"../web\"", "name"),
        ("\"name\": \"web\"", "\"name\": \"\"", "name"),
        ("\"name\": \"web\"", "\"name\": \"a b\"", "name"),
        ("x86_64-linux", "x86_64\\nlinux", "system"),
        ("\"output\": \"out\"", "\"output\": \"../out\"", "output"),
        ("-env.drv", "-env", "derivation"),
        ("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-env", "twice"),
    ] {
        let said = refused(&altered(from, to));
        assert!(said.starts_with("a.lock") && said.contains(why), "{to}: {said}");
    }
    let name = format!("\"name\": \"{}\"", "n".repeat(MAX_NAME + 1));
    assert!(refused(&altered("\"name\": \"web\"", &name)).contains("name"));
}

fn with_extra() -> EnvLock {
    let extra = |name: &str, letter| ExtraRoot { name: name.to_owned(), path: path(letter, name) };
    EnvLock { extra_roots: vec![extra("bash", 'b'), extra("fonts", 'f')], ..sample() }
}

#[test]
fn extra_roots_stand_after_the_closure_and_only_if_there_are_any() {
    let text = with_extra().print().unwrap();
    let expected = r#"  },
  "extraRoots": [
    {
      "name": "bash",
      "path": "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-bash"
    },
    {
      "name": "fonts",
      "path": "/nix/store/ffffffffffffffffffffffffffffffff-fonts"
    }
  ],
  "mode": "runtime",
"#;
    assert!(text.contains(expected), "{text}");
    assert_eq!(EnvLock::parse(text.as_bytes(), "x").unwrap(), with_extra());
    assert!(!sample().print().unwrap().contains("extraRoots"));
}

#[test]
fn extra_roots_that_no_lock_has_are_refused() {
    let text = with_extra().print().unwrap();
    for (from, to, why) in [
        ("\"name\": \"bash\"", "\"name\": \"fonts\"", "twice"),
        ("\"name\": \"bash\"", "\"name\": \"ttf\"", "not in order"),
        ("\"name\": \"bash\"", "\"name\": \"b/sh\"", "name of an extra root"),
        ("\"name\": \"bash\"", "\"name\": \"\"", "name of an extra root"),
        ("\"name\": \"bash\"", "\"name\": \"bash\", \"mode\": \"dev\"", "unknown field"),
        ("f-fonts", "f-fonts.drv", "is a derivation"),
        ("/nix/store/ffff", "/gnu/store/ffff", "extraRoots[1].path"),
        ("f-fonts", "f-fonts/share", "extraRoots[1].path"),
    ] {
        assert!(text.contains(from), "{from}");
        let said = refused(text.replacen(from, to, 1).as_bytes());
        assert!(said.contains(why), "{to}: {said}");
    }
    let extra = |n: usize| ExtraRoot { name: format!("x{n:03}"), path: path('c', "x") };
    let many = |n| EnvLock { extra_roots: (0..n).map(extra).collect(), ..sample() };
    assert!(many(MAX_EXTRA_ROOTS).print().is_ok());
    assert!(many(MAX_EXTRA_ROOTS + 1).print().is_err());
}

/// A derivation that is developed is no member of its closure, which may have fewer paths than there are roots.
#[test]
fn derivations_to_develop_may_need_fewer_paths_than_there_are() {
    let roots = vec![Root::plain(path('d', "one.drv")), Root::plain(path('f', "two.drv"))];
    let lock = |mode, count, roots: &[Root]| {
        let closure = LockedClosure { count, ..sample().closure };
        EnvLock { closure, mode, roots: roots.to_vec(), ..sample() }.print()
    };
    assert!(lock(Mode::Dev, 1, &roots).is_ok());
    assert!(lock(Mode::Dev, 0, &roots).is_ok());
    assert!(lock(Mode::Build, 1, &roots).is_err());
    let with_shell = [roots, vec![Root::plain(path('b', "bash"))]].concat();
    assert!(lock(Mode::Dev, 0, &with_shell).is_err(), "the shell is a member");
    assert!(lock(Mode::Dev, 1, &with_shell).is_ok());
}

/// Every place of a value, as the path to it.
fn places(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found));
        }
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| places(value, &format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

/// One value has one form: no array stands for an object, its values in order, and no null for a field that is left out.
#[test]
fn neither_arrays_nor_nulls_stand_where_objects_belong() {
    use serde_json::Value;
    let environment = Some(super::super::environment::tests::sample());
    let developed = EnvLock {
        environment,
        roots: vec![Root::plain(path('d', "env.drv"))],
        mode: Mode::Dev,
        ..with_extra()
    };
    let mut tried = 0;
    for lock in [with_extra(), developed] {
        let whole: Value = serde_json::from_str(&lock.print().unwrap()).unwrap();
        let mut all = Vec::new();
        places(&whole, "", &mut all);
        for at in all {
            let Some(Value::Object(map)) = whole.pointer(&at) else { continue };
            let values: Vec<Value> = map.values().cloned().collect();
            let mut arrays = vec![Value::Array(values.clone())];
            // In serde's order of fields a missing one counts as null.
            arrays.push(Value::Array([vec![Value::Null; 2], values].concat()));
            let absent =
                ["narSize", "references", "drvPath", "output", "environment", "only", "system", "attribute"];
            let nulls = absent.iter().chain(&["inputs", "nixVersion", "items", "value"]).map(|field| {
                let mut map = map.clone();
                map.insert((*field).to_owned(), Value::Null);
                Value::Object(map)
            });
            let words = map.iter().filter_map(|(field, value)| {
                let word = value.as_str()?;
                let mut map = map.clone();
                map.insert(field.clone(), serde_json::json!({ word: null }));
                Some(Value::Object(map))
            });
            for changed in arrays.into_iter().chain(nulls).chain(words) {
                let mut whole = whole.clone();
                *whole.pointer_mut(&at).unwrap() = changed.clone();
                let read = EnvLock::parse(whole.to_string().as_bytes(), "x");
                assert!(read.is_err(), "{at} as {changed}");
                tried += 1;
            }
        }
    }
    assert!(tried > 200, "{tried}");
    let odd = r#"[{"path":"x","references":[]},{"path":"y","references":[]}]"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("info.json");
    std::fs::write(&file, odd).unwrap();
    assert!(!EnvLock::is_one(&file), "what nix path-info says of two paths");
    sample().write(&file).unwrap();
    assert!(EnvLock::is_one(&file));
}

#[test]
fn a_lock_with_values_of_a_wrong_kind_is_a_wrong_lock() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.lock");
    for field in ["closure", "roots", "version", "mode"] {
        let text = sample().print().unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for wrong in [serde_json::json!(null), serde_json::json!([]), serde_json::json!({}), true.into()] {
            *value.get_mut(field).unwrap() = wrong;
            std::fs::write(&file, value.to_string()).unwrap();
            assert!(EnvLock::is_one(&file), "{value}");
            assert!(EnvLock::read(&file).is_err(), "{value}");
        }
    }
    for other in [r#"{"/nix/store/x":{"references":[]}}"#, r#"{"closure":[],"version":1}"#, "[]", "true"] {
        std::fs::write(&file, other).unwrap();
        assert!(!EnvLock::is_one(&file), "{other}");
    }
}

/// Variables of one derivation stand before the extra roots; of anything else there are none.
#[test]
fn an_environment_is_of_one_derivation_that_is_developed() {
    let environment = Some(super::super::environment::tests::sample());
    let roots = vec![Root::plain(path('d', "env.drv"))];
    let lock = EnvLock { environment, roots, mode: Mode::Dev, ..with_extra() };
    let text = lock.print().unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(sorted(&value, 0) + "\n", text, "canonical");
    assert!(text.find("\"environment\"") < text.find("\"extraRoots\""), "{text}");
    assert_eq!(EnvLock::parse(text.as_bytes(), "x").unwrap(), lock);
    for (from, to, why) in [
        ("\"mode\": \"dev\"", "\"mode\": \"build\"", "one derivation"),
        ("d-env.drv", "d-env", "one derivation"),
        ("\"value\": \"gcc\"", "\"value\": \"cc\"", "digest of the environment"),
        ("\"name\": \"CC\"", "\"name\": \"CC\", \"name\": \"CC\"", "duplicate field"),
        ("\"name\": \"CC\"", "\"name\": \"CC\", \"more\": 1", "unknown field"),
    ] {
        assert!(text.contains(from), "{from}");
        let said = refused(text.replacen(from, to, 1).as_bytes());
        assert!(said.contains(why), "{to}: {said}");
    }
}

#[test]
fn what_is_no_json_is_refused_wherever_it_ends() {
    let text = sample().print().unwrap();
    for end in 0..text.len() - 1 {
        assert!(EnvLock::parse(text.get(..end).unwrap().as_bytes(), "x").is_err(), "cut at {end}");
    }
    for wrong in [&b"[]"[..], b"null", b"\xff", b"{}{}", &b"[".repeat(100_000)] {
        refused(wrong);
    }
    let mut trailing = text.into_bytes();
    trailing.extend_from_slice(b"x");
    refused(&trailing);
}

#[test]
fn a_source_tells_of_an_evaluation_only_if_there_was_one() {
    refused(&altered("\"kind\": \"paths\"", "\"kind\": \"paths\",\n \"nixVersion\": \"2.8.0\""));
    refused(&altered("\"kind\": \"paths\"", "\"kind\": \"expression\""));
    refused(&altered("\"kind\": \"paths\"", "\"kind\": \"paths\", \"attribute\": \"x\""));
}

#[test]
fn a_gigabyte_is_refused_without_reading_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("huge.lock");
    File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let said = EnvLock::read(&file).unwrap_err().to_string();
    assert!(said.contains("larger than 64 MiB"), "{said}");
    // Nor is what has no end.
    let said = EnvLock::read(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(said.contains("it is a device, and no regular file"), "{said}");
}

/// The checks are on the bytes that are used: what replaces the file afterwards is not seen.
#[test]
fn a_swap_after_the_check_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env.lock");
    sample().write(&file).unwrap();
    let lock = EnvLock::read(&file).unwrap();
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(lock, sample());
}

#[test]
fn writing_is_all_or_nothing_and_leaves_no_draft() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env.lock");
    assert!(sample().write(&file).unwrap());
    assert!(!sample().write(&file).unwrap(), "it said the same already");
    let other = EnvLock { name: "other".to_owned(), ..sample() };
    assert!(other.write(&file).unwrap());
    assert_eq!(EnvLock::read(&file).unwrap(), other);
    let wrong = EnvLock { roots: Vec::new(), ..sample() };
    assert!(wrong.write(&file).is_err());
    assert_eq!(EnvLock::read(&file).unwrap(), other);
    assert!(sample().write(&dir.path().join("no/such/env.lock")).is_err());
    assert!(sample().write(dir.path()).is_err(), "a directory is not replaced");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["env.lock"]);
}

fn store_path() -> impl Strategy<Value = StorePath> {
    ("[0-9abcdfghijklmnpqrsvwxyz]{32}", "[a-zA-Z0-9+_?=-][a-zA-Z0-9+._?=-]{0,20}")
        .prop_map(|(hash, name)| format!("{hash}-{name}").parse().unwrap())
}

fn source() -> impl Strategy<Value = Source> {
    let text = "(?s).{0,12}";
    let digest = any::<[u8; 8]>().prop_map(|bytes| Digest::of(&bytes));
    let files = proptest::collection::vec(
        (digest.clone(), text).prop_map(|(digest, name)| SourceFile { digest, name }),
        0..3,
    );
    let inputs = (any::<u64>(), digest, prop_oneof![Just(InputsFrom::Git), Just(InputsFrom::Declared)])
        .prop_map(|(count, digest, from)| Inputs { count, digest, from });
    let entry =
        (proptest::option::of(text), text).prop_map(|(path, prefix)| SearchPathEntry { path, prefix });
    (
        proptest::collection::vec(text, 0..3),
        proptest::option::of(text),
        files,
        proptest::option::of(inputs),
        proptest::collection::vec(entry, 0..3),
        any::<bool>(),
    )
        .prop_map(|(arguments, attribute, files, inputs, search_path, evaluated)| {
            let given = vec!["shell.nix".to_owned()];
            if evaluated {
                let nix_version = Some("2.8.0".to_owned());
                Source {
                    arguments,
                    attribute,
                    files,
                    given,
                    inputs,
                    kind: Kind::Expression,
                    nix_version,
                    search_path,
                }
            } else {
                Source { files, ..Source::new(Kind::List, given) }
            }
        })
}

proptest! {
    #[test]
    fn print_parse_print_is_the_identity(
        roots in proptest::collection::btree_set(store_path(), 1..5),
        extra in proptest::collection::btree_map("[a-z0-9+_-][a-zA-Z0-9+._-]{0,9}", store_path(), 0..5),
        derivation in proptest::option::of(store_path()),
        count in 10_u64..,
        nar_size in proptest::option::of(any::<u64>()),
        scanned in any::<bool>(),
        mode in prop_oneof![Just(Mode::Runtime), Just(Mode::Build), Just(Mode::Dev)],
        name in "[a-z0-9+_-][a-z0-9+._-]{0,127}",
        system in proptest::option::of("[a-z0-9_]+-[a-z]+"),
        source in source(),
    ) {
        let derivation: Option<StorePath> = derivation.and_then(|d| format!("{d}.drv").parse().ok());
        let extra_roots: Vec<ExtraRoot> =
            extra.into_iter().map(|(name, path)| ExtraRoot { name, path }).collect();
        let root = |path| Root { derivation: derivation.clone(), output: derivation.as_ref().map(|_| "dev".to_owned()), path };
        let references = scanned.then_some(Recorded::Scan);
        let closure = LockedClosure { count, digest: Digest::of(name.as_bytes()), nar_size, references };
        let roots = roots.into_iter().map(root).collect();
        let lock = EnvLock { closure, environment: None, extra_roots, mode, name, only: None, roots, source, store_dir: StoreDir::default(), system };
        let text = lock.print().unwrap();
        let parsed = EnvLock::parse(text.as_bytes(), "x").unwrap();
        prop_assert_eq!(&parsed, &lock);
        prop_assert_eq!(&parsed.print().unwrap(), &text);
        // Canonical: serde_json's own maps are sorted, and give the same text.
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(sorted(&value, 0) + "\n", text);
    }

    #[test]
    fn no_bytes_make_it_panic(at in 0_usize..800, byte in any::<u8>()) {
        let mut text = sample().print().unwrap().into_bytes();
        let at = at % text.len();
        if let Some(place) = text.get_mut(at) {
            *place = byte;
        }
        // Whatever it answers, a lock that is accepted prints as one that is accepted.
        if let Ok(lock) = EnvLock::parse(&text, "x") {
            prop_assert!(lock.print().is_ok());
        }
    }
}

/// Canonical JSON, written independently of serde's field order.
fn sorted(value: &serde_json::Value, depth: usize) -> String {
    let (pad, end) = ("  ".repeat(depth + 1), "  ".repeat(depth));
    match value {
        serde_json::Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let rows = keys.iter().map(|key| {
                let key_text = serde_json::to_string(key).unwrap();
                format!("{pad}{key_text}: {}", sorted(map.get(*key).unwrap(), depth + 1))
            });
            format!("{{\n{}\n{end}}}", rows.collect::<Vec<_>>().join(",\n"))
        }
        serde_json::Value::Array(list) if !list.is_empty() => {
            let rows = list.iter().map(|v| format!("{pad}{}", sorted(v, depth + 1)));
            format!("[\n{}\n{end}]", rows.collect::<Vec<_>>().join(",\n"))
        }
        other => serde_json::to_string(other).unwrap(),
    }
}
