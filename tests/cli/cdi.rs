//! `nixview cdi`: devices for container runtimes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::scene::{self, Ran, Scene};
use serde_json::{Value, json};

/// `nixview cdi` with a directory of its own.
fn cdi(scene: &Scene, words: &[&str]) -> Ran {
    let dir = scene.path("cdi");
    let mut command = scene.command();
    command.arg("cdi").arg("--dir").arg(dir).args(words).current_dir(scene.dir.path());
    scene::ran(command.output().unwrap())
}

#[test]
fn each_environment_is_a_device_until_it_is_removed() {
    let scene = Scene::new();
    assert_eq!(cdi(&scene, &["--list"]).ok().out, "");
    let written = cdi(&scene, &["env-a.lock", "env-b.lock", "--hook", "/bin/sh"]).ok().out;
    assert_eq!(written, "nixview.dev/env=env-a\nnixview.dev/env=env-b\n");
    assert_eq!(scene.names("cdi"), ["nixview-env-a.json", "nixview-env-b.json"]);
    let file = scene.path("cdi/nixview-env-a.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let found: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let lock = scene.path("env-a.lock");
    let (state, run) = (scene.path("state"), scene.path("run"));
    let hook = |stage: &str| {
        json!({ "hookName": stage, "path": "/bin/sh", "args": ["nixview-oci-hook", stage, "--closure", lock,
            "--state-dir", state, "--runtime-dir", run] })
    };
    let path = format!(
        "PATH={}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        scene.store.logical("env-a")
    );
    let edits = json!({ "env": [path], "hooks": [hook("createRuntime"), hook("poststop")] });
    let device = json!({ "name": "env-a", "containerEdits": edits });
    let want = json!({ "cdiVersion": "0.3.0", "kind": "nixview.dev/env", "devices": [device] });
    assert_eq!(found, want);

    let listed = cdi(&scene, &["--list"]).ok().out;
    assert!(listed.contains("nixview.dev/env=env-b") && listed.contains(lock.to_str().unwrap()), "{listed}");
    let listed: Value = serde_json::from_str(&cdi(&scene, &["--list", "--json"]).ok().out).unwrap();
    assert_eq!((&listed[0]["name"], listed.as_array().unwrap().len()), (&json!("env-a"), 2));
    cdi(&scene, &["--remove", "env-a"]).ok();
    cdi(&scene, &["--remove", "nixview.dev/env=env-b"]).ok();
    assert_eq!(scene.names("cdi"), Vec::<String>::new());
    cdi(&scene, &["--remove", "env-a"]).failed(1, &["no device nixview.dev/env=env-a", "--list"]);
}

#[test]
fn options_are_handed_to_the_hook() {
    let scene = Scene::new();
    let words = [
        "env-a.lock",
        "--hook",
        "/bin/sh",
        "--name",
        "3d",
        "--read-only",
        "--owner",
        "7:8",
        "--store",
        "s/nix/store",
        "--keep-path",
        "-o",
        "-",
    ];
    let found: Value = serde_json::from_str(&cdi(&scene, &words).ok().out).unwrap();
    assert_eq!(found["cdiVersion"], "0.5.0", "the first in which a name may begin with a digit");
    let edits = &found["devices"][0]["containerEdits"];
    assert!(edits.get("env").is_none());
    let args = edits["hooks"][0]["args"].to_string();
    for told in ["\"--readonly\"", "\"--owner\",\"7:8\"", "s/nix/store\""] {
        assert!(args.contains(told), "{told}: {args}");
    }
    let upper = ["env-a.lock", "--hook", "/bin/sh", "--upper", "u", "-o", "one.json"];
    assert_eq!(cdi(&scene, &upper).ok().out, "");
    let text = fs::read_to_string(scene.path("one.json")).unwrap();
    assert!(text.contains(&format!("\"{}\"", scene.path("u").display())), "{text}");
}

#[test]
fn what_would_be_no_device_is_refused() {
    let scene = Scene::new();
    let hook = ["--hook", "/bin/sh"];
    let with = |words: &[&str]| cdi(&scene, &[words, &hook].concat());
    cdi(&scene, &[]).failed(2, &["FILE"]);
    cdi(&scene, &["env-a.lock", "--hook", "/nowhere"]).failed(1, &["/nowhere", "hint"]);
    with(&["none.lock"]).failed(1, &["none.lock"]);
    with(&["env-a.lock", "--name", "a/b"]).failed(1, &["'a/b' is no name for a device", "--name"]);
    with(&["env-a.lock", "env-b.lock", "--name", "x"]).failed(2, &["--name is for one"]);
    with(&["env-a.lock", "env-a.lock"]).failed(2, &["two of the environments"]);
    with(&["env-a.lock", "--tmp", "--read-only"]).failed(2, &["cannot be used with"]);
    cdi(&scene, &["--remove", "../x"]).failed(1, &["no name for a device"]);
    assert_eq!(scene.names("cdi"), Vec::<String>::new());
}
