//! `kill -9` before each system call that changes anything: of a server from its start until its view can be used, of one
//! that ends, and of a sweep. Whatever was killed, the next sweep leaves no lease, also when the registry is lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::scene::{self, Scene};
use crate::support::wait::{PATIENCE, eventually};

/// What makes, locks, writes, moves, mounts or removes something.
pub(super) const CHANGES: [&str; 27] = [
    "mkdir",
    "mkdirat",
    "openat",
    "openat2",
    "symlinkat",
    "linkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat2",
    "fcntl",
    "flock",
    "ftruncate",
    "write",
    "pwrite64",
    "fsync",
    "clone3",
    "socketpair",
    "ioctl",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "mount_setattr",
    "move_mount",
    "umount2",
];

/// A command under strace(1), which kills it before its `n`-th `call`.
pub(super) fn killed_at(call: &str, n: usize, command: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={n}")]);
    strace.arg(command.get_program()).args(command.get_args());
    // What tells the backend is among them.
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    strace
}

pub(super) fn end(mut child: Child) -> bool {
    eventually("the command ends", PATIENCE, || child.try_wait().unwrap().is_some());
    child.wait().unwrap().success()
}

fn serving(scene: &Scene) -> Command {
    let mut command = scene.direct();
    command.args(["mount", "-f", "--read-only", "--name", "web", "--threads", "1", "--closure"]);
    command.arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root()).arg(scene.path("a"));
    command
}

/// Kills what is left of a view: a server whose keeper was killed goes on without it.
pub(super) fn kill_rest(scene: &Scene) {
    eventually("the killed processes end", PATIENCE, || {
        let left = scene.processes();
        // Also those that have ended meanwhile.
        for pid in &left {
            scene::kill_if_there(*pid);
        }
        left.is_empty()
    });
}

/// Starts a view; `None` if its keeper or its server was killed before it could be used.
fn start(scene: &Scene, command: &mut Command) -> Option<Child> {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("strace is needed");
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    if said.contains("view 'web'") {
        return Some(child);
    }
    // The keeper tells of a server, or of a process that clones a mount, that was killed, and a server of its keeper, without
    // which it goes on.
    let alone = said.contains("the keeper is dead");
    let other = ["killed by signal 9", "ended with code 137"].iter().any(|words| said.contains(words));
    assert!(said.is_empty() || alone || other, "{said}");
    if alone {
        kill_rest(scene);
    }
    assert!(!end(child));
    None
}

pub(super) fn sweep(scene: &Scene) -> Command {
    let mut command = scene.direct();
    command.arg("gc").arg("--store").arg(scene.store.root());
    command
}

/// A sweep takes the leases away, with or without the registry of the one that was killed. A process that is being killed may
/// hold its lease a moment longer.
fn assert_swept(scene: &Scene, what: &str) {
    eventually(what, PATIENCE, || {
        assert!(sweep(scene).stdout(Stdio::null()).status().unwrap().success());
        scene.leases().is_empty()
    });
}

pub(super) fn lose_registry(scene: &Scene) {
    fs::remove_dir_all(scene.path("run")).ok();
    for mount in scene.mounts() {
        nixview::sys::mount::unmount(&mount, nixview::sys::mount::Unmount::Lazy).unwrap();
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_server_that_is_killed_at_its_start_leaves_no_lease() {
    let scene = Scene::on("fuse");
    let (mut kills, mut with_lease) = (BTreeMap::new(), 0);
    for call in CHANGES {
        for n in 1.. {
            if let Some(server) = start(&scene, &mut killed_at(call, n, &serving(&scene))) {
                assert_eq!(scene.leases().len(), 1);
                scene.nixview(&["umount", "web"]).ok();
                end(server);
                kills.insert(call, n - 1);
                break;
            }
            with_lease += scene.leases().len();
            // A server whose keeper was killed takes the view back, or, if it was known already, goes on without it.
            let until = Instant::now() + Duration::from_secs(1);
            while !scene.processes().is_empty() && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
            kill_rest(&scene);
            if n % 2 == 0 {
                lose_registry(&scene);
            }
            assert_swept(&scene, &format!("{call} {n}"));
            assert_eq!(scene.mounts(), Vec::<PathBuf>::new(), "{call} {n}");
        }
    }
    println!("{} kills, {with_lease} with something of a lease: {kills:?}", kills.values().sum::<usize>());
    assert!(with_lease > 10, "the lease is made too late to be tested");
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_server_that_is_killed_at_its_end_leaves_no_lease() {
    let scene = Scene::on("fuse");
    let mut kills = BTreeMap::new();
    for call in ["unlinkat", "unlink", "rmdir", "umount2", "fcntl", "openat"] {
        for n in 1.. {
            let server = start(&scene, &mut serving(&scene)).unwrap();
            let pid = server.id().to_string();
            let strace = Command::new("strace")
                .args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}"), "-p", &pid])
                .args(["-e", &format!("inject={call}:signal=KILL:when={n}")])
                .spawn()
                .unwrap();
            eventually("strace attaches", PATIENCE, || {
                fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
                    let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                    status.contains(&format!("TracerPid:\t{}\n", strace.id()))
                })
            });
            scene.shell(&format!("kill -TERM {pid}")).ok();
            let ended = end(server);
            end(strace);
            if ended {
                kills.insert(call, n - 1);
                break;
            }
            kill_rest(&scene);
            if n % 2 == 0 {
                lose_registry(&scene);
            }
            assert_swept(&scene, &format!("{call} {n}"));
        }
    }
    println!("{} kills: {kills:?}", kills.values().sum::<usize>());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_sweep_that_is_killed_is_finished_by_the_next() {
    let scene = Scene::new();
    let mut kills = BTreeMap::new();
    for call in ["openat", "openat2", "fcntl", "unlinkat"] {
        for n in 1.. {
            let server = start(&scene, &mut serving(&scene)).unwrap();
            scene::kill(i32::try_from(server.id()).unwrap());
            end(server);
            kill_rest(&scene);
            lose_registry(&scene);
            assert_eq!(scene.leases().len(), 1);
            let done = end(killed_at(call, n, &sweep(&scene)).spawn().unwrap());
            if done {
                assert_eq!(scene.leases(), Vec::<PathBuf>::new());
                kills.insert(call, n - 1);
                break;
            }
            assert_swept(&scene, &format!("{call} {n}"));
        }
    }
    println!("{} kills: {kills:?}", kills.values().sum::<usize>());
    scene.assert_nothing_left();
}
