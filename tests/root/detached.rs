//! Views that were unmounted lazily and are still used, beside others that took their places.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::Command;

use nixview::control::{Client, Stopped, ViewRef};

use crate::support::scene::Scene;
use crate::support::wait::{PATIENCE, eventually};

/// A scene with the view `old` at `a`, unmounted while a file of it is open.
fn detached() -> (Scene, File) {
    let scene = Scene::new();
    let upper = scene.path("old.upper");
    scene.mount("env-a", "a", &["--name", "old", "--upper", upper.to_str().unwrap()]).ok();
    fs::write(scene.path("a/old"), "old").unwrap();
    let open = File::open(scene.path("a/old")).unwrap();
    scene.nixview(&["umount", "--lazy", "old"]).ok();
    (scene, open)
}

fn ends(scene: &Scene, open: File) {
    drop(open);
    eventually("the detached view ends", PATIENCE, || scene.names("run/views").is_empty());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_path_means_the_view_that_is_mounted_there_now() {
    let (scene, open) = detached();
    let a = scene.path("a").to_str().unwrap().to_owned();
    scene.mount("env-b", "a", &["--name", "new", "--tmp"]).ok();
    fs::write(scene.path("a/new"), "new").unwrap();
    assert_eq!(
        (scene.status("old")["state"].clone(), scene.status("new")["state"].clone()),
        ("detached".into(), "mounted".into())
    );
    let table = scene.nixview(&["status"]).ok().out;
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("old").contains("detached") && row("new").contains("mounted"), "{table}");
    // Also for other commands that take a path.
    let diff = scene.nixview(&["diff", &a]).ok().out;
    assert!(diff.contains("/nix/new") && !diff.contains("/nix/old"), "{diff}");

    scene.nixview(&["umount", &a]).ok();
    assert_eq!(scene.mounts(), Vec::<std::path::PathBuf>::new());
    assert_eq!(scene.status("old")["state"], "detached");
    scene.nixview(&["umount", &a]).failed(1, &["no view", "hint: the view 'old' was, and is detached"]);
    scene
        .nixview(&["umount", "old"])
        .failed(1, &["view 'old' is not mounted here any more, but still in use"]);
    assert_eq!(
        fs::read_to_string(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open))).unwrap(),
        "old"
    );
    ends(&scene, open);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_service_takes_a_path_likewise() {
    let (scene, open) = detached();
    scene.mount("env-b", "a", &["--name", "new", "--tmp"]).ok();
    let asked = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_nixview"));
        program.arg("--state-dir").arg(scene.path("state")).arg("--runtime-dir").arg(scene.path("run"));
        program.args(["daemon", "--once"]);
        Client::start(program).unwrap()
    };
    let path = || ViewRef::Path(scene.path("a"));
    assert_eq!(asked().unmount(path(), false).unwrap(), ("new".to_owned(), Stopped::Ended));
    assert_eq!(asked().unmount(path(), false).unwrap().1, Stopped::Absent);
    assert_eq!(scene.status("old")["state"], "detached");
    ends(&scene, open);
}

/// As umount(8) does.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_link_to_a_mount_point_means_it() {
    let scene = Scene::on("fuse");
    symlink("a", scene.path("link")).unwrap();
    symlink(scene.path("link"), scene.path("b/link")).unwrap();
    for link in ["link", "b/link"] {
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        scene.nixview(&["umount", scene.path(link).to_str().unwrap()]).ok();
        scene.assert_nothing_left();
    }
    // Without a slash, where no view has that name; of a view whose server is dead too.
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    scene.kill_view("web");
    let ran = scene.command().args(["umount", "link"]).current_dir(scene.dir.path()).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    scene.assert_nothing_left();
}

/// A mount of a view at a second place is no view of its own.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_bind_mount_of_a_view_is_not_the_view() {
    let scene = Scene::new();
    scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
    rustix::mount::mount_bind(scene.path("a"), scene.path("b")).unwrap();
    let b = scene.path("b").to_str().unwrap().to_owned();
    scene.nixview(&["umount", &b]).failed(1, &["no view", "a second mount of a view"]);
    assert_eq!(scene.mounts().len(), 2);
    rustix::mount::unmount(&b, rustix::mount::UnmountFlags::empty()).unwrap();
    scene.nixview(&["umount", scene.path("a").to_str().unwrap()]).ok();
    scene.assert_nothing_left();
}

/// `status` and `umount` know where a view is after a directory above it was renamed.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_is_known_by_its_path_of_now() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("before/view")).unwrap();
    scene.mount("env-a", "before/view", &["--name", "web", "--tmp"]).ok();
    fs::rename(scene.path("before"), scene.path("after")).unwrap();
    let now = scene.path("after/view");
    let status = scene.status("web");
    assert_eq!(
        (&status["state"], &status["place"]["target"]),
        (&"mounted".into(), &now.to_str().unwrap().into())
    );
    scene.nixview(&["umount", now.to_str().unwrap()]).ok();
    scene.assert_nothing_left();
}
