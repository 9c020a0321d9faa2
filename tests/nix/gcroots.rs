//! Real Nix's collector and the roots of mounted views, in a store of the test's own.

use std::process::Command;

use crate::support::scene::{Ran, Scene, ran};
use crate::support::skip::skip;

/// Real Nix on the scene's store; nothing where it is not installed.
fn nix(scene: &Scene, program: &str, arguments: &[&str]) -> Option<Ran> {
    let remote = format!("local?root={}", scene.store.root().display());
    let mut command = Command::new("timeout");
    command.args(["120", program]).args(arguments).env("NIX_REMOTE", remote);
    if Command::new(program).arg("--version").output().is_err() {
        skip!("{program} is not installed");
        return None;
    }
    Some(ran(command.output().unwrap()))
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn members_survive_a_collection_while_they_are_mounted_and_go_afterwards() {
    let scene = Scene::new();
    let Some(none) = nix(&scene, "nix-store", &["--gc", "--print-roots"]) else { return };
    assert!(!none.ok().out.contains("nixview"));
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    let roots = nix(&scene, "nix-store", &["--gc", "--print-roots"]).unwrap().ok().out;
    assert!(
        roots.contains("gcroots/nixview/web-") && roots.contains(&scene.store.logical("env-a")),
        "{roots}"
    );

    nix(&scene, "nix-store", &["--gc"]).unwrap().ok();
    // Nix keeps the derivations that members were built from as well (keep-derivations).
    let left = scene.names("s/nix/store");
    for member in scene.store.closure("env-a") {
        assert!(left.iter().any(|name| name == member), "{member} was collected");
    }
    for other in ["env-b", "data", "secret"] {
        assert!(!left.iter().any(|name| name == scene.store.path(other)), "{other} was not collected");
    }
    let libc = scene.store.path("libc");
    scene.shell(&format!("cat a/store/{libc}/lib/libc.so.1")).ok();
    // A view of what is gone is refused, by name, and leaves nothing.
    scene.mount("env-b", "b", &["--name", "two", "--tmp"]).failed(1, &["env-b"]);

    scene.nixview(&["umount", "web"]).ok();
    nix(&scene, "nix-store", &["--gc"]).unwrap().ok();
    let mut left = scene.names("s/nix/store");
    left.retain(|name| !name.starts_with('.'));
    assert_eq!(left, Vec::<String>::new());
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).failed(1, &["env-a"]);
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn build_closures_are_kept_whole() {
    let scene = Scene::new();
    scene.lock_in("env-a.drv", nixview::closure::Mode::Build);
    scene.mount("env-a.drv", "a", &["--name", "web", "--tmp"]).ok();
    let Some(collected) = nix(&scene, "nix-store", &["--gc"]) else { return };
    collected.ok();
    let left = scene.names("s/nix/store");
    let members = scene.store.build_closure("env-a.drv");
    assert!(members.contains(&scene.store.path("env-a")));
    for member in members {
        assert!(left.iter().any(|name| name == member), "{member} was collected");
    }
    assert!(!left.iter().any(|name| name == scene.store.path("secret")));
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn extra_roots_are_shown_told_and_survive_a_collection() {
    let scene = Scene::new();
    let store = scene.store.root().display().to_string();
    let file = scene.path("extra.lock").display().to_string();
    let extra = format!("data={}", scene.store.logical("data"));
    let env = scene.store.path("env-a");
    scene.nixview(&["lock", "--store", &store, "-o", &file, "--extra-root", &extra, env]).ok();
    scene.mount("extra", "a", &["--name", "extra", "--tmp"]).ok();
    let status = scene.nixview(&["status", "--json", "extra"]).ok().out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let expected = serde_json::json!([{ "name": "data", "path": scene.store.logical("data") }]);
    assert_eq!(status[0]["extraRoots"], expected);
    let status = scene.nixview(&["status"]).ok().out;
    assert!(status.contains(" (with data)"), "{status}");
    if let Some(collected) = nix(&scene, "nix-store", &["--gc"]) {
        collected.ok();
    }
    scene.shell(&format!("ls a/store/{} a/store/{env}", scene.store.path("data"))).ok();
    scene.nixview(&["umount", "extra"]).ok();
    scene.assert_nothing_left();
}
