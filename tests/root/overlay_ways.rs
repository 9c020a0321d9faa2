//! The ways that older kernels need: each is taken where what is better is missing, and shows the same view.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::scene::{self, Scene};
use crate::support::wait::{PATIENCE, eventually};

fn mount(scene: &Scene) -> scene::Ran {
    scene.mount("env-a", "a", &["--name", "web", "--backend", "overlay", "--tmp"])
}

/// As a whole: members as the store has them, nothing else, changes that leave the store alone.
fn shows_the_closure(scene: &Scene) {
    let mut want = scene.store.closure("env-a");
    want.sort_unstable();
    let view = scene.path("a/store");
    let mut found: Vec<_> =
        fs::read_dir(&view).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, want);
    for name in want {
        let theirs = scene.store.store_dir().join(name);
        let compare = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([&theirs, &view.join(name)])
            .output()
            .unwrap();
        assert!(compare.status.success(), "{name}: {compare:?}");
        let of = |path: &Path| {
            let stat = Command::new("stat").args(["-c", "%F %a %Y"]).arg(path).output().unwrap();
            String::from_utf8(stat.stdout).unwrap()
        };
        assert_eq!(of(&theirs), of(&view.join(name)), "{name}");
    }
    assert!(!view.join(scene.store.path("secret")).exists());
    let libc = view.join(scene.store.path("libc")).join("lib/libc.so.1");
    fs::write(&libc, "changed").unwrap();
    assert_eq!(fs::read(&libc).unwrap(), b"changed");
    fs::create_dir(view.join("new")).unwrap();
}

/// The view is used and unmounted, and mounted, killed and unmounted.
fn works(scene: &Scene) {
    let before = scene.store_digest();
    mount(scene).ok();
    shows_the_closure(scene);
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
    mount(scene).ok();
    scene.shell("umount a").ok();
    eventually("the keeper ends", PATIENCE, || scene.names("run/views").is_empty());
    scene.assert_nothing_left();
    mount(scene).ok();
    scene::kill(scene.keeper("web"));
    shows_the_closure(scene);
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
    assert_eq!(scene.store_digest(), before);
}

/// Files of the scene's state that are on loop devices; it may show their paths from the top of its file system.
fn loops() -> Vec<String> {
    let files = Command::new("losetup").args(["-n", "-O", "BACK-FILE", "-l"]).output().unwrap();
    let files = String::from_utf8(files.stdout).unwrap();
    let mark = format!("state-{}", std::process::id());
    files.lines().filter(|line| line.contains(&mark)).map(str::to_owned).collect()
}

fn state_on_a_tmpfs(scene: &Scene) {
    let state = format!("/mnt/state-{}", std::process::id());
    scene.shell(&format!("mount -t tmpfs none /mnt && mkdir {state} && ln -s {state} state")).ok();
}

/// No such device.
fn hide(scene: &Scene, device: &str) {
    scene.shell(&format!("mount --bind /dev/null {device}")).ok();
}

#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn an_image_that_cannot_be_mounted_itself_is_on_a_loop_device() {
    let scene = Scene::new();
    state_on_a_tmpfs(&scene);
    mount(&scene).ok();
    assert_eq!(loops().len(), 1);
    scene.nixview(&["umount", "web"]).ok();
    works(&scene);
    eventually("the devices are free", PATIENCE, || loops().is_empty());
    scene.shell("umount -l /mnt").ok();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn without_loop_devices_the_closure_layer_is_in_memory() {
    let scene = Scene::new();
    state_on_a_tmpfs(&scene);
    hide(&scene, "/dev/loop-control");
    mount(&scene).ok();
    assert_eq!(loops(), Vec::<String>::new());
    scene.nixview(&["umount", "web"]).ok();
    works(&scene);
    scene.shell("umount /dev/loop-control").ok();
    scene.shell("umount -l /mnt").ok();
}

#[test]
#[ignore = "needs root"]
fn without_an_anchor_inotify_tells_of_the_end() {
    let scene = Scene::new();
    hide(&scene, "/dev/fuse");
    mount(&scene).ok();
    let anchors = |scene: &Scene| {
        let record = fs::read_to_string(scene.path("run/views/web.json")).unwrap();
        record.contains("anchor=")
    };
    assert!(!anchors(&scene));
    let keeper = scene.keeper("web");
    let links = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().map(|e| fs::read_link(e.unwrap().path()));
    assert!(links.flatten().any(|link| link.to_str().unwrap().contains("inotify")));
    // A file that is open keeps it.
    let open = fs::File::create(scene.path("a/store/new")).unwrap();
    scene.nixview(&["umount", "--lazy", "web"]);
    assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1));
    drop(open);
    eventually("the keeper ends", PATIENCE, || scene.names("run/views").is_empty());
    works(&scene);
    scene.shell("umount /dev/fuse").ok();
    mount(&scene).ok();
    assert!(anchors(&scene));
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

/// One after the other: what the kernel does not know is done without, or there is no view and nothing left.
#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn whichever_option_the_kernel_does_not_know_a_view_is_whole_or_not_there() {
    let scene = Scene::new();
    let mut without = Vec::new();
    for n in 1.. {
        let log = scene.path("strace");
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", "strace", "-f", "-q", "-e", "trace=fsconfig", "-o"]).arg(&log);
        command.args(["-e", &format!("inject=fsconfig:error=EINVAL:when={n}")]);
        let mount = scene.direct();
        command.arg(mount.get_program()).args(mount.get_args());
        command.args(["mount", "-f", "--name", "web", "--backend", "overlay", "--tmp", "--closure"]);
        command.arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root()).arg(scene.path("a"));
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        std::io::BufRead::read_line(&mut stderr, &mut said).unwrap();
        let mut anchored = false;
        if said.contains("view 'web'") {
            shows_the_closure(&scene);
            anchored = scene.status("web")["anchor"].is_u64();
            scene.nixview(&["umount", "web"]).ok();
        }
        eventually("the keeper ends", PATIENCE, || child.try_wait().unwrap().is_some());
        scene.assert_nothing_left();
        let calls = fs::read_to_string(&log).unwrap();
        // Of each process that makes so many.
        let refused: Vec<String> = calls
            .lines()
            .filter(|line| line.contains("(INJECTED)"))
            .map(|line| line.split(", ").nth(2).unwrap_or_default().trim_matches('"').to_owned())
            .collect();
        if refused.is_empty() {
            break;
        }
        if said.contains("view 'web'") {
            // An option that it does without costs nothing else: older kernels refuse it each time.
            assert!(anchored || refused != ["uuid"]);
            without.extend(refused);
        } else {
            assert!(said.contains("cannot be had") || said.contains("os error"), "{refused:?}: {said}");
        }
    }
    println!("there are views without {without:?}");
    // Of the layers' option the one with an anchor.
    for option in ["uuid", "lowerdir"] {
        assert!(without.iter().any(|without| without == option), "{option}: {without:?}");
    }
}
