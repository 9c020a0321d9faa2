//! `nixview diff` and `reset` on uppers that were changed through the union, without a mount.

use crate::support::scene;
use crate::support::skip::skip;
use crate::support::union_support;
use std::fs;

use crate::support::changed::Changed;
use serde_json::Value;

fn json(ran: scene::Ran) -> Value {
    serde_json::from_str(&ran.ok().out).unwrap()
}

/// Changes of each kind in environment `env-b`.
fn all_kinds() -> Changed {
    let mut changed = Changed::new("env-b", "web");
    let (right, data) = (changed.below("right"), changed.below("data"));
    changed.write(&format!("{right}/bin/where"), b"changed");
    changed.chmod(&format!("{data}/share"), 0o700);
    changed.remove_tree(&changed.below("sparse"));
    changed.mkdir("store/new");
    changed.create("store/new/a\nb", b"12345");
    let twin = changed.below("twin");
    changed.remove_tree(&format!("{twin}/nothing"));
    changed.symlink(&format!("{twin}/nothing"), "same.bin");
    // Renewed: an opaque directory with less in it.
    changed.remove_tree(&changed.below("empty"));
    changed.mkdir(&changed.below("empty"));
    changed
}

fn lines(changed: &Changed) -> Vec<String> {
    let nix = |label: &str| format!("/nix/{}", changed.below(label));
    let mut lines = vec![
        format!("M {}/bin/where (mtime)", nix("right")),
        format!("P {}/share/ (mode)", nix("data")),
        format!("D {}/ (1 name in it, 4.0 MiB)", nix("sparse")),
        format!("T {}/nothing (symlink, was file)", nix("twin")),
        format!("P {}/ (mode, mtime)", nix("empty")),
        "A /nix/store/new/".to_owned(),
        "A /nix/store/new/a\\nb".to_owned(),
    ];
    let path = |line: &String| line.split(' ').nth(1).unwrap().trim_end_matches('/').to_owned();
    lines.sort_by_key(path);
    lines
}

#[test]
fn each_kind_of_change_is_a_line() {
    let changed = all_kinds();
    let ran = changed.nixview(&["diff", "web"]).ok();
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), lines(&changed), "{}", ran.out);
    assert_eq!(changed.nixview(&["diff", changed.upper.to_str().unwrap()]).ok().out, ran.out);
    let stat = changed.nixview(&["diff", "--stat", "web"]).ok().out;
    let expected = "2 added, 2 deleted, 1 modified, 2 with other metadata, 1 of another kind; ";
    assert!(stat.starts_with(expected), "{stat}");
    assert_eq!(changed.nixview(&["diff", "--exit-code", "web"]).code, Some(1));
}

#[test]
fn the_json_says_what_the_lines_say_and_more() {
    let changed = all_kinds();
    let report = json(changed.nixview(&["diff", "--json", "web"]));
    let all = report["changes"].as_array().unwrap();
    assert_eq!(all.len(), lines(&changed).len());
    let of = |path: String| all.iter().find(|change| change["path"] == path.as_str()).unwrap();
    let modified = of(format!("/nix/{}/bin/where", changed.below("right")));
    assert_eq!(
        (&modified["change"], &modified["metadata"]),
        (&"modified".into(), &serde_json::json!(["mtime"]))
    );
    assert_eq!(modified["before"]["mode"], modified["after"]["mode"]);
    let deleted = of(format!("/nix/{}", changed.below("sparse")));
    assert_eq!(deleted["gone"], serde_json::json!({"names": 2, "bytes": 4 << 20}));
    assert!(deleted.get("after").is_none());
    let added = of("/nix/store/new/a\nb".to_owned());
    assert_eq!((&added["after"]["size"], &added["after"]["kind"]), (&5.into(), &"file".into()));
    assert_eq!(report["summary"]["typeChanged"], 1);
    assert_eq!(report["view"], "web");
    assert!(json(changed.nixview(&["diff", "--json", "--stat", "web"])).get("changes").is_none());
}

