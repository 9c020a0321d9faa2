//! Every command over names that would steer a terminal: nothing of them reaches it as it is, and JSON keeps their value.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use nixview::trace::{self, End, Head, Kind, TracedClosure};
use serde_json::Value;

use crate::support::changed::Changed;
use crate::support::hostile::{HOSTILE, assert_printable, has_text};
use crate::support::scene::Scene;

/// Runs a command, whatever its answer; both of its outputs must be printable. Answers the first, if it was a success.
fn run(scene: &Scene, seen: &mut BTreeSet<String>, words: &[&str]) -> Option<String> {
    let mut command = scene.command();
    command.args(words).current_dir(scene.dir.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_printable(words, &output.stdout);
    assert_printable(words, &output.stderr);
    seen.insert(words[0].to_owned());
    if !output.status.success() {
        println!("{words:?}: {}", String::from_utf8(output.stderr).unwrap());
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A trace of an environment that has hostile paths in it.
fn hostile_trace(scene: &Scene, lock: &Path) -> String {
    let known = nixview::lock::EnvLock::read(lock).unwrap();
    let head = Head {
        nixview_trace: trace::VERSION,
        view: HOSTILE.to_owned(),
        environment: HOSTILE.to_owned(),
        lock_file: lock.to_owned(),
        closure: TracedClosure { digest: known.closure.digest.to_string(), count: known.closure.count },
        store: scene.store.store_dir(),
        store_dir: known.store_dir.to_string(),
        io: HOSTILE.to_owned(),
        exact: true,
        from_start: true,
        since: 1_700_000_000,
    };
    let mut text = trace::head_line(&head).unwrap();
    for path in [HOSTILE.to_owned(), format!("store/{}/{HOSTILE}", scene.store.path("top"))] {
        text.extend(trace::use_line(Kind::Opened, path.as_bytes(), false).unwrap());
    }
    text.extend(trace::end_line(End { until: 1_700_000_060, complete: true }).unwrap());
    let file = format!("{HOSTILE}.trace");
    fs::write(scene.path(&file), text).unwrap();
    file
}

#[test]
fn no_command_lets_a_name_steer_the_terminal() {
    let mut changed = Changed::new("env-b", "web");
    changed.create(&format!("store/{HOSTILE}"), b"new");
    changed.symlink(&format!("store/link-{HOSTILE}"), HOSTILE);
    let scene = &changed.scene;
    let store = scene.store.root().to_str().unwrap();
    let path = scene.store.path("env-a");
    let lock = format!("{HOSTILE}.lock");
    fs::copy(scene.path("env-b.lock"), scene.path(&lock)).unwrap();
    fs::write(scene.path(HOSTILE), HOSTILE).unwrap();
    fs::write(scene.path(&format!("{HOSTILE}.json")), format!("{{\"{HOSTILE}\": 1}}")).unwrap();
    fs::write(scene.path(&format!("{HOSTILE}.nix")), HOSTILE).unwrap();
    let trace = hostile_trace(scene, &scene.path(&lock));
    for dir in ["state/uppers", "state/temporary", "state/nix-state", "run/views", "cdi"] {
        fs::create_dir_all(scene.path(dir).join(HOSTILE)).unwrap();
        fs::write(scene.path(dir).join(format!("{HOSTILE}.json")), HOSTILE).unwrap();
    }
    // An upper that a container's user could have made.
    let upper = scene.path(&format!("up-{HOSTILE}"));
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&changed.upper)
            .arg(&upper)
            .status()
            .unwrap()
            .success()
    );
    let upper = upper.to_str().unwrap().to_owned();
    let device = format!(
        r#"{{"cdiVersion":"0.3.0","kind":"nixview.dev/env","devices":[{{"name":{name},"containerEdits":
        {{"hooks":[{{"hookName":"poststop","path":"/h","args":["a","b","--closure",{name}]}}]}}}}]}}"#,
        name = serde_json::to_string(HOSTILE).unwrap()
    );
    fs::create_dir(scene.path("devices")).unwrap();
    fs::write(scene.path("devices/nixview-x.json"), device).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    for name in [format!("nix/store/{HOSTILE}"), format!("{HOSTILE}/x"), format!("nix/store/.wh.{HOSTILE}")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Block);
        header.set_size(0);
        layer.append_data(&mut header, name, &[][..]).unwrap();
    }
    fs::write(scene.path("layer.tar"), layer.into_inner().unwrap()).unwrap();
    changed.settle();

    let mut seen = BTreeSet::new();
    let mut run = |words: &[&str]| run(scene, &mut seen, words);
    let hostile = HOSTILE;
    run(&["keep", hostile, "--signals", "0", "--claim", "0", "--end", "0"]);
    let (json, nix) = (format!("{HOSTILE}.json"), format!("{HOSTILE}.nix"));
    for source in [hostile, &lock, &json, &nix, &upper] {
        for more in [&[][..], &["--json"], &["-v"], &["--name", hostile], &["--extra-root", hostile]] {
            run(&[&["lock", "--store", store, source, "-o", "out.lock"], more].concat());
        }
        run(&["closure", "--store", store, source]);
        run(&["closure", "--store", store, "--why", hostile, source]);
        run(&["closure", "--store", store, "--json", source]);
        for shown in [&[][..], &["--json"], &["--csv"], &["--paths"], &["--matrix"], &["--duplicates"]] {
            run(&[&["du", "--store", store, source, path], shown].concat());
        }
        run(&["du", "--store", store, source, "--html", &format!("{hostile}.html")]);
        run(&["du", "--store", store, source, "--svg", &format!("{hostile}.svg")]);
        run(&["layers", "--store", store, "--strategy", "per-path", source]);
        run(&["layers", "--store", store, "--strategy", "per-path", "--csv", source]);
        run(&["layers", "--store", store, "--popularity", source, "--strategy", "nixery", &lock]);
        run(&["cdi", source, "--hook", hostile]);
        run(&["cdi", source, "--hook", "/bin/sh", "--name", hostile]);
        run(&["cdi", source, "--hook", "/bin/sh", "--name", "x", "-o", "-"]);
        run(&["mount", "--closure", source, "--store", hostile, hostile]);
        run(&["run", "--closure", source, "--store", hostile, "--", hostile]);
        run(&["shell", "--closure", source, "--store", hostile]);
        run(&["trace", "report", source]);
        run(&["umount", source]);
        run(&["trace", source, "-o", hostile]);
        run(&["upper", "remove", &format!("./{source}")]);
        run(&["reset", "--dry-run", source]);
        run(&["import", "--closure", &lock, "--store", store, source, "layer.tar"]);
        run(&["import", "web", source]);
        run(&["export", source, "-o", "out.tar"]);
        run(&["diff", source]);
        run(&["status", source]);
        run(&["logs", source]);
        run(&[source]);
        run(&["completions", source]);
        run(&["daemon", source]);
        run(&["gc", "--store", source]);
        run(&["doctor", source]);
    }
    run(&["cdi", "--list", "--dir", "cdi"]);
    let listed = run(&["cdi", "--list", "--dir", "devices"]).unwrap();
    assert!(listed.contains("a\\nFORGED"), "{listed}");
    for dir in ["state", "run"] {
        fs::create_dir_all(scene.path(&format!("{hostile}.dirs/{dir}"))).unwrap();
    }
    for command in ["doctor", "status", "gc"] {
        run(&[command]);
        let dirs = format!("{hostile}.dirs");
        run(&[command, "--state-dir", &format!("{dirs}/state"), "--runtime-dir", &format!("{dirs}/run")]);
    }
    run(&["man", &format!("{hostile}.man")]);
    run(&["upper", "list"]);
    run(&["trace", "report", &trace]);
    run(&["trace", "report", "--csv", &trace]);
    run(&["lock", "--store", store, "--only-traced", &trace, &lock, "-o", &format!("{hostile}.small")]);
    for target in ["web", upper.as_str()] {
        for words in [&["diff"][..], &["reset", "--dry-run"], &["export", "-o", "changes.tar"]] {
            let shown = run(&[words, &[target]].concat()).unwrap();
            assert!(words[0] == "export" || shown.contains("a\\nFORGED"), "{shown}");
        }
    }

    // What has the name in JSON has its value.
    let values: Vec<Value> = [
        &["diff", "--json", "web"][..],
        &["reset", "--dry-run", "--json", "web"],
        &["cdi", "--list", "--dir", "devices", "--json"],
        &["trace", "report", "--json", &trace],
        &["du", "--store", store, "--json", &lock],
        &["layers", "--store", store, "--strategy", "per-path", "--json", &lock],
    ]
    .into_iter()
    .map(|words| serde_json::from_str(&run(words).unwrap_or_else(|| panic!("{words:?}"))).unwrap())
    .collect();
    for value in values {
        assert!(has_text(&value, HOSTILE), "{value}");
    }

    // A line of a log is one line, as text and as JSON.
    fs::create_dir_all(scene.path("state/logs")).unwrap();
    let line = serde_json::json!({ "time": "2026-01-01T00:00:00Z", "level": "error", "process": "server", "pid": 7,
        "module": hostile, "message": hostile });
    fs::write(scene.path("state/logs/web.log"), format!("{line}\n")).unwrap();
    let text = run(&["logs", "web"]).unwrap();
    assert!(text.lines().count() == 1 && text.contains("a\\nFORGED"), "{text}");
    let line: Value = serde_json::from_str(&run(&["logs", "--json", "web"]).unwrap()).unwrap();
    assert!(has_text(&line["message"], "a\\nFORGED"), "the log keeps printable text: {line}");

    // And a name that is no UTF-8 at all.
    let raw = std::ffi::OsStr::from_bytes(b"a\xff\x1b[31m\x9b\nFORGED");
    fs::write(scene.dir.path().join(raw), "").unwrap();
    for words in [
        &["closure"][..],
        &["du"],
        &["diff"],
        &["trace", "report"],
        &["umount"],
        &["lock"],
        &["mount", "--closure"],
    ] {
        let output = scene.command().args(words).arg(raw).current_dir(scene.dir.path()).output().unwrap();
        assert_printable(words, &output.stdout);
        assert_printable(words, &output.stderr);
    }

    let all: BTreeSet<String> =
        nixview::cli::definition().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(all.difference(&seen).collect::<Vec<_>>(), Vec::<&String>::new(), "commands without a case");
}
