//! `nixview run --isolated`: nothing of the host is there but what is named.

use std::io::BufRead;
use std::process::Stdio;

use crate::support::scene::Scene;
use crate::support::skip::skip;

/// A scene with `share/busybox`, a shell that needs nothing; `None`, and said, where there is none.
fn scene() -> Option<Scene> {
    let scene = Scene::new();
    let copied =
        scene.shell("mkdir -m 755 share && cp $(command -v busybox) share/busybox && share/busybox true");
    if copied.code != Some(0) {
        skip!("there is no static busybox (Debian: busybox-static)");
        return None;
    }
    scene
        .shell("chmod 755 . share share/busybox; chmod 644 *.lock; chmod -R a+rX s; mkdir -m 0777 user")
        .ok();
    Some(scene)
}

/// `run --isolated` of a script of busybox, started by root, or by nobody in a mount namespace where /dev/fuse is open to all.
fn line(scene: &Scene, user: bool, more: &str, script: &str) -> String {
    std::fs::write(scene.path("share/script"), script).unwrap();
    let own = if user { "user/" } else { "" };
    let start = if user {
        "cp -a /dev/fuse user/fuse && chmod 666 user/fuse && mount --bind user/fuse /dev/fuse && \
         cp NIXVIEW user/nixview && chmod 755 user/nixview && \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups user/nixview"
    } else {
        "exec NIXVIEW"
    };
    let dir = scene.dir.path().display();
    let run = format!(
        "export HOME=/home/somebody; cd {dir}; {start} --state-dir {dir}/{own}state --runtime-dir {dir}/{own}run run \
         --closure env-a.lock --store s --isolated --share share {more} -- {dir}/share/busybox sh {dir}/share/script"
    );
    std::fs::write(scene.path("start"), run.replace("NIXVIEW", env!("CARGO_BIN_EXE_nixview"))).unwrap();
    "unshare -m --propagation private /bin/sh ./start".to_owned()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn nothing_of_the_host_is_there_for_root_and_for_others() {
    let Some(scene) = scene() else { return };
    for user in [false, true] {
        let script = "
            b=$0; b=${b%/script}/busybox
            PATH=$($b dirname $b); $b ls / /dev /etc; $b ls -A /home/somebody /tmp; pwd
            ls() { $b ls \"$@\"; }
            $b ps -o pid,comm | $b tail -n +2
            echo out > /dev/null && $b head -c 3 /dev/zero | $b wc -c && $b head -c 5 /dev/urandom | $b wc -c
            echo x > /dev/full || echo full
            exec 3<>/dev/ptmx && echo terminal
            echo x > /dev/shm/x; echo x > /tmp/x; echo x > /home/somebody/x
            echo in > /nix/new; $b cat /nix/new; /nix/store/*-env-a/bin/hello
            $b grep -c . /etc/passwd; $b id -un; echo $HOME
            /bin/ls; $b test -e /usr || echo none";
        let ran = scene.shell(&line(&scene, user, "", script)).ok();
        let home = "/home/somebody";
        let mut want: Vec<String> =
            "/:|dev|etc|home|nix|proc|tmp||/dev:|fd|full|null|ptmx|pts|random|shm|stderr|stdin|\
            stdout|tty|urandom|zero||/etc:|group|passwd|/home/somebody:||/tmp:"
                .split('|')
                .map(str::to_owned)
                .collect();
        // The scene is below /tmp, and so is what is shared of it.
        want.push(scene.dir.path().file_name().unwrap().to_str().unwrap().to_owned());
        want.push(home.to_owned());
        let text = format!("{}\n", want.join("\n"));
        assert!(ran.out.starts_with(&text), "user {user}: {ran:?}\nwanted {text}");
        let rest = ran.out.strip_prefix(&text).unwrap();
        let name = if user { "user" } else { "root" };
        let count = if user { 3 } else { 2 };
        let tail = format!(
            "3\n5\nfull\nterminal\nin\n{}{count}\n{name}\n{home}\nnone\n",
            mini_store::contents::HELLO
        );
        assert!(rest.ends_with(&tail), "user {user}: {ran:?}\nwanted {tail}");
        // The init, the shell, ps and tail.
        let pids: Vec<&str> = rest.strip_suffix(&tail).unwrap().lines().collect();
        assert!(pids.len() <= 4 && pids[0].trim().starts_with("1 "), "{pids:?}");
        scene.shell("test ! -e /tmp/x && test ! -e /dev/shm/x").ok();
        assert_eq!(scene.names(if user { "user/run/views" } else { "run/views" }), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn codes_signals_and_what_is_left_running_are_as_otherwise() {
    let Some(scene) = scene() else { return };
    let code = |script: &str| scene.shell(&line(&scene, false, "", script)).code;
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -KILL $$"), Some(137));
    // What is left running ends with the command.
    assert_eq!(code("b=${0%/script}/busybox; $b sleep 1000 & exit 0"), Some(0));
    // Elsewhere than in what is shared it begins in the home directory; --chdir says another.
    let lock = scene.path("env-a.lock").into_os_string().into_string().unwrap();
    let (store, busybox) = (scene.store.root().to_str().unwrap(), scene.path("share/busybox"));
    let share = scene.path("share").into_os_string().into_string().unwrap();
    let run = ["run", "--closure", &lock, "--store", store, "--isolated", "--share", &share];
    let pwd = |more: &[&str]| {
        let command = [&run[..], more, &["--", busybox.to_str().unwrap(), "pwd"]].concat();
        scene.nixview(&command).ok().out.trim().to_owned()
    };
    assert_eq!(pwd(&["--chdir", "/nix"]), "/nix");
    assert_eq!(pwd(&["--chdir", &share]), share);
    scene.nixview(&[&run[..], &["--", "/bin/ls"]].concat()).failed(127, &["/bin/ls", "--isolated"]);
    scene
        .nixview(&[&run[..], &["--share", "/nix/store", "--", "x"]].concat())
        .failed(1, &["/nix/store", "shared"]);
    scene.nixview(&[&run[..], &["--share", "/no/such", "--", "x"]].concat()).failed(126, &["/no/such"]);

    let script =
        "trap 'echo term; exit 5' TERM; echo ready; while :; do ${0%/script}/busybox sleep 0.05; done";
    std::fs::write(scene.path("share/script"), script).unwrap();
    let mut command = scene.direct();
    command.args(&run[..]).arg("--").arg(&busybox).arg("sh").arg(scene.path("share/script"));
    let mut child = command.current_dir("/").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    out.read_line(&mut said).unwrap();
    scene.shell(&format!("kill -TERM {}", child.id())).ok();
    out.read_line(&mut said).unwrap();
    assert_eq!((said.as_str(), child.wait().unwrap().code()), ("ready\nterm\n", Some(5)));
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_caller_that_is_killed_leaves_nothing() {
    let Some(scene) = scene() else { return };
    let lock = scene.path("env-a.lock").into_os_string().into_string().unwrap();
    let (store, busybox) = (scene.store.root().to_str().unwrap(), scene.path("share/busybox"));
    let share = scene.path("share").into_os_string().into_string().unwrap();
    let mut command = scene.direct();
    command.args(["run", "--closure", &lock, "--store", store, "--isolated", "--share", &share, "--"]);
    command.arg(&busybox).args(["sh", "-c", "echo ready; while :; do :; done"]);
    let mut child = command.current_dir("/").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    out.read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The descriptor is closed when the last process that has it ends.
    std::io::Read::read_to_string(&mut out, &mut said).unwrap();
    assert_eq!(said, "ready\n");
    for _ in 0..1000 {
        if scene.processes().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    scene.assert_nothing_left();
}