#[test]
fn nothing_changed_is_nothing_and_a_missing_upper_says_where_to_look() {
    let changed = Changed::new("env-b", "web");
    let ran = changed.nixview(&["diff", "--exit-code", "web"]).ok();
    assert_eq!(ran.out, "");
    changed.nixview(&["diff", "none"]).failed(1, &["there is no upper at", "uppers/none", "upper list"]);
    changed.nixview(&["diff", "--exit-code", "none"]).failed(2, &["there is no upper"]);
    fs::write(changed.upper.join("view.json"), "{}").unwrap();
    changed.nixview(&["diff", "web"]).failed(1, &["view.json", "--closure"]);
    fs::remove_file(changed.upper.join("view.json")).unwrap();
    changed.nixview(&["diff", "web"]).failed(1, &["--closure"]);
    let (lock, store) = (changed.scene.path("env-b.lock"), changed.scene.store.root().to_owned());
    let over = ["--closure", lock.to_str().unwrap(), "--store", store.to_str().unwrap()];
    let owner = format!("{}:{}", union_support::caller().uid, union_support::caller().gid);
    let ran = changed.nixview(&[&["diff", "web", "--owner", &owner], &over[..]].concat()).ok();
    assert_eq!(ran.out, "");
    // Over a store without what the upper was made for.
    let other = changed.scene.path("env-a.lock");
    let over = ["--closure", other.to_str().unwrap(), "--store", store.to_str().unwrap()];
    let ran = changed.nixview(&[&["diff", "web", "--owner", "1:2"], &over[..]].concat()).ok();
    assert_eq!(ran.out, "P /nix/ (owner)\n");
}

/// `env-a` has not `data` and `twin`, but `right`: a part of the former is no change of it.
#[test]
fn parts_of_paths_that_another_environment_does_not_have_are_not_its_changes() {
    let mut changed = Changed::new("env-b", "web");
    let (right, data) = (changed.below("right"), changed.below("data"));
    changed.write(&format!("{right}/bin/where"), b"changed");
    changed.chmod(&format!("{data}/share"), 0o700);
    changed.mkdir("store/new");
    let (lock, store) = (changed.scene.path("env-a.lock"), changed.scene.store.root().to_owned());
    let owner = format!("{}:{}", union_support::caller().uid, union_support::caller().gid);
    let over = ["--closure", lock.to_str().unwrap(), "--store", store.to_str().unwrap(), "--owner", &owner];
    let diff = |changed: &Changed| changed.nixview(&[&["diff", "web"], &over[..]].concat()).ok().out;
    let expected = ["A /nix/store/new/".to_owned(), format!("M /nix/{right}/bin/where (mtime)")];
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&diff(&changed)), expected);
    let said = changed.nixview(&[&["diff", "web"], &over[..]].concat()).ok().err;
    assert!(said.contains("stay hidden") && said.contains(&data), "{said}");
    let report = json(changed.nixview(&[&["diff", "web", "--json"], &over[..]].concat()));
    assert_eq!(report["hidden"], serde_json::json!([format!("/nix/{data}")]));
    let layer = changed.scene.path("layer.tar");
    let export = ["export", "web", "-o", layer.to_str().unwrap()];
    changed.nixview(&[&export[..], &over].concat()).ok();
    let listed = changed.scene.shell("tar -tf layer.tar").ok().out;
    assert!(listed.contains("nix/store/new") && !listed.contains(&data), "{listed}");
    // It is there still, and can be deleted.
    assert!(changed.nixview(&["diff", "web"]).ok().out.contains(&data));
    changed.nixview(&[&["reset", "web", &data], &over[..]].concat()).ok();
    assert!(
        !changed
            .nixview(&[
                "diff",
                "web",
                "--closure",
                changed.scene.path("env-b.lock").to_str().unwrap(),
                "--store",
                store.to_str().unwrap()
            ])
            .ok()
            .out
            .contains(&data)
    );
}

#[test]
fn a_reset_takes_back_all_or_what_is_named() {
    let mut changed = all_kinds();
    let before = changed.scene.store_digest();
    let all = changed.nixview(&["diff", "web"]).ok().out;
    let dry = changed.nixview(&["reset", "--dry-run", "web"]).ok();
    assert_eq!(dry.out, all);
    assert!(dry.err.contains("would take back: 2 added"), "{}", dry.err);
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, all, "a dry run changes nothing");

    let (where_, new) = (format!("/nix/{}/bin/where", changed.below("right")), "store/new".to_owned());
    let ran = changed.nixview(&["reset", "web", &where_, &new, "/nix/store/new/a\nb"]).ok();
    assert_eq!(ran.out.lines().count(), 3, "{ran:?}");
    let left = changed.nixview(&["diff", "web"]).ok().out;
    let expected: Vec<String> =
        lines(&changed).into_iter().filter(|line| !line.contains("new") && !line.contains("where")).collect();
    assert_eq!(left.lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        changed.read(&where_["/nix/".len()..]),
        fs::read(changed.scene.store.real("right").join("bin/where")).unwrap()
    );
    let gone = format!("/nix/{}/holes.bin", changed.below("sparse"));
    let ran = changed.nixview(&["reset", "web", &gone, "/nix/store/z"]);
    assert_eq!(ran.out, "", "it stops there");
    ran.failed(1, &["stopped", "is deleted in the view; reset that", "sparse"]);
    changed.nixview(&["reset", "web", "/etc/passwd"]).failed(2, &["does not start with /nix"]);
    changed.nixview(&["reset", "web", "/nix/../etc"]).failed(2, &["is no path in the view"]);
    let same = changed.nixview(&["reset", "web", "/nix/store/new"]).ok();
    assert!(same.err.contains("/nix/store/new is as in the store"), "{}", same.err);

    let report = json(changed.nixview(&["reset", "--yes", "--json", "web"]));
    assert_eq!(report["changes"].as_array().unwrap().len(), expected.len());
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, "");
    assert_eq!(fs::read_dir(changed.upper.join("tree/nix")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(changed.upper.join("work")).unwrap().count(), 0);
    assert_eq!(changed.scene.store_digest(), before, "the store was not touched");
    // It is an upper still.
    changed.mkdir("store/again");
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, "A /nix/store/again/\n");
}

