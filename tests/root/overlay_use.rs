//! What still uses an overlay whose keeper was killed: that keeps its roots and its upper, and nothing else does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nixview::sys::fuse_connection::{FuseConnection, Sign};

use crate::support::scene::{self, Scene};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

fn mount(scene: &Scene, name: &str, target: &str) {
    scene.mount("env-a", target, &["--name", name, "--backend", "overlay", "--tmp"]).ok();
}

/// Root's look at connections works with fusectl mounted, as systemd does it, and without.
fn with_and_without_fusectl(test: impl Fn(&Scene)) {
    for mounted in [false, true] {
        let scene = Scene::new();
        scene.shell("umount /sys/fs/fuse/connections 2>/dev/null");
        if mounted {
            scene.shell("mount -t fusectl none /sys/fs/fuse/connections").ok();
        }
        test(&scene);
        scene.shell("umount /sys/fs/fuse/connections 2>/dev/null");
    }
}

fn gc(scene: &Scene, more: &[&str]) -> scene::Ran {
    let store = scene.store.root().to_str().unwrap();
    scene.nixview(&[&["gc", "--store", store], more].concat()).ok()
}

fn is_whole(scene: &Scene) {
    scene.nixview(&["status"]).ok();
    gc(scene, &[]);
    // Each of these sweeps, also uppers that no record names.
    mount(scene, "other", "b");
    scene.nixview(&["umount", "other"]).ok();
    assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1));
}

fn is_swept(scene: &Scene) {
    // A process that is being killed may hold its locks a moment longer.
    eventually("a sweep takes all away", PATIENCE, || {
        gc(scene, &[]);
        scene.leases().is_empty() && scene.names("run/views").is_empty()
    });
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_connection_is_known_again_after_others_went_and_told_from_a_later_one() {
    let scene = Scene::new();
    scene
        .shell("mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections")
        .ok();
    let connection = |name: &str| {
        let number = scene.status(name)["anchor"].as_u64().unwrap();
        FuseConnection::of_number(number)
    };
    mount(&scene, "web", "a");
    mount(&scene, "other", "b");
    let (web, other) = (connection("web"), connection("other"));
    let (sign, old) = (web.sign().unwrap(), other.sign().unwrap());
    scene.nixview(&["umount", "other"]).ok();
    assert_eq!(web.sign().unwrap().is_of_one(sign), Some(true));
    assert_eq!(Sign::parse(&sign.text()).is_of_one(sign), Some(true));
    mount(&scene, "other", "b");
    assert_eq!(connection("other").sign().unwrap().is_of_one(old), Some(false));
    scene.nixview(&["umount", "other"]).ok();
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_open_file_keeps_a_view_without_keeper_and_mount() {
    with_and_without_fusectl(|scene| {
        mount(scene, "web", "a");
        let open = File::create(scene.path("a/store/new")).unwrap();
        scene::kill(scene.keeper("web"));
        scene.shell("umount -l a").ok();
        is_whole(scene);
        let lease = fs::read_to_string(scene.leases()[0].join("lease")).unwrap();
        assert!(lease.contains("anchor="), "{lease}");
        let dry = gc(scene, &["--dry-run", "--json"]);
        assert!(!dry.out.contains("web"), "{dry:?}");
        drop(open);
        is_swept(scene);
    });
}

/// Of a namespace without a process no mount table tells.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_mount_namespace_without_a_process_keeps_a_view() {
    with_and_without_fusectl(|scene| {
        mount(scene, "web", "a");
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 100"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let namespace = File::open(format!("/proc/{}/ns/mnt", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        scene::kill(scene.keeper("web"));
        scene.shell("umount a").ok();
        is_whole(scene);
        let path = scene.path("a/store");
        let namespace = OwnedFd::from(namespace);
        let seen = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_FS).unwrap();
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS).unwrap();
            fs::read_dir(path).unwrap().count()
        });
        assert_eq!(seen.join().unwrap(), scene.store.closure("env-a").len());
        // The thread's end was the namespace's, too.
        eventually("the namespace ends", PATIENCE, || {
            gc(scene, &[]);
            scene.leases().is_empty()
        });
        is_swept(scene);
    });
}

/// The kernel gives the numbers of a view that is gone to the next one.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_later_view_with_the_same_numbers_keeps_nothing_of_an_earlier_one() {
    let scene = Scene::new();
    scene.shell("umount /sys/fs/fuse/connections 2>/dev/null");
    scene.shell("mount -t fusectl none /sys/fs/fuse/connections").ok();
    mount(&scene, "web", "a");
    let numbers = |name: &str| {
        let lease = fs::read_dir(scene.leases_dir()).unwrap().flatten();
        let mut lease = lease.filter(|dir| dir.file_name().to_str().unwrap().starts_with(name));
        let text = fs::read_to_string(lease.next().unwrap().path().join("lease")).unwrap();
        (text.split(' ').nth(1).unwrap().to_owned(), text.split(' ').nth(3).unwrap().to_owned())
    };
    let first = numbers("web");
    scene::kill(scene.keeper("web"));
    scene.shell("umount a").ok();
    mount(&scene, "other", "b");
    let second = numbers("other");
    let anchor = |text: &str| text.split(':').next().unwrap().to_owned();
    if (&first.0, anchor(&first.1)) != (&second.0, anchor(&second.1)) {
        skip!("the kernel gave other numbers: {first:?}, {second:?}");
    }
    gc(&scene, &[]);
    assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1), "{first:?} {second:?}");
    assert_eq!(scene.status("other")["state"], "mounted");
    scene.nixview(&["umount", "other"]).ok();
    is_swept(&scene);
    scene.shell("umount /sys/fs/fuse/connections");
}

/// A collection of all caches leaves what a container shows without a keeper: its image and Nix's state.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn caches_of_a_view_without_keeper_stay_as_long_as_it_is_used() {
    with_and_without_fusectl(|scene| {
        mount(scene, "web", "a");
        let database = scene.path("a/var/nix/db/db.sqlite");
        let before = fs::read(&database).unwrap();
        let templates = || {
            let names = scene.names("state/nix-state").into_iter();
            names.filter(|name| scene.path("state/nix-state").join(name).is_dir()).count()
        };
        scene::kill(scene.keeper("web"));
        for more in [&["--older-than", "0"][..], &["--older-than", "0", "--dry-run"]] {
            gc(scene, more);
            scene.shell("echo 2 >/proc/sys/vm/drop_caches").ok();
            assert_eq!(templates(), 1);
            assert_eq!(fs::read(&database).unwrap(), before);
            assert_eq!(
                fs::read_dir(scene.path("a/store")).unwrap().count(),
                scene.store.closure("env-a").len()
            );
        }
        scene.shell("umount a").ok();
        // A process that is being killed may hold its locks a moment longer.
        eventually("nothing of it is left", PATIENCE, || {
            gc(scene, &["--older-than", "0"]);
            let notes = scene.names("state/nix-state").into_iter().filter(|name| name.starts_with("use-"));
            notes.count() == 0 && templates() == 0
        });
        is_swept(scene);
        // One that ends as it should leaves no note, or one for the next sweep where another overlay has its number already.
        mount(scene, "web", "a");
        scene.nixview(&["umount", "web"]).ok();
        eventually("its note goes", PATIENCE, || {
            gc(scene, &[]);
            !scene.names("state/nix-state").iter().any(|name| name.starts_with("use-"))
        });
    });
}
