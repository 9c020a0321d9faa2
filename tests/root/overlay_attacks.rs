//! What a container's root, with each capability that there is, and root of a user namespace can see of an overlay beside the view.

use std::fs;
use std::process::Command;

use crate::support::scene::{self, Ran, Scene};
use crate::support::skip::skip;

const ATTACK: &str = include_str!("../data/attacks/overlay.py");

fn python(arguments: &[&str]) -> Ran {
    scene::ran(Command::new("python3").args(["-c", ATTACK]).args(arguments).output().unwrap())
}

/// Attacks in a container that has the mount on `a` at /nix.
fn container(scene: &Scene, more: &[&str], arguments: &[&str]) -> Ran {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120", "bwrap", "--unshare-pid", "--ro-bind", "/", "/", "--dev", "/dev"]);
    command.args(["--proc", "/proc", "--tmpfs", "/mnt", "--bind"]).arg(scene.path("a")).arg("/nix");
    command.args(["--cap-add", "ALL"]).args(more).args(["--", "python3", "-c", ATTACK]).args(arguments);
    scene::ran(command.output().unwrap())
}

#[test]
#[ignore = "needs root, /dev/fuse, bubblewrap and python3"]
fn nothing_beside_the_view_is_seen_by_any_way_to_its_layers() {
    if !Command::new("bwrap").arg("--version").output().is_ok_and(|ran| ran.status.success()) {
        skip!("no bubblewrap");
        return;
    }
    let scene = Scene::new();
    let before = scene.store_digest();
    let upper = scene.path("u").to_str().unwrap().to_owned();
    let mount = || {
        let options = ["--name", "web", "--backend", "overlay", "--upper", &upper];
        scene.mount("env-a", "a", &options).ok();
    };
    mount();
    let secret = scene.store.path("secret").to_owned();
    let hidden = [scene.store.real("secret"), scene.store.store_dir(), scene.path("env-a.lock")];
    let hidden = hidden.each_ref().map(|path| path.to_str().unwrap());
    let handles = python(&[&["handles"], hidden.as_slice()].concat()).ok().out;
    let handles: Vec<&str> = handles.lines().collect();
    assert_eq!(handles.len(), 3);
    for user_namespace in [false, true] {
        let more: &[&str] =
            if user_namespace { &["--unshare-user", "--uid", "0", "--gid", "0"] } else { &[] };
        let ran = container(&scene, more, &[&[secret.as_str(), "/mnt"], handles.as_slice()].concat()).ok();
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(lines.len(), 1, "{}", ran.out);
        println!("user namespace {user_namespace}: {}", lines[0]);
        // Clones and overlays of its own are a container's right: they were looked through.
        for way in ["'moved clone'", "'nested overlay'", "'clone of /nix'"] {
            assert!(lines[0].contains(way), "{}", lines[0]);
        }
        for way in ["handle", "superblock"] {
            assert!(!lines[0].contains(way), "{}", lines[0]);
        }
    }
    scene.nixview(&["umount", "web"]).ok();
    // What was forged leads nowhere after the next mount, either.
    mount();
    let forged: Vec<_> = fs::read_dir(scene.path("a/store"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("forged-"))
        .collect();
    assert_eq!(forged.len(), 9);
    for path in forged {
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "{}", path.display());
    }
    scene.nixview(&["umount", "web"]).ok();
    assert_eq!(scene.store_digest(), before);
    scene.assert_nothing_left();
}
