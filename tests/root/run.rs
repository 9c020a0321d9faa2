//! `nixview run` and `shell`: commands in views of a tiny store.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::scene::{Scene, on_each_backend};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Starts `run` with this script, and waits for its first line.
fn start(scene: &Scene, script: &str) -> (Child, String, BufReader<std::process::ChildStdout>) {
    let mut command = scene.direct();
    command.args(["run", "--closure"]).arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root());
    command.args(["--", "/bin/sh", "-c", script]).current_dir("/");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    (child, line.trim().to_owned(), out)
}

fn settle(scene: &Scene) {
    eventually("the view's processes end", PATIENCE, || scene.processes().is_empty());
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn device_nodes_are_made_on_demand_alone_and_open_nothing() {
    for scene in on_each_backend() {
        let refused = scene
            .run("env-a", &[], "mknod /nix/null c 1 3; mknod /nix/sda b 8 0; mknod /nix/zero c 0 0; ls /nix")
            .ok();
        // overlayfs makes devices, which nothing opens, and no whiteouts.
        let (errors, made) =
            if scene.by_overlayfs() { (1, ["null", "sda"].as_slice()) } else { (2, ["zero"].as_slice()) };
        assert_eq!(refused.err.matches("Operation not permitted").count(), errors, "{refused:?}");
        let listed: Vec<&str> = refused.out.lines().filter(|name| !["store", "var"].contains(name)).collect();
        assert_eq!(listed, made);
        let made = scene.run(
            "env-a",
            &["--devices"],
            "mknod /nix/null c 1 3 && stat -c %t:%T /nix/null && cat /nix/null",
        );
        assert_eq!(made.out, "1:3\n");
        assert!(made.err.contains("Permission denied"), "{made:?}");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_command_sees_the_view_at_nix_and_its_code_comes_back() {
    for scene in on_each_backend() {
        let before = scene.store_digest();
        let listed = scene.run("env-a", &[], "LC_ALL=C ls /nix/store").ok().out;
        let mut want = scene.store.closure("env-a");
        want.sort_unstable();
        assert_eq!(listed.lines().collect::<Vec<_>>(), want);
        assert_eq!(scene.run("env-a", &[], "hello").ok().out, mini_store::contents::HELLO);
        scene.run("env-a", &[], "exit 7").failed(7, &[]);
        scene.run("env-a", &[], "kill -KILL $$").failed(137, &[]);
        scene.run("env-a", &[], "echo x > /nix/new && rm -r /nix/store/*-config.txt && ls /nix/new").ok();
        scene.run("env-a", &["--read-only"], "! touch /nix/new && ! test -e /nix/new").ok();
        let upper = scene.path("upper").into_os_string().into_string().unwrap();
        scene.run("env-a", &["--upper", &upper], "echo kept > /nix/new").ok();
        assert_eq!(scene.run("env-a", &["--upper", &upper], "cat /nix/new").ok().out, "kept\n");
        assert_eq!(scene.store_digest(), before, "the store was changed");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_cannot_be_executed_is_told_as_shells_do() {
    for scene in on_each_backend() {
        let lock = scene.path("env-a.lock").into_os_string().into_string().unwrap();
        let store = scene.store.root().to_str().unwrap();
        let run = ["run", "--closure", &lock, "--store", store, "--chdir", "/", "--"];
        let with = |command: &str| scene.nixview(&[&run[..], &[command]].concat());
        with("no-such-program").failed(127, &["no-such-program", "hint"]);
        with("/etc").failed(126, &["/etc"]);
        let nowhere = ["run", "--closure", &lock, "--store", store, "--chdir", "/nowhere", "--", "true"];
        scene.nixview(&nowhere).failed(126, &["/nowhere"]);
        scene.run("env-c", &[], "true").failed(1, &["env-c.lock"]);
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn environments_are_mixed_or_pure() {
    let scene = Scene::new();
    let bin = format!("{}/bin", scene.store.logical("env-a"));
    let mixed = scene.run("env-a", &[], "echo $PATH; env").ok().out;
    assert!(mixed.starts_with(&format!("{bin}:")), "{mixed}");
    let of_caller = std::env::vars().find(|(name, value)| {
        !["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()) && !value.contains('\n')
    });
    let (name, value) = of_caller.unwrap();
    assert!(mixed.contains(&format!("\n{name}={value}\n")), "the caller's environment is kept: {mixed}");
    let pure = scene.run("env-a", &["--pure"], "/usr/bin/env").ok().out;
    let mut names: Vec<&str> = pure.lines().filter_map(|l| l.split('=').next()).collect();
    names.retain(|n| !["PWD", "SHLVL", "_", "OLDPWD", "TERM", "HOME", "USER"].contains(n));
    assert_eq!(names, ["PATH"], "{pure}");
    assert!(pure.contains(&format!("PATH={bin}\n")), "{pure}");
    let mut command = scene.command();
    command.args(["shell", "--closure"]).arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root());
    command.env("SHELL", "/bin/sh").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hi\nexit 3\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, mini_store::contents::HELLO.as_bytes());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn signals_reach_the_command() {
    for scene in on_each_backend() {
        let script =
            "trap 'echo term; exit 5' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done";
        let (mut child, line, mut out) = start(&scene, script);
        assert_eq!(line, "ready");
        signal("-USR1", child.id());
        let mut said = String::new();
        out.read_line(&mut said).unwrap();
        signal("-TERM", child.id());
        out.read_line(&mut said).unwrap();
        assert_eq!(said, "usr1\nterm\n");
        assert_eq!(child.wait().unwrap().code(), Some(5));
        settle(&scene);
        scene.assert_nothing_left();
        // Without a handler it dies of it.
        let (mut child, _, _out) = start(&scene, "echo ready; exec sleep 60");
        signal("-INT", child.id());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        settle(&scene);
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn nothing_that_the_command_started_lives_on() {
    for scene in on_each_backend() {
        // One in the background, one in a session of its own, one that ignores SIGTERM.
        let script = "sleep 61 & setsid sleep 62 & (trap '' TERM; sleep 63; sleep 64) & sleep 0.2; exit 4";
        scene.run("env-a", &[], script).failed(4, &[]);
        let left = scene.shell("pgrep -af 'sleep 6[1-4]$'").out;
        assert_eq!(left, "");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_killed_caller_takes_everything_with_it() {
    for scene in on_each_backend() {
        let (mut child, line, _out) = start(&scene, "setsid sleep 71 & sleep 72 & echo ready; wait");
        assert_eq!(line, "ready");
        signal("-KILL", child.id());
        child.wait().unwrap();
        eventually("the view's processes end", PATIENCE, || {
            scene.shell("pgrep -af 'sleep 7[12]$'").out.is_empty() && scene.processes().is_empty()
        });
        assert_eq!(scene.shell("pgrep -af 'sleep 7[12]$'").out, "");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_killed_server_ends_in_errors_for_the_command_and_is_cleaned_up_after() {
    let scene = Scene::on("fuse");
    let (mut child, line, _out) = start(&scene, "echo ready; sleep 1; ls /nix/store || exit 9");
    assert_eq!(line, "ready");
    let status = scene.nixview(&["status", "--json"]).ok().out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status[0]["place"]["kind"], "private", "{status}");
    scene.kill_view(status[0]["name"].as_str().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(9));
    settle(&scene);
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_machine_without_nix_gets_a_root_that_has_it() {
    for scene in on_each_backend() {
        // A root without /nix, made of this machine's: the host's own is never changed.
        let lock = scene.path("env-a.lock");
        let script = format!(
        "set -e; mkdir r; mount -t tmpfs none r; cd r
         for d in /*; do case $d in /nix|/tmp) continue;; esac
           if [ -L $d ]; then cp -P $d .; elif [ -d $d ]; then mkdir .$d; mount --rbind $d .$d; else : > .$d; mount --bind $d .$d; fi
         done
         mkdir tmp; mount --rbind /tmp tmp
         pivot_root . tmp; cd /; umount -l /tmp; mount --rbind {0} /mnt; mkdir -p {0}; mount --move /mnt {0}; cd /
         test ! -e /nix
         {1} --state-dir {0}/state --runtime-dir {0}/run run --closure {2} --store {0}/s -- /bin/sh -c 'hello; ls -d /nix /usr; test ! -w /nix/..//nothing'
         test ! -e /nix",
        scene.dir.path().display(),
        env!("CARGO_BIN_EXE_nixview"),
        lock.display(),
    );
        std::fs::write(scene.path("script"), script).unwrap();
        let ran = scene.shell("unshare -m --propagation private /bin/sh ./script");
        assert!(ran.out.contains(mini_store::contents::HELLO), "{ran:?}");
        assert!(ran.out.contains("/nix\n/usr\n"), "{ran:?}");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_root_it_runs_in_a_user_namespace() {
    let scene = Scene::new();
    let lock = scene.path("env-a.lock");
    scene.shell("chmod 755 .; mkdir -m 0777 home; chmod -R a+rX s; chmod 644 env-a.lock").ok();
    // /dev/fuse may be closed to users here; what is opened is a copy in a namespace of the test's own.
    let script = format!(
        "cp -a /dev/fuse home/fuse && chmod 666 home/fuse && mount --bind home/fuse /dev/fuse &&
         cp {1} home/nixview && chmod 755 home/nixview && cd / &&
         exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME={0}/home XDG_RUNTIME_DIR= \
           {0}/home/nixview --state-dir {0}/home/state --runtime-dir {0}/run-user \
           run --closure {2} --store {0}/s -- /bin/sh -c 'hello; id -u; echo x > /nix/new; ls /nix; touch /nix/store/x; stat -c %u /nix/store'",
        scene.dir.path().display(),
        env!("CARGO_BIN_EXE_nixview"),
        lock.display(),
    );
    scene.shell("mkdir -m 0777 run-user").ok();
    std::fs::write(scene.path("script"), script).unwrap();
    let ran = scene.shell("unshare -m --propagation private /bin/sh ./script").ok();
    assert_eq!(ran.out, format!("{}65534\nnew\nstore\nvar\n65534\n", mini_store::contents::HELLO), "{ran:?}");
    assert_eq!(scene.names("run-user/views"), Vec::<String>::new());
    assert_eq!(scene.names("home/state/temporary"), Vec::<String>::new());
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_user_namespace_can_be_forced() {
    let scene = Scene::new();
    let ran = scene.run("env-a", &["--user-namespace"], "hello; echo x > /nix/new && cat /nix/new").ok();
    assert_eq!(ran.out, format!("{}x\n", mini_store::contents::HELLO));
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn access_control_lists_are_there_on_demand_also_in_a_user_namespace() {
    if Command::new("setfacl").arg("--version").output().is_err() {
        return skip!("no setfacl");
    }
    let scene = Scene::on("fuse");
    let listed = "umask 027; mkdir /nix/d && setfacl -d -m u::rwx,g::r-x,o::r-x,g:0:rwx /nix/d && echo x > /nix/d/f && \
                  setfacl -m g:0:r /nix/d && getfacl -cn /nix/d/f /nix/d 2>/dev/null | grep -v '^$'";
    let want = "user::rw-\ngroup::r-x\t#effective:r--\ngroup:0:rwx\t#effective:rw-\nmask::rw-\nother::r--\n\
                user::rwx\ngroup::r-x\ngroup:0:r--\nmask::r-x\nother::---\n\
                default:user::rwx\ndefault:group::r-x\ndefault:group:0:rwx\ndefault:mask::rwx\ndefault:other::r-x\n";
    for options in [&["--acl"][..], &["--acl", "--user-namespace"]] {
        assert_eq!(scene.run("env-a", options, listed).ok().out, want, "{options:?}");
    }
    let refused = "setfacl -m u:1:r /nix 2>&1 && echo set; stat -c %a /nix";
    assert_eq!(scene.run("env-a", &[], refused).ok().out, "setfacl: /nix: Operation not supported\n755\n");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_interrupt_from_the_terminal_reaches_the_command_once_and_not_the_server() {
    let scene = Scene::new();
    let script = "trap 'n=$((n+1)); echo got $n; ls -d /nix/store; sleep 0.3; echo last $n; exit 6' INT; echo ready; \
                  while :; do sleep 0.05; done";
    std::fs::write(scene.path("trap"), script).unwrap();
    let line = format!(
        "exec {} --state-dir {1}/state --runtime-dir {1}/run run --closure {1}/env-a.lock --store {1}/s -- sh {1}/trap",
        env!("CARGO_BIN_EXE_nixview"),
        scene.dir.path().display()
    );
    // script(1) gives it a terminal, and would else wait with its shell; what is written to it is typed.
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "30", "script", "-qec", &line, "/dev/null"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("ready") {
        assert_ne!(out.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let mut keys = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"\x03").unwrap();
    std::io::Read::read_to_string(&mut out, &mut said).unwrap();
    drop(keys);
    assert_eq!(child.wait().unwrap().code(), Some(6), "{said}");
    assert!(said.contains("got 1") && said.contains("/nix/store") && said.contains("last 1"), "{said}");
    assert!(!said.contains("got 2"), "{said}");
    settle(&scene);
    scene.assert_nothing_left();
}
