//! `kill -9` before each system call that changes anything, of the keeper of an overlay and of the process that mounts it: at the
//! start, at the end, and of a sweep. What the kernel goes on with stays whole; then all can be taken away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::kill_leases::{CHANGES, end, kill_rest, killed_at, lose_registry, sweep};
use crate::support::scene::{self, Scene};
use crate::support::strace;
use crate::support::wait::{PATIENCE, eventually};

fn keeping(scene: &Scene) -> Command {
    let mut command = scene.direct();
    command.args(["mount", "-f", "--backend", "overlay", "--tmp", "--name", "web", "--closure"]);
    command.arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root()).arg(scene.path("a"));
    command
}

/// Starts a view; `None` if it was killed, or one that it started was, before it could be used.
fn start(scene: &Scene, command: &mut Command) -> Option<Child> {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("strace is needed");
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    if said.contains("view 'web'") {
        return Some(child);
    }
    let other = ["killed by signal 9", "ended with code 137", "os error 10"];
    assert!(said.is_empty() || other.iter().any(|words| said.contains(words)), "{said}");
    assert!(!end(child));
    kill_rest(scene);
    None
}

fn gc(scene: &Scene) {
    assert!(sweep(scene).stdout(Stdio::null()).status().unwrap().success());
}

/// After a kill: a sweep leaves a view that can be used whole, and when it is unmounted, takes everything.
fn is_kept_then_swept(scene: &Scene, what: &str) -> bool {
    gc(scene);
    let stays = !scene.mounts().is_empty();
    if stays {
        assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1), "{what}");
        fs::write(scene.path("a/store/new"), "mine").unwrap();
        assert_eq!(fs::read(scene.path("a/store/new")).unwrap(), b"mine", "{what}");
        for mount in scene.mounts() {
            nixview::sys::mount::unmount(&mount, nixview::sys::mount::Unmount::Now).unwrap();
        }
    }
    // A lock alone says nothing.
    let records = || scene.names("run/views").into_iter().filter(|name| name.ends_with(".json")).count();
    // A process that is being killed may hold its locks a moment longer.
    eventually(what, PATIENCE, || {
        // An upper that says nothing of itself yet, or any more, is left alone for some minutes.
        scene.shell("find state/temporary -mindepth 1 -maxdepth 1 -exec touch -d '3 days ago' {} +");
        gc(scene);
        scene.leases().is_empty() && scene.names("state/temporary").is_empty() && records() == 0
    });
    assert_eq!(scene.mounts(), Vec::<PathBuf>::new(), "{what}");
    stays
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn nightly_a_keeper_of_an_overlay_that_is_killed_at_its_start_leaves_nothing() {
    let scene = Scene::new();
    let (mut kills, mut with_lease, mut stayed) = (BTreeMap::new(), 0, 0);
    // The first mount makes the image and Nix's state, and is killed there, too.
    for call in CHANGES {
        for n in 1.. {
            if n % 3 == 0 {
                fs::remove_dir_all(scene.path("state")).ok();
            }
            if let Some(keeper) = start(&scene, &mut killed_at(call, n, &keeping(&scene))) {
                assert_eq!(scene.leases().len(), 1);
                // On a busy machine the traced keeper may end later than this command waits for.
                scene.nixview(&["umount", "web"]);
                end(keeper);
                kills.insert(call, n - 1);
                break;
            }
            with_lease += scene.leases().len();
            stayed += usize::from(is_kept_then_swept(&scene, &format!("{call} {n}")));
        }
    }
    println!(
        "{} kills, {with_lease} with something of a lease, {stayed} with a view: {kills:?}",
        kills.values().sum::<usize>()
    );
    assert!(with_lease > 10, "the lease is made too late to be tested");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_keeper_of_an_overlay_that_is_killed_at_its_end_leaves_nothing() {
    let scene = Scene::new();
    let (mut kills, mut stayed) = (BTreeMap::new(), 0);
    for call in ["unlinkat", "unlink", "rmdir", "umount2", "fcntl", "openat", "ftruncate", "write"] {
        for n in 1.. {
            let keeper = start(&scene, &mut keeping(&scene)).unwrap();
            let pid = i32::try_from(keeper.id()).unwrap();
            let watching = strace::kill_at(call, n, pid);
            scene.shell(&format!("kill -TERM {pid}")).ok();
            let ended = end(keeper);
            end(watching);
            if ended {
                kills.insert(call, n - 1);
                break;
            }
            kill_rest(&scene);
            if n % 2 == 0 {
                lose_registry(&scene);
            }
            stayed += usize::from(is_kept_then_swept(&scene, &format!("{call} {n}")));
        }
    }
    println!("{} kills, {stayed} with a view: {kills:?}", kills.values().sum::<usize>());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_sweep_after_an_overlay_that_is_killed_is_finished_by_the_next() {
    let scene = Scene::new();
    let mut kills = BTreeMap::new();
    for call in ["openat", "openat2", "fcntl", "unlinkat", "unlink", "umount2"] {
        for n in 1.. {
            let keeper = start(&scene, &mut keeping(&scene)).unwrap();
            scene::kill(i32::try_from(keeper.id()).unwrap());
            end(keeper);
            // While it is mounted no sweep takes anything, wherever it is killed.
            let _ended = end(killed_at(call, n, &sweep(&scene)).spawn().unwrap());
            assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1), "{call} {n}");
            fs::write(scene.path("a/store/new"), "mine").unwrap();
            scene.shell("umount a").ok();
            let done = end(killed_at(call, n, &sweep(&scene)).spawn().unwrap());
            is_kept_then_swept(&scene, &format!("{call} {n}"));
            if done {
                kills.insert(call, n - 1);
                break;
            }
        }
    }
    println!("{} kills: {kills:?}", kills.values().sum::<usize>());
    scene.assert_nothing_left();
}
