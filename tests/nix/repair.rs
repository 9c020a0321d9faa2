//! What real Nix's repair and its optimiser do to the members of mounted views.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::gcroots::nix;
use crate::support::scene::{Scene, on_each_backend};

/// What the view on `a` shows of its members: names, kinds, modes, sizes, times, targets, contents.
fn shown(scene: &Scene) -> String {
    let script = "cd a/store && { find . -printf '%p %y %m %T@ %l\\n'; find . -type f -exec sha256sum {} +; } | LC_ALL=C sort";
    scene.shell(script).ok().out
}

#[test]
#[ignore = "needs root, /dev/fuse and Nix"]
fn a_repaired_member_shows_after_a_remount_and_an_optimised_one_as_before() {
    for scene in on_each_backend() {
        let member = scene.store.logical("left");
        let cache = format!("file://{}", scene.path("cache").display());
        let copy = ["--extra-experimental-features", "nix-command", "copy", "--no-check-sigs"];
        let Some(copied) = nix(&scene, "nix", &[&copy[..], &["--to", &cache, &member]].concat()) else {
            return;
        };
        copied.ok();
        let mount = || drop(scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok());
        mount();
        let before = shown(&scene);
        let damaged = scene.store.real("left").join("bin/hello");
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&damaged, "damaged").unwrap();
        // A server lets the kernel keep what it has read of the store.
        assert!(shown(&scene) != before || !scene.by_overlayfs());
        let repair = ["--repair-path", &member, "--option", "substituters", &cache];
        let repair = [&repair[..], &["--option", "require-sigs", "false"]].concat();
        nix(&scene, "nix-store", &repair).unwrap().ok();
        if scene.by_overlayfs() {
            scene.shell("mount -o remount a").ok();
        } else {
            scene.nixview(&["umount", "web"]).ok();
            mount();
        }
        assert_eq!(shown(&scene), before, "repaired");
        nix(&scene, "nix-store", &["--optimise"]).unwrap().ok();
        assert_eq!(shown(&scene), before, "optimised");
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}
