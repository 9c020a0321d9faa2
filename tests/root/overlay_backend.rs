//! Views that overlayfs makes: what they show, what keeps them, and that nothing of them is left however they end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::support::scene::{self, Ran, Scene};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

/// Mounts the environment `env-a` on `a`.
fn mount(scene: &Scene, more: &[&str]) -> Ran {
    scene.mount("env-a", "a", &[&["--name", "web", "--backend", "overlay"], more].concat())
}

fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn all_gone(scene: &Scene) {
    eventually("the keeper ends", PATIENCE, || scene.names("run/views").is_empty());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_shows_its_closure_takes_changes_and_leaves_nothing() {
    let scene = Scene::new();
    let before = scene.store_digest();
    mount(&scene, &["--tmp"]).ok();
    let status = scene.status("web");
    assert_eq!((&status["backend"], &status["io"]), (&"overlay".into(), &"kernel".into()), "{status}");
    assert_eq!((&status["state"], status.get("server")), (&"mounted".into(), None), "{status}");

    let mut want = scene.store.closure("env-a");
    want.sort_unstable();
    assert_eq!(listed(&scene.path("a/store")), want);
    for hidden in [scene.store.path("secret"), ".links", "..", "00000000000000000000000000000000-none"] {
        let inside = scene.path("a/store").join(hidden).join("x");
        assert_eq!(fs::metadata(&inside).unwrap_err().kind(), std::io::ErrorKind::NotFound, "{hidden}");
    }
    let libc = scene.path("a/store").join(scene.store.path("libc")).join("lib/libc.so.1");
    fs::write(&libc, "changed").unwrap();
    fs::write(scene.path("a/store/new"), "mine").unwrap();
    fs::remove_file(scene.path("a/store").join(scene.store.path("config"))).unwrap();
    assert_eq!(fs::read_to_string(&libc).unwrap(), "changed");
    assert!(fs::metadata(&libc).unwrap().ino() < 1 << 53);
    let changed = scene.nixview(&["diff", "web"]).ok().out;
    assert!(changed.contains("A /nix/store/new"), "{changed}");
    assert_eq!(scene.gc_roots().len(), 1);

    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
    assert_eq!(scene.store_digest(), before);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_was_changed_is_there_again_on_both_backends() {
    let scene = Scene::new();
    let both = ["overlay", "fuse", "overlay", "fuse"];
    for (round, backend) in both.into_iter().enumerate() {
        scene.mount("env-a", "a", &["--name", "web", "--backend", backend]).ok();
        let want: Vec<String> = (0..round).map(|n| format!("file{n}")).collect();
        let found: Vec<String> =
            listed(&scene.path("a/store")).into_iter().filter(|name| name.starts_with("file")).collect();
        assert_eq!(found, want, "{backend}");
        fs::write(scene.path(&format!("a/store/file{round}")), backend).unwrap();
        scene.nixview(&["umount", "web"]).ok();
    }
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_read_only_view_has_no_upper_and_takes_no_change() {
    let scene = Scene::new();
    mount(&scene, &["--read-only", "--owner", "1234:5678"]).ok();
    let error = fs::write(scene.path("a/store/new"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    for below in ["a", "a/store", &format!("a/store/{}/lib", scene.store.path("libc"))] {
        let found = fs::metadata(scene.path(below)).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 5678), "{below}");
    }
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

/// A view with a server has none of these (`flags_of_inodes_clones_and_devices_are_refused`).
#[test]
#[ignore = "needs root and /dev/fuse"]
fn flags_of_inodes_and_files_without_a_name_work_and_protect_no_temporary_upper() {
    use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
    use rustix::io::Errno;
    let scene = Scene::new();
    mount(&scene, &["--tmp"]).ok();
    let store = scene.path("a/store");
    let of_the_store = store.join(scene.store.path("libc")).join("lib/libc.so.1");
    let directory = store.join("directory");
    fs::create_dir(&directory).unwrap();
    for (path, flag) in [(&of_the_store, IFlags::IMMUTABLE), (&directory, IFlags::APPEND)] {
        let opened = fs::File::open(path).unwrap();
        ioctl_setflags(&opened, flag).unwrap();
        assert!(ioctl_getflags(&opened).unwrap().contains(flag), "{}", path.display());
        let renamed = fs::rename(path, path.with_extension("moved"));
        assert_eq!(renamed.unwrap_err().raw_os_error(), Some(libc::EPERM), "{}", path.display());
    }
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::open(&store, OFlags::TMPFILE | OFlags::RDWR, mode) {
        Err(Errno::OPNOTSUPP) => skip!("overlayfs of this kernel has no O_TMPFILE"),
        opened => drop(opened.unwrap()),
    }
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

/// Whoever has something open keeps the view, its roots and its upper, and then all goes.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_lazily_unmounted_view_ends_with_its_last_use() {
    let scene = Scene::new();
    mount(&scene, &["--tmp"]).ok();
    fs::write(scene.path("a/store/new"), "mine").unwrap();
    let open = fs::File::open(scene.path("a/store/new")).unwrap();
    let ran = scene.nixview(&["umount", "--lazy", "web"]);
    assert!(ran.err.contains("is unmounted, and ends when nobody uses it any more"), "{ran:?}");
    assert_eq!(scene.status("web")["state"], "detached");
    assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1));
    drop(open);
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn umount_8_ends_a_view() {
    let scene = Scene::new();
    mount(&scene, &["--tmp"]).ok();
    scene.shell("umount a").ok();
    all_gone(&scene);
}

/// The kernel goes on without the keeper: what belongs to the view must stay as long as it is mounted.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_whose_keeper_is_killed_is_kept_whole_and_can_be_ended() {
    let scene = Scene::new();
    for ends in ["umount NAME", "umount PATH", "a sweep"] {
        mount(&scene, &["--tmp"]).ok();
        fs::write(scene.path("a/store/new"), "mine").unwrap();
        scene::kill(scene.keeper("web"));
        // Each of these sweeps.
        assert_eq!(scene.status("web")["state"], "unkept");
        scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
        scene.mount("env-b", "b", &["--name", "other", "--tmp", "--backend", "overlay"]).ok();
        mount(&scene, &["--tmp"]).failed(1, &[]);
        scene.mount("env-a", "b", &["--name", "web", "--tmp"]).failed(1, &["mounted still"]);
        scene.nixview(&["umount", "other"]).ok();
        assert_eq!(fs::read_to_string(scene.path("a/store/new")).unwrap(), "mine");
        assert_eq!((scene.leases().len(), scene.names("state/temporary").len()), (1, 1), "{ends}");
        // A copy of its upper is nobody's.
        scene.shell("cp -a state/temporary/* copy").ok();
        scene.mount("env-a", "b", &["--name", "copy", "--upper", scene.path("copy").to_str().unwrap()]).ok();
        scene.nixview(&["umount", "copy"]).ok();
        assert!(!scene.path("copy").exists(), "it was made for one mount");
        match ends {
            "umount NAME" => drop(scene.nixview(&["umount", "web"]).ok()),
            "umount PATH" => drop(scene.nixview(&["umount", scene.path("a").to_str().unwrap()]).ok()),
            _ => {
                scene.shell("umount a").ok();
                eventually("a sweep takes all away", PATIENCE, || {
                    scene.nixview(&["status"]).ok();
                    scene.nixview(&["gc", "--store", scene.store.root().to_str().unwrap()]).ok();
                    scene.leases().is_empty() && scene.names("run/views").is_empty()
                });
            }
        }
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_command_runs_in_a_view_and_takes_it_along() {
    let scene = Scene::new();
    let ran = scene.run(
        "env-a",
        &["--tmp", "--backend", "overlay"],
        "echo hi >/nix/new && ls /nix && grep ' /nix ' /proc/self/mountinfo",
    );
    let ran = ran.ok();
    assert!(ran.out.contains("new") && ran.out.contains("overlay nixview"), "{ran:?}");
    all_gone(&scene);
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_needs_a_server_is_refused_and_what_the_kernel_refuses_is_said() {
    let scene = Scene::new();
    let trace = scene.path("t").to_str().unwrap().to_owned();
    mount(&scene, &["--tmp", "--trace", &trace]).failed(1, &["only a server can trace", "hint"]);
    mount(&scene, &["--tmp", "--io", "cached"]).failed(1, &["a server", "hint"]);
    // Not even a link on the way to the view of an upper is followed.
    let upper = scene.path("u");
    mount(&scene, &["--upper", upper.to_str().unwrap()]).ok();
    scene.nixview(&["umount", "web"]).ok();
    let nix = upper.join("tree/nix");
    fs::remove_dir(&nix).unwrap();
    std::os::unix::fs::symlink("/etc", &nix).unwrap();
    mount(&scene, &["--upper", upper.to_str().unwrap()]).failed(1, &[]);
    // Redirects of an upper would lead into it.
    let named = scene.store.store_dir().join("nix");
    fs::create_dir(&named).unwrap();
    mount(&scene, &["--tmp"]).failed(1, &["the store has a file named 'nix'"]);
    fs::remove_dir(&named).unwrap();
    // A member that is gone would show as an empty directory.
    let member = scene.store.store_dir().join(scene.store.path("config"));
    let away = scene.path("away");
    fs::rename(&member, &away).unwrap();
    mount(&scene, &["--tmp"]).failed(1, &["by overlayfs cannot be had", scene.store.path("config")]);
    fs::rename(&away, &member).unwrap();
    mount(&scene, &["--tmp"]).ok();
    scene.nixview(&["trace", "web"]).failed(1, &["no server sees", "hint: mount it with '--backend fuse'"]);
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

/// As the container's root: everything above the view belongs to the overlay and must not be reached.
#[test]
#[ignore = "needs root, /dev/fuse and bubblewrap"]
fn a_container_reaches_nothing_beside_the_view() {
    let scene = Scene::new();
    mount(&scene, &["--tmp"]).ok();
    let secret = scene.store.path("secret");
    let mut container = Command::new("timeout");
    container.args([
        "-k",
        "5",
        "60",
        "bwrap",
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
    ]);
    container.args(["--cap-add", "ALL", "--tmpfs", "/mnt", "--bind"]).arg(scene.path("a")).arg("/nix");
    container.args(["--", "python3", "-c", PROBE, secret]);
    let ran = scene::ran(container.output().unwrap()).ok();
    assert_eq!(ran.out, "nothing\n", "{ran:?}");
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

/// Prints what of the store it finds besides the members.
const PROBE: &str = r#"
import os, sys
secret, found = sys.argv[1], []
top = os.open("/nix", os.O_RDONLY)
for path in ["/nix/..", "/nix/store/..", "/nix/store/../.."]:
    if secret in os.listdir(path):
        found.append(path)
for name in [secret, "../" + secret, "store/" + secret, ".links"]:
    try:
        os.stat(name, dir_fd=top)
        found.append(name)
    except FileNotFoundError:
        pass
directory = "/nix/store/forged"
os.mkdir(directory)
for attribute in ["trusted.overlay.redirect", "user.overlay.redirect"]:
    try:
        os.setxattr(directory, attribute, ("/" + secret).encode())
    except OSError:
        pass
os.rename(directory, "/nix/forged")
if os.listdir("/nix/forged"):
    found.append("forged redirect")
for line in open("/proc/self/mountinfo"):
    fields = line.split()
    if fields[4] == "/nix" and any(word in line.split(" - ")[1] for word in ["/tmp", "/proc", "/var"]):
        found.append(line)
print(found or "nothing")
"#;

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_limit_holds_and_the_image_serves_both_backends() {
    let scene = Scene::new();
    for backend in ["overlay", "fuse", "overlay"] {
        let limit = ["--upper-size", "8M", "--name", "web", "--backend", backend];
        scene.mount("env-a", "a", &limit).ok();
        let error = fs::write(scene.path("a/store/large"), vec![1; 16 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{backend}");
        fs::remove_file(scene.path("a/store/large")).unwrap();
        scene.nixview(&["umount", "web"]).ok();
    }
    scene.assert_nothing_left();
}

/// What is tried here is what the mounts of these tests did.
#[test]
#[ignore = "needs root"]
fn doctor_says_that_views_can_be_made_without_a_server() {
    let scene = Scene::new();
    let ran = scene.nixview(&["doctor", "--json", "--store", scene.store.root().to_str().unwrap()]);
    let checks: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let check = checks.as_array().unwrap().iter().find(|check| check["name"] == "overlay").unwrap();
    assert_eq!(check["health"], "good", "{check}");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn root_has_overlays_and_servers_for_what_only_they_can() {
    let scene = Scene::new();
    let config = scene.path("nixview.toml");
    let (trace, upper) = (scene.path("t"), scene.path("u"));
    // A redirect that the rule for uppers of others refuses.
    fs::create_dir_all(upper.join("tree/nix/store/forged")).unwrap();
    scene
        .shell("setfattr -n trusted.overlay.redirect -v /secret u/tree/nix/store/forged && chmod 700 u")
        .ok();
    let [trace, upper] = [trace, upper].map(|path| path.to_str().unwrap().to_owned());
    for (host, more, backend, reason) in [
        ("", vec!["--tmp"], "overlay", None),
        ("backend = 'overlay'", vec!["--tmp"], "overlay", None),
        ("backend = 'fuse'", vec!["--tmp"], "fuse", Some("the host's configuration prefers a server")),
        ("backend = 'fuse'", vec!["--tmp", "--backend", "overlay"], "overlay", None),
        ("", vec!["--tmp", "--backend", "fuse"], "fuse", Some("asked for")),
        ("", vec!["--tmp", "--trace", &trace], "fuse", Some("trace")),
        ("", vec!["--tmp", "--io", "cached"], "fuse", Some("who reads files")),
        ("", vec!["--upper", &upper], "fuse", Some("could show more than its closure")),
    ] {
        fs::write(&config, host).unwrap();
        let mut command = scene.command();
        command.env("NIXVIEW_CONFIG", &config).args(["mount", "--name", "web", "--closure"]);
        command.arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root()).args(&more);
        scene::ran(command.arg(scene.path("a")).output().unwrap()).ok();
        let status = scene.status("web");
        assert_eq!(status["backend"], backend, "{status}");
        let told = status["backendReason"].as_str();
        assert!(reason.is_none_or(|reason| told.is_some_and(|told| told.contains(reason))), "{status}");
        // What fell back works as any view.
        fs::write(scene.path("a/store/new"), "mine").unwrap();
        assert!(scene.path("a/store").join(scene.store.path("config")).symlink_metadata().is_ok());
        scene.nixview(&["umount", "web"]).ok();
    }
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_lock_prepares_the_first_view() {
    let scene = Scene::new();
    let lock = scene.path("made.lock");
    let mut command = scene.command();
    command.arg("lock").arg("--store").arg(scene.store.root()).arg(scene.store.logical("env-a"));
    scene::ran(command.arg("-o").arg(&lock).output().unwrap()).ok();
    // Notes are made once the database has been left alone for a moment.
    let made = || {
        let states = scene.names("state/nix-state").into_iter().filter(|name| !name.starts_with("key-"));
        (scene.names("state/closures"), states.collect::<Vec<_>>())
    };
    let before = made();
    assert_eq!((before.0.len(), before.1.len()), (2, 1), "{before:?}");
    let mut command = scene.command();
    command.args(["mount", "--backend", "overlay", "--name", "web", "--tmp", "--closure"]).arg(&lock);
    scene::ran(command.arg("--store").arg(scene.store.root()).arg(scene.path("a")).output().unwrap()).ok();
    let states: Vec<String> = made().1.into_iter().filter(|name| !name.starts_with("use-")).collect();
    assert_eq!((made().0, states), before);
    scene.nixview(&["umount", "web"]).ok();
    all_gone(&scene);
}
