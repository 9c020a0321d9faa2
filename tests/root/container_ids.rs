//! Containers of one id under several directories of their runtime (`runc --root`): what a hook ends is its own.
//!
//! Plays the runtime: a process with a mount namespace of its own is the container.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::containers::hook;
use crate::support::scene::{self, Ran, Scene};
use crate::support::wait::{PATIENCE, eventually};

/// A container that a runtime has made.
struct Container {
    process: Child,
    bundle: PathBuf,
}

impl Container {
    fn new(scene: &Scene, bundle: &str) -> Self {
        let bundle = scene.path(bundle);
        fs::create_dir_all(bundle.join("rootfs/nix")).unwrap();
        fs::write(bundle.join("config.json"), r#"{"root":{"path":"rootfs"}}"#).unwrap();
        let process = Command::new("unshare").args(["-m", "sleep", "600"]).spawn().unwrap();
        let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).unwrap();
        let id = process.id().to_string();
        eventually("the container has a mount namespace", PATIENCE, || {
            namespace(&id) != namespace("thread-self")
        });
        Self { process, bundle }
    }

    /// What the hook says when the runtime calls it for the container `web`.
    fn hook(&self, scene: &Scene, status: &str) -> Ran {
        let text = |below: &str| scene.path(below).to_str().unwrap().to_owned();
        let pid = if status == "stopped" { 0 } else { self.process.id() };
        let state = serde_json::json!({
            "ociVersion": "1.0.2", "id": "web", "status": status, "pid": pid, "bundle": self.bundle,
            "annotations": {"dev.nixview.closure": text("env-a.lock"), "dev.nixview.store": text("s")},
        });
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).arg(hook()).args(["--state-dir", &text("state")]);
        command.args(["--runtime-dir", &text("run"), "--nixview", env!("CARGO_BIN_EXE_nixview")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut hook = command.spawn().unwrap();
        hook.stdin.take().unwrap().write_all(state.to_string().as_bytes()).unwrap();
        scene::ran(hook.wait_with_output().unwrap())
    }

    /// True if it has a view at `/nix`.
    fn has_view(&self) -> bool {
        let nix = self.bundle.join("rootfs/nix/store");
        PathBuf::from(format!("/proc/{}/root{}", self.process.id(), nix.display())).exists()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The names of the views.
fn names(scene: &Scene) -> Vec<String> {
    let status = scene.nixview(&["status", "--json"]).ok().out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status.as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap().to_owned()).collect()
}

fn all_gone(scene: &Scene) {
    eventually("the servers end", PATIENCE, || scene.processes().is_empty());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn containers_of_one_id_have_views_of_their_own() {
    let scene = Scene::new();
    let mut first = Container::new(&scene, "first");
    let mut second = Container::new(&scene, "second");
    first.hook(&scene, "creating").ok();
    second.hook(&scene, "creating").ok();
    assert!(first.has_view() && second.has_view());
    assert_eq!(names(&scene), ["oci-web", "oci-web-2"]);
    assert_eq!(scene.status("oci-web-2")["container"]["bundle"], second.bundle.to_str().unwrap());

    second.kill();
    second.hook(&scene, "stopped").ok();
    assert_eq!(names(&scene), ["oci-web"]);
    assert!(first.has_view(), "the end of another container has ended it");
    first.kill();
    first.hook(&scene, "stopped").ok();
    assert_eq!(names(&scene), Vec::<String>::new());
    all_gone(&scene);
}

/// A runtime calls poststop also for a container whose hook has failed, or was never called.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_container_that_has_no_view_ends_none() {
    let scene = Scene::new();
    let first = Container::new(&scene, "first");
    first.hook(&scene, "creating").ok();
    for bundle in ["second", "first"] {
        let mut other = Container::new(&scene, bundle);
        other.kill();
        other.hook(&scene, "stopped").ok();
        assert_eq!(names(&scene), ["oci-web"], "{bundle}");
        assert!(first.has_view(), "{bundle}");
    }
    // A view that somebody else has called so.
    drop(first);
    all_gone(&scene);
    scene.mount("env-a", "a", &["--name", "oci-web", "--tmp"]).ok();
    let mut other = Container::new(&scene, "first");
    other.hook(&scene, "creating").ok();
    assert_eq!(names(&scene), ["oci-web", "oci-web-2"]);
    other.kill();
    other.hook(&scene, "stopped").ok();
    assert_eq!(names(&scene), ["oci-web"]);
    scene.nixview(&["umount", "oci-web"]).ok();
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_container_has_one_view_and_the_next_of_its_bundle_has_its_name() {
    let scene = Scene::new();
    let mut first = Container::new(&scene, "first");
    first.hook(&scene, "creating").ok();
    first
        .hook(&scene, "creating")
        .failed(1, &["has a view already: 'oci-web'", "hint: its hook is called twice"]);
    assert!(first.has_view());
    // Its runtime was killed too, and calls nothing at the end.
    first.kill();
    let mut next = Container::new(&scene, "first");
    next.hook(&scene, "creating").ok();
    assert_eq!(names(&scene), ["oci-web"]);
    assert!(next.has_view());
    next.kill();
    next.hook(&scene, "stopped").ok();
    all_gone(&scene);
}