#[test]
fn an_upper_that_is_held_is_not_reset_and_can_be_compared() {
    let changed = all_kinds();
    let all = changed.nixview(&["diff", "web"]).ok().out;
    let held = changed.hold();
    let told = format!("in use by process {}", std::process::id());
    for words in [
        &["reset", "web"][..],
        &["reset", "--yes", "web"],
        &["upper", "remove", "web"],
        &["export", "web", "-o", "x"],
    ] {
        let ran = changed.nixview(words).failed(1, &[&told, "unmount its view first"]);
        assert!(!ran.err.contains("name another upper"), "that is for a mount: {ran:?}");
    }
    changed.nixview(&["reset", "web", "/nix/store/new"]).failed(1, &[&told]);
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, all);
    fs::write(changed.upper.join("work/draft"), "").unwrap();
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, all);
    assert!(changed.upper.join("work/draft").exists(), "a look disturbs nobody");
    drop(held);
}

/// Hints are those of the command that fails.
#[test]
fn what_is_no_upper_is_told_without_the_hints_of_a_mount() {
    let changed = all_kinds();
    let other = changed.scene.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "").unwrap();
    let other = other.to_str().unwrap();
    for words in
        [&["reset", other][..], &["diff", other], &["export", other, "-o", "x"], &["upper", "remove", other]]
    {
        let ran = changed.nixview(words).failed(1, &["is not an upper", "'nixview upper list'"]);
        assert!(!ran.err.contains("new or empty directory"), "{ran:?}");
    }
}

#[test]
fn a_whole_view_is_not_reset_unasked() {
    let changed = all_kinds();
    let all = changed.nixview(&["diff", "web"]).ok().out;
    for words in [
        &["reset", "web"][..],
        &["reset", "--json", "web"],
        &["reset", "web", "/nix"],
        &["reset", "web", "/nix/store/x", "."],
    ] {
        changed.nixview(words).failed(2, &["there is no terminal to ask on", "--yes"]);
    }
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, all);
    // On a terminal everything but a yes is a no.
    let ask = |answer: &str| {
        let (state, run) = (changed.scene.path("state"), changed.scene.path("run"));
        let line = format!(
            "{} --state-dir {} --runtime-dir {} reset web",
            env!("CARGO_BIN_EXE_nixview"),
            state.display(),
            run.display()
        );
        let mut script = std::process::Command::new("timeout");
        script.args(["60", "script", "-qec", &line, "/dev/null"]).stdin(std::process::Stdio::piped());
        let mut child = match script.stdout(std::process::Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                skip!("no script(1): {error}");
                return None;
            }
        };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(said) = ask("n\n") else { return };
    assert!(said.contains("Take all changes back (") && said.contains("[y/N]"), "{said}");
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, all);
    ask("y\n").unwrap();
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, "");
    // There is nothing to be asked for.
    changed.nixview(&["reset", "web"]).ok();
}

/// A rebuild that is killed before its one rename leaves the tree that was there.
#[test]
fn what_a_killed_reset_leaves_goes_at_the_next_start() {
    let changed = all_kinds();
    let all = changed.nixview(&["diff", "web"]).ok().out;
    fs::create_dir_all(changed.upper.join("work/new-root/store")).unwrap();
    fs::create_dir(changed.upper.join("work/new-work")).unwrap();
    fs::write(changed.upper.join("view.json.new"), "{").unwrap();
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, all);
    drop(changed.hold());
    changed.settle();
    assert_eq!(fs::read_dir(changed.upper.join("work")).unwrap().count(), 0);
    changed.nixview(&["reset", "--yes", "web"]).ok();
    assert_eq!(changed.nixview(&["diff", "web"]).ok().out, "");
}
