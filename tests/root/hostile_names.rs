//! Views whose directory, lock and files have names that would steer a terminal.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use crate::support::hostile::{HOSTILE, assert_printable, has_text};
use crate::support::scene::{Scene, alone, ran};

#[test]
#[ignore = "mounts"]
fn no_name_of_a_view_steers_the_terminal() {
    alone();
    let scene = Scene::on("fuse");
    let (target, lock, upper) = (scene.path(HOSTILE), format!("{HOSTILE}.lock"), format!("up-{HOSTILE}"));
    fs::create_dir(&target).unwrap();
    fs::copy(scene.path("env-a.lock"), scene.path(&lock)).unwrap();
    let store = scene.store.root().to_str().unwrap();
    let nixview = |words: &[&str]| {
        let output = scene.command().args(words).current_dir(scene.dir.path()).output().unwrap();
        assert_printable(words, &output.stdout);
        assert_printable(words, &output.stderr);
        ran(output)
    };
    let mount = ["mount", "--store", store, "--closure", &lock, "--name", "v", "--upper", &upper, HOSTILE];
    nixview(&mount).ok();
    nixview(&mount).failed(1, &["a view named 'v'"]);
    fs::write(target.join(HOSTILE), "new").unwrap();
    let shown = nixview(&["status"]).ok().out;
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(shown.contains("/a\\nFORGED"), "{shown}");
    for words in [&["status", "--json"][..], &["diff", "--json", "v"]] {
        let value: Value = serde_json::from_str(&nixview(words).ok().out).unwrap();
        assert!(has_text(&value, HOSTILE), "{value}");
    }
    nixview(&["diff", "v"]).ok();
    nixview(&["-vvv", "trace", "v", "--for", "1ms", "-o", &format!("{HOSTILE}.trace")]).ok();
    nixview(&["reset", "v", HOSTILE]).failed(1, &[]);
    nixview(&["gc"]);
    nixview(&["du", "--store", store, "v"]).ok();
    nixview(&["umount", HOSTILE]).ok();
    nixview(&["umount", HOSTILE]).failed(1, &["a\\nFORGED"]);
    let run = [
        "-v",
        "run",
        "--store",
        store,
        "--closure",
        &lock,
        "--tmp",
        "--trace",
        &format!("{HOSTILE}.run"),
        "--",
    ];
    nixview(&[&run[..], &[HOSTILE]].concat());
    nixview(&[&run[..], &["/bin/true", HOSTILE]].concat()).ok();
    scene.assert_nothing_left();
}

/// A directory whose name is no text is refused or shown: `status` answers for the others in any case.
#[test]
#[ignore = "mounts"]
fn a_name_that_is_no_text_hides_no_view() {
    alone();
    let scene = Scene::new();
    let target = scene.dir.path().join(OsStr::from_bytes(b"a\xff\x9b\nFORGED"));
    fs::create_dir(&target).unwrap();
    scene.mount("env-a", "a", &["--name", "v"]).ok();
    let mount = |target: &Path| {
        let mut command = scene.command();
        command.args(["mount", "--name", "w", "--closure"]).arg(scene.path("env-b.lock"));
        command.arg("--store").arg(scene.store.root()).arg(target).output().unwrap()
    };
    let output = mount(&target);
    assert_printable(&["mount"], &output.stderr);
    assert_printable(&["mount"], &output.stdout);
    for words in [&["status"][..], &["status", "--json"]] {
        assert!(scene.nixview(words).ok().out.contains("env-a") || words.len() == 1);
    }
    scene.nixview(&["umount", "v"]).ok();
    if output.status.success() {
        scene.nixview(&["umount", "w"]).ok();
    }
    scene.assert_nothing_left();
}
