//! The keeper of an overlay that waits: a small program, which becomes nixview again for whatever happens.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::scene::{self, Scene};
use crate::support::wait::{PATIENCE, eventually};

/// Mounts a view, and waits until its keeper is the small program.
fn mounted(scene: &Scene, more: &[&str]) -> i32 {
    scene.mount("env-a", "a", &[&["--name", "web", "--backend", "overlay"], more].concat()).ok();
    let keeper = scene.keeper("web");
    is_small(keeper);
    keeper
}

fn is_small(keeper: i32) {
    eventually("the keeper becomes small", PATIENCE, || name(keeper) == "nixview-keep");
    // Also those that have ended, and that nothing has waited for.
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    assert_eq!(children, "", "the small program would never wait for them");
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn all_gone(scene: &Scene) {
    eventually("the keeper ends", PATIENCE, || scene.names("run/views").is_empty());
    scene.assert_nothing_left();
    let states = scene.names("state/nix-state");
    assert!(states.iter().all(|name| !name.starts_with("use-")), "{states:?}");
}

fn tell(keeper: i32, signal: Signal) {
    kill_process(Pid::from_raw(keeper).unwrap(), signal).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn it_takes_back_what_a_large_one_does() {
    let scene = Scene::new();
    let upper = scene.path("u");
    let upper = upper.to_str().unwrap();
    for (how, more) in
        [("umount", &["--upper", upper][..]), ("umount", &["--tmp"]), ("umount", &["--read-only"])]
    {
        let keeper = mounted(&scene, more);
        assert_eq!(scene.status("web")["state"], "mounted");
        let said = scene.nixview(&[how, "web"]).ok();
        assert_eq!(said.err, "view 'web' has ended\n");
        all_gone(&scene);
        assert!(!Path::new(&format!("/proc/{keeper}/comm")).exists() || name(keeper) != "nixview-keep");
    }
    // No view holds the upper now, and its lock names no overlay.
    let lock = fs::read_to_string(scene.path("u/lock")).unwrap();
    assert_eq!(lock.lines().count(), 1, "{lock}");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let keeper = mounted(&scene, &["--tmp"]);
        tell(keeper, signal);
        all_gone(&scene);
    }
    // umount(8) alone, which tells no keeper.
    mounted(&scene, &["--upper", upper]);
    fs::write(scene.path("a/store/new"), "new").unwrap();
    assert!(Command::new("umount").arg(scene.path("a")).status().unwrap().success());
    all_gone(&scene);
    scene.mount("env-a", "a", &["--name", "web", "--upper", upper]).ok();
    assert_eq!(fs::read_to_string(scene.path("a/store/new")).unwrap(), "new");
    scene.nixview(&["umount", "web"]).ok();
    let log = scene.nixview(&["logs", "web"]).ok().out;
    assert!(log.contains("the view has ended"), "{log}");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_that_is_used_is_waited_for_again() {
    let scene = Scene::new();
    let keeper = mounted(&scene, &["--tmp"]);
    let used = fs::File::open(scene.path("a/store")).unwrap();
    for _ in 0..2 {
        // Its mount goes at once, and its files with the last use.
        tell(keeper, Signal::TERM);
        eventually("it is taken from its path", PATIENCE, || scene.mounts().is_empty());
        eventually("it has waited", PATIENCE, || name(keeper) == "nixview-keep");
    }
    assert_eq!(scene.leases().len(), 1, "roots of the collector stay");
    drop(used);
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn killed_it_leaves_what_any_killed_keeper_leaves() {
    let scene = Scene::new();
    let keeper = mounted(&scene, &["--tmp"]);
    scene::kill(keeper);
    eventually("it is unkept", PATIENCE, || scene.status("web")["state"] == "unkept");
    assert!(scene.path("a/store").is_dir());
    scene.nixview(&["umount", "web"]).ok();
    // The kernel shows an anchor for a moment after its end.
    eventually("a collection takes the note of its state", PATIENCE, || {
        scene.nixview(&["gc"]).ok();
        scene.names("state/nix-state").iter().all(|name| !name.starts_with("use-"))
    });
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_command_that_runs_long_ends_with_its_view_and_its_caller() {
    let scene = Scene::new();
    let start = || {
        let mut run = scene.direct();
        run.args(["run", "--backend", "overlay", "--closure"]).arg(scene.path("env-a.lock"));
        run.arg("--store").arg(scene.store.root()).args(["--", "/bin/sh", "-c", "echo up; read end; exit 7"]);
        let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/").spawn().unwrap();
        let mut up = String::new();
        BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut up).unwrap();
        assert_eq!(up, "up\n");
        run
    };
    let keeper = || {
        let names = scene.names("run/views");
        let record = names.iter().find_map(|name| name.strip_suffix(".json")).unwrap();
        scene.keeper(record)
    };
    // The command ends.
    let mut run = start();
    is_small(keeper());
    drop(run.stdin.take());
    assert_eq!(run.wait().unwrap().code(), Some(7));
    all_gone(&scene);
    // Its caller is killed.
    let mut run = start();
    is_small(keeper());
    run.kill().unwrap();
    run.wait().unwrap();
    all_gone(&scene);
    // A signal ends the keeper.
    let mut run = start();
    let keeper = keeper();
    is_small(keeper);
    tell(keeper, Signal::TERM);
    assert_ne!(run.wait().unwrap().code(), Some(0));
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_the_small_program_the_keeper_waits_by_itself() {
    let scene = Scene::new();
    let program = scene.path("nixview");
    fs::copy(env!("CARGO_BIN_EXE_nixview"), &program).unwrap();
    let mut mount = Command::new(&program);
    mount.args(scene.direct().get_args());
    mount.args(["mount", "-vv", "--name", "web", "--backend", "overlay", "--tmp", "--closure"]);
    mount.arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root()).arg(scene.path("a"));
    assert!(mount.status().unwrap().success());
    let waits = "the keeper itself waits";
    eventually(waits, PATIENCE, || scene.nixview(&["logs", "web"]).ok().out.contains(waits));
    assert_eq!(name(scene.keeper("web")), "nixview");
    scene.nixview(&["umount", "web"]).ok();
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn it_is_small() {
    let scene = Scene::new();
    let keeper = mounted(&scene, &["--tmp"]);
    let rollup = fs::read_to_string(format!("/proc/{keeper}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let own: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(own <= 256, "{own} kB of its own:\n{rollup}");
    scene.nixview(&["umount", "web"]).ok();
    all_gone(&scene);
}
