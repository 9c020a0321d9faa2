//! Many views at once: a mount and the end of a view make no more system calls because of the others.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::scene::{Scene, kill_if_there, on_each_backend};
use crate::support::strace;
use crate::support::wait::{PATIENCE, eventually};

/// Calls that look at files: each look at another view is one.
const LOOKS: &str =
    "trace=setns,open,openat,openat2,statx,newfstatat,fcntl,flock,getdents64,unlinkat,readlink";

/// The calls of a command, and of the processes that it starts.
fn traced(scene: &Scene, file: &str, arguments: &[&str]) -> Command {
    let program = scene.direct();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-q", "-s", "200", "-e", LOOKS, "-o"])
        .arg(scene.path(file))
        .arg(program.get_program());
    command.args(program.get_args()).args(arguments);
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn calls(scene: &Scene, file: &str) -> Vec<String> {
    let text = fs::read_to_string(scene.path(file)).unwrap();
    let calls = text.lines().filter(|line| line.contains('(') && !line.contains("resumed>"));
    calls.map(str::to_owned).collect()
}

/// How many looks a view costs, from its mount to the end of its keeper, and its unmounting, at best of three.
fn looks(scene: &Scene) -> [usize; 2] {
    let [store, lock, target] =
        [scene.store.root().to_owned(), scene.path("env-a.lock"), scene.path("traced")];
    let [store, lock, target] = [&store, &lock, &target].map(|path| path.to_str().unwrap());
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
    let once = |_| {
        let mount = ["mount", "--name", "traced", "--tmp", "--closure", lock, "--store", store, target];
        let mut mounting = traced(scene, "mount.calls", &mount).spawn().expect("strace is needed");
        eventually("the view can be used", PATIENCE, || scene.path("traced/store").exists());
        assert!(traced(scene, "umount.calls", &["umount", "traced"]).status().unwrap().success());
        eventually("strace ends", PATIENCE, || strace::has_ended(&mut mounting));
        ["mount.calls", "umount.calls"].map(|file| {
            let calls = calls(scene, file);
            for call in &calls {
                assert!(!call.contains("mountinfo"), "it is as long as there are views: {call}");
            }
            // The host's mounts are as many: another namespace is copied.
            let enters = calls.iter().any(|call| call.contains("setns("));
            assert_eq!(enters, file == "mount.calls" && mounts > 100, "beside {mounts} mounts");
            calls.len()
        })
    };
    let all: Vec<_> = (0..3).map(once).collect();
    [0, 1].map(|which| all.iter().map(|calls| calls[which]).min().unwrap())
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_view_costs_the_same_however_many_there_are() {
    for scene in on_each_backend() {
        fs::create_dir(scene.path("traced")).unwrap();
        let mount = |number: usize| {
            let name = format!("v{number}");
            let label = ["env-a", "env-b"][number % 2];
            fs::create_dir(scene.path(&name)).unwrap();
            scene.mount(label, &name, &["--name", &name, "--tmp"]).ok();
        };
        // More than are looked at by one start.
        (0..45).for_each(mount);
        let few = looks(&scene);
        (45..135).for_each(mount);
        let many = looks(&scene);
        println!(
            "{:?}: looks of a mount and an umount beside 45 views {few:?}, beside 135 {many:?}",
            scene.backend()
        );
        assert!(many[0] <= few[0] + 8 && many[1] <= few[1] + 2, "{:?}: {few:?} {many:?}", scene.backend());

        // By its directory, which its name does not tell.
        scene.nixview(&["umount", scene.path("v7").to_str().unwrap()]).ok();
        assert!(!scene.names("run/views").contains(&"v7.json".to_owned()));
        let listed = scene.nixview(&["status", "--json"]).ok().out;
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.len(), 134);
        assert!(listed.iter().all(|view| view["state"] == "mounted"));
        // Killed at once: the next start takes all of them away.
        for view in &listed {
            for process in ["pid", "server"] {
                let pid = view[process].as_i64().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid {
                    kill_if_there(pid);
                }
            }
        }
        if scene.by_overlayfs() {
            // They are mounted still.
            scene.mounts().iter().rev().for_each(|path| {
                scene.shell(&format!("umount {}", path.display())).ok();
            });
        }
        // An overlay ends a moment after its last mount.
        eventually("a start takes all away", PATIENCE, || {
            scene.mount("env-a", "v0", &["--name", "next", "--tmp"]).ok();
            let left = [
                scene.names("run/views").len() / 2,
                scene.leases().len(),
                scene.names("state/temporary").len(),
            ];
            scene.nixview(&["umount", "next"]).ok();
            assert!(left[0] <= 10, "more than a few are left: {left:?}");
            left == [1, 1, 1]
        });
        scene.assert_nothing_left();
    }
}
