//! A view by overlayfs whatever its caller, its keeper and its surroundings come to.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::scene::{self, Ran, Scene};
use crate::support::wait::{PATIENCE, eventually};

fn mount(scene: &Scene, more: &[&str]) -> Ran {
    scene.mount("env-a", "a", &[&["--name", "web", "--backend", "overlay"], more].concat())
}

fn all_gone(scene: &Scene) {
    eventually("the keeper ends", PATIENCE, || scene.names("run/views").is_empty());
    scene.assert_nothing_left();
}

/// `mount` after what a shell was told of its limits.
fn mount_after(scene: &Scene, limits: &str) -> Ran {
    let program = scene.direct();
    let words = program.get_args().map(|word| format!("'{}'", word.to_str().unwrap()));
    let words: Vec<String> = words.collect();
    scene.shell(&format!(
        "{limits}; exec {} {} mount --name web --backend overlay --tmp --closure env-a.lock --store '{}' a",
        program.get_program().to_str().unwrap(),
        words.join(" "),
        scene.store.root().display()
    ))
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn limits_and_umask_of_the_caller_change_nothing() {
    let scene = Scene::new();
    for limits in ["umask 077", "ulimit -S -f 1", "ulimit -S -n 40", "ulimit -S -s 1024"] {
        let ran = mount_after(&scene, limits);
        assert_eq!(ran.code, Some(0), "{limits}: {ran:?}");
        for (below, mode) in [("a", 0o755), ("a/store", 0o755), ("a/var", 0o755), ("a/var/nix", 0o755)] {
            let found = fs::metadata(scene.path(below)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, 0, 0), "{limits}: {below}");
        }
        // No time of this mount: all views of a closure show the same.
        assert_eq!(fs::metadata(scene.path("a/store")).unwrap().mtime(), 1, "{limits}");
        fs::write(scene.path("a/store/new"), vec![1; 1 << 20]).unwrap();
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}

/// The module's own answers to what is not said at a mount; as they were when this is dropped.
struct Defaults(Vec<(PathBuf, String)>);

impl Defaults {
    fn set(values: &[(&str, &str)]) -> Self {
        let mut before = Self(Vec::new());
        for (name, value) in values {
            let path = Path::new("/sys/module/overlay/parameters").join(name);
            let Ok(was) = fs::read_to_string(&path) else { continue };
            before.0.push((path.clone(), was));
            fs::write(&path, value).unwrap();
        }
        before
    }
}

impl Drop for Defaults {
    fn drop(&mut self) {
        for (path, was) in &self.0 {
            fs::write(path, was).ok();
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn nightly_other_defaults_of_the_module_change_nothing() {
    let scene = Scene::new();
    let upper = scene.path("u").to_str().unwrap().to_owned();
    let sets = [
        [("redirect_dir", "N"), ("index", "Y"), ("metacopy", "N"), ("nfs_export", "Y"), ("xino_auto", "Y")],
        [("redirect_dir", "Y"), ("index", "N"), ("metacopy", "Y"), ("nfs_export", "N"), ("xino_auto", "N")],
    ];
    for (round, set) in sets.iter().enumerate() {
        let defaults = Defaults::set(set);
        let first = mount(&scene, &["--upper", &upper]);
        drop(defaults);
        first.ok();
        let libc = scene.path("a/store").join(scene.store.path("libc"));
        if round == 0 {
            // A directory of the store that is moved needs a redirect, and one of its files a copy.
            fs::rename(&libc, scene.path("a/store/moved")).unwrap();
        }
        let tool = scene.path("a/store/moved/lib/libc.so.1");
        let shown = fs::read(&tool).unwrap();
        fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(fs::read(&tool).unwrap(), shown);
        let line = nixview::sys::mountinfo::mount_at(&scene.path("a")).unwrap().unwrap();
        let options = String::from_utf8(line.super_options).unwrap();
        assert!(!options.contains("index=on") && !options.contains("nfs_export=on"), "{options}");
        assert!(!options.contains("metacopy=on") && !options.contains("xino=on"), "{options}");
        assert!(!options.contains("xino=auto"), "{options}");
        scene.nixview(&["umount", "web"]).ok();
        // The file was copied, not its attributes alone.
        let copy = Path::new(&upper).join("tree/nix/store/moved/lib/libc.so.1");
        assert_eq!(fs::read(copy).unwrap(), shown);
    }
    scene.assert_nothing_left();
}

/// Each descriptor pins the view, its upper and the anchor.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_keeper_has_nothing_open_of_the_view_or_its_layers() {
    let scene = Scene::new();
    mount(&scene, &["--tmp"]).ok();
    let view = fs::metadata(scene.path("a")).unwrap().dev();
    let line = nixview::sys::mountinfo::mount_at(&scene.path("a")).unwrap().unwrap();
    let keeper = scene.keeper("web");
    for entry in fs::read_dir(format!("/proc/{keeper}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let link = fs::read_link(&path).unwrap();
        let number = path.file_name().unwrap().to_str().unwrap();
        let info = fs::read_to_string(format!("/proc/{keeper}/fdinfo/{number}")).unwrap();
        assert!(!info.contains(&format!("mnt_id:\t{}\n", line.id)), "{}", link.display());
        assert_ne!(
            fs::metadata(&path).map(|found| found.dev()).unwrap_or_default(),
            view,
            "{}",
            link.display()
        );
        for kind in ["fscontext", "pipe:"] {
            assert!(!link.to_str().unwrap().contains(kind), "{}", link.display());
        }
    }
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn one_of_many_mounts_of_an_upper_wins() {
    let scene = Scene::new();
    let upper = scene.path("u").to_str().unwrap().to_owned();
    let mut started: Vec<Child> = (0..6)
        .map(|n| {
            fs::create_dir(scene.path(&format!("m{n}"))).unwrap();
            let mut command = scene.command();
            command.args(["mount", "--backend", "overlay", "--upper", &upper, "--name", &format!("v{n}")]);
            command.arg("--closure").arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root());
            command.arg(scene.path(&format!("m{n}"))).stderr(Stdio::null()).stdout(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    let won = started.iter_mut().filter_map(|child| child.wait().unwrap().success().then_some(())).count();
    assert_eq!((won, scene.mounts().len(), scene.leases().len()), (1, 1, 1));
    scene.nixview(&["umount", scene.mounts()[0].to_str().unwrap()]).ok();
    all_gone(&scene);
}

/// Sweeps until nothing of a view without a keeper is left: another overlay of this machine may have its number for a while.
fn swept(scene: &Scene) {
    eventually("a sweep takes all away", PATIENCE, || {
        scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
        scene.leases().is_empty() && scene.names("run/views").is_empty()
    });
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn each_way_of_unmounting_takes_all() {
    let scene = Scene::new();
    for how in ["umount a", "umount -l a", "umount -f a", "umount -f -l a"] {
        for killed in [false, true] {
            mount(&scene, &["--tmp"]).ok();
            if killed {
                scene::kill(scene.keeper("web"));
            }
            scene.shell(how).ok();
            if killed {
                swept(&scene);
            }
            all_gone(&scene);
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_run_whose_caller_is_killed_takes_its_view_along() {
    let scene = Scene::new();
    let mut command = scene.direct();
    command.args(["run", "--backend", "overlay", "--tmp", "--closure"]).arg(scene.path("env-a.lock"));
    command.arg("--store").arg(scene.store.root());
    command.args(["--", "/bin/sh", "-c", "echo ready; exec sleep 100"]).current_dir("/");
    let mut caller = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), scene.leases().len()), ("ready\n", 1));
    caller.kill().unwrap();
    caller.wait().unwrap();
    all_gone(&scene);
}

/// A process in a mount namespace of its own that has the mounts of this one.
fn container() -> Child {
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 100"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child
}

/// A keeper that is told to end takes the view from its path; a container that has it keeps it, with all that belongs to it.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_container_keeps_the_view_of_a_keeper_that_is_told_to_end() {
    let scene = Scene::new();
    let dir = scene.path("a/store");
    mount(&scene, &["--tmp"]).ok();
    let mut container = container();
    let keeper = scene.keeper("web");
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::TERM).unwrap();
    eventually("it is unmounted here", PATIENCE, || scene.mounts().is_empty());
    scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
    assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1));
    let inside = format!("/proc/{}/root{}", container.id(), dir.display());
    fs::write(format!("{inside}/new"), "mine").unwrap();
    assert_eq!(fs::read_dir(&inside).unwrap().count(), scene.store.closure("env-a").len() + 1);
    container.kill().unwrap();
    container.wait().unwrap();
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_its_registry_a_view_ends_as_whole_as_with_it() {
    let scene = Scene::new();
    for killed in [false, true] {
        mount(&scene, &["--tmp"]).ok();
        let keeper = scene.keeper("web");
        fs::remove_dir_all(scene.path("run")).unwrap();
        if killed {
            scene::kill(keeper);
        }
        scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
        assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1));
        fs::write(scene.path("a/store/new"), "mine").unwrap();
        scene.shell("umount a").ok();
        eventually("all is gone", PATIENCE, || {
            if killed {
                scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
            }
            scene.leases().is_empty() && scene.names("state/temporary").is_empty()
        });
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_full_disk_leaves_no_view_or_a_whole_one() {
    let scene = Scene::new();
    let mut mounted = 0;
    // From no space at all to enough.
    for kib in (8..=1024).step_by(92) {
        scene
            .shell(&format!("mkdir -p /mnt && mount -t tmpfs -o size={kib}k none /mnt && ln -sfn /mnt state"))
            .ok();
        let ran = mount(&scene, &["--read-only"]);
        if ran.code == Some(0) {
            mounted += 1;
            assert_eq!(
                fs::read_dir(scene.path("a/store")).unwrap().count(),
                scene.store.closure("env-a").len()
            );
            scene.nixview(&["umount", "web"]).ok();
        } else {
            assert!(
                ["No space left", "disk is full"].iter().any(|told| ran.err.contains(told)),
                "{kib}: {ran:?}"
            );
        }
        scene.assert_nothing_left();
        scene.shell("umount /mnt").ok();
    }
    assert!((1..12).contains(&mounted), "{mounted}");
}

/// The view hides the store that it is made of, and Nix's state with the roots that keep it.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_over_its_store_goes_on_and_leaves_nothing() {
    let scene = Scene::new();
    let before = scene.store_digest();
    let store = scene.store.root().to_str().unwrap();
    let use_it = || {
        let closure = scene.store.closure("env-a").len();
        assert_eq!(fs::read_dir(scene.path("s/nix/store")).unwrap().count(), closure);
        let hello = scene.path("s/nix/store").join(scene.store.path("left")).join("bin/hello");
        assert!(!fs::read(&hello).unwrap().is_empty());
        fs::write(&hello, "changed").unwrap();
        assert_eq!(fs::read_to_string(scene.path("s/nix/var/nix/db/schema")).unwrap(), "10");
    };
    for killed in [false, true] {
        for bound in [false, true] {
            let target = if bound { "a" } else { "s/nix" };
            scene.mount("env-a", target, &["--name", "web", "--tmp", "--backend", "overlay"]).ok();
            if bound {
                scene.shell("mount --bind a s/nix").ok();
            }
            use_it();
            if killed {
                scene::kill(scene.keeper("web"));
            }
            scene.nixview(&["gc", "--store", store]).ok();
            use_it();
            let umount = if bound { "umount s/nix && umount a" } else { "umount s/nix" };
            scene.shell(umount).ok();
            if killed {
                assert_eq!(scene.leases().len(), 1, "its roots stayed below it");
                swept(&scene);
            }
            all_gone(&scene);
        }
    }
    assert_eq!(scene.store_digest(), before);
}
