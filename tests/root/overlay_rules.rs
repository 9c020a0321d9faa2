//! The rules that views by overlayfs rest on, each broken by hand or by the host: nothing outside the closure shows, nothing of
//! the host is touched, and a refusal says why.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::scene::{Ran, Scene, on_each_backend};
use crate::support::wait::{PATIENCE, eventually};

fn mount(scene: &Scene, more: &[&str]) -> Ran {
    scene.mount("env-a", "a", &[&["--name", "web"], more].concat())
}

fn umount(scene: &Scene) {
    scene.nixview(&["umount", "web"]).ok();
}

fn listed(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A directory of the host's that must stay as it is.
struct Canary(PathBuf);

impl Canary {
    fn new(scene: &Scene) -> Self {
        let canary = scene.path("canary");
        for below in ["nix/store", "work"] {
            fs::create_dir_all(canary.join(below)).unwrap();
        }
        fs::write(canary.join("file"), "alive").unwrap();
        fs::write(canary.join("work/file"), "alive").unwrap();
        Self(canary)
    }

    fn assert_alive(&self) {
        assert_eq!(listed(&self.0), ["file", "nix", "work"]);
        assert_eq!(
            (listed(&self.0.join("nix")), listed(&self.0.join("work"))),
            (vec!["store".into()], vec!["file".into()])
        );
        assert_eq!(listed(&self.0.join("nix/store")), [""; 0]);
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn links_in_place_of_an_upper_s_directories_are_not_followed() {
    for scene in on_each_backend() {
        let canary = Canary::new(&scene);
        let upper = scene.path("u");
        let mount = || mount(&scene, &["--upper", upper.to_str().unwrap()]);
        for (name, target) in [("work", "work"), ("tree", ""), ("tree/nix", "nix")] {
            mount().ok();
            umount(&scene);
            fs::rename(upper.join(name), scene.path("away")).unwrap();
            symlink(canary.0.join(target), upper.join(name)).unwrap();
            mount().failed(1, &["cannot use the upper"]);
            canary.assert_alive();
            fs::remove_file(upper.join(name)).unwrap();
            fs::rename(scene.path("away"), upper.join(name)).unwrap();
        }
        mount().ok();
        umount(&scene);
        scene.assert_nothing_left();
    }
}

/// overlayfs mounts read-only where it cannot make its work directory, and says so in the kernel's log alone.
#[test]
#[ignore = "needs root, /dev/fuse and loop devices"]
fn a_work_directory_that_cannot_be_made_is_told_and_auto_takes_a_server() {
    let scene = Scene::new();
    let limit = ["--upper-size", "4M", "--upper-inodes", "100"];
    mount(&scene, &[&limit[..], &["--backend", "fuse"]].concat()).ok();
    let file = |n: usize| scene.path(&format!("a/file{n}"));
    let full = |error: std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
    (0..).find(|n| fs::File::create(file(*n)).is_err_and(full)).unwrap();
    umount(&scene);
    let why = "the kernel mounts it read-only; its log (dmesg) says why";
    mount(&scene, &["--backend", "overlay"])
        .failed(1, &["by overlayfs cannot be had", why, "--backend auto"]);
    scene.assert_nothing_left();
    mount(&scene, &[]).ok();
    let status = scene.status("web");
    assert_eq!((&status["backend"], &status["backendReason"]), (&"fuse".into(), &why.into()), "{status}");
    fs::write(file(0), "written").unwrap();
    (1..9).for_each(|n| fs::remove_file(file(n)).unwrap());
    umount(&scene);
    mount(&scene, &["--backend", "overlay"]).ok();
    assert_eq!(fs::read(file(0)).unwrap(), b"written");
    fs::write(file(0), "again").unwrap();
    umount(&scene);
    scene.assert_nothing_left();
}

/// A crash may take a temporary upper, and never one that stays. overlayfs writes no number of its own into it.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_temporary_upper_is_volatile_and_one_that_stays_is_not() {
    let scene = Scene::on("overlay");
    for (how, is_volatile) in [("--tmp", true), ("--upper-size=8M", false)] {
        mount(&scene, &[how]).ok();
        let line = nixview::sys::mountinfo::mount_at(&scene.path("a")).unwrap().unwrap();
        let options = String::from_utf8(line.super_options).unwrap();
        assert_eq!(options.contains("volatile"), is_volatile, "{how}: {options}");
        umount(&scene);
    }
    let upper = scene.path("u");
    for _ in 0..2 {
        mount(&scene, &["--upper", upper.to_str().unwrap()]).ok();
        let line = nixview::sys::mountinfo::mount_at(&scene.path("a")).unwrap().unwrap();
        assert!(!String::from_utf8(line.super_options).unwrap().contains("volatile"));
        fs::write(scene.path("a/new"), "x").unwrap();
        umount(&scene);
        assert!(!upper.join("work/work/incompat").exists());
        let marks = scene.shell("getfattr -d -m trusted.overlay.uuid u/tree u/tree/nix 2>&1").ok().out;
        assert_eq!(marks, "", "overlayfs wrote its number");
    }
    scene.assert_nothing_left();
}

/// A set-id program gives no rights in a view, which is `nosuid`, and none on the host, where no user enters an upper.
#[test]
#[ignore = "needs root, /dev/fuse and setpriv"]
fn a_set_id_program_of_a_view_gives_no_rights_and_no_user_enters_an_upper() {
    const USER: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    for scene in on_each_backend() {
        let upper = scene.path("u").to_str().unwrap().to_owned();
        for how in [&["--tmp"][..], &["--upper", &upper], &["--upper-size", "8M"]] {
            mount(&scene, how).ok();
            scene.shell("chmod 755 . && chmod go+x state state/* && cp /usr/bin/id a/program && chmod 6755 a/program").ok();
            let identity = scene.shell(&format!("{USER} a/program")).ok().out;
            assert!(identity.starts_with("uid=65534(") && !identity.contains("euid="), "{identity}");
            let script =
                "for upper in u state/uppers/web state/temporary/*; do test ! -d $upper || echo $upper; done";
            let uppers = scene.shell(script).ok().out;
            assert!(!uppers.is_empty());
            for upper in uppers.lines() {
                let found = scene.shell(&format!("{USER} ls {upper}/tree/nix/program {upper}"));
                assert!(found.code != Some(0) && found.out.is_empty(), "{upper}: {found:?}");
            }
            umount(&scene);
        }
        scene.assert_nothing_left();
    }
}

/// The collector may take a member that is looked at before a root keeps it.
#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn roots_are_set_before_a_member_is_looked_at() {
    let scene = Scene::new();
    let log = scene.path("strace");
    let mount = scene.direct();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "60", "strace", "-f", "-q", "-s", "400", "-o"]).arg(&log);
    command.args(["-e", "trace=symlink,symlinkat,statx,newfstatat,fsopen"]);
    command.arg(mount.get_program()).args(mount.get_args());
    command.args(["mount", "-f", "--name", "web", "--backend", "overlay", "--tmp", "--closure"]);
    command.arg(scene.path("env-a.lock")).arg("--store").arg(scene.store.root()).arg(scene.path("a"));
    let mut child = command.stderr(Stdio::piped()).spawn().expect("strace is needed");
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("view 'web'"), "{said}");
    umount(&scene);
    eventually("the keeper ends", PATIENCE, || child.try_wait().unwrap().is_some());
    let calls = fs::read_to_string(&log).unwrap();
    let first = |call: &str, word: &str| {
        let found = calls.lines().position(|line| line.contains(&format!("{call}(")) && line.contains(word));
        found.unwrap_or_else(|| panic!("no {call} of {word}:\n{calls}"))
    };
    let root = first("symlinkat", scene.store.path("env-a"));
    for (call, word) in
        [("statx", scene.store.path("libc")), ("fsopen", "\"erofs\""), ("fsopen", "\"overlay\"")]
    {
        assert!(root < first(call, word), "{call} of {word} comes before the roots:\n{calls}");
    }
    scene.assert_nothing_left();
}

/// overlayfs asks the last layer for no marks: those of the store lead nowhere. Nix's state is opaque, whatever the store is called.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn marks_and_names_that_the_store_has_lead_nowhere() {
    for scene in on_each_backend() {
        let store = scene.store.store_dir();
        let (libc, secret) = (scene.store.path("libc"), scene.store.path("secret"));
        let script = format!(
            "cd {}; r() {{ setfattr -n trusted.overlay.redirect -v /{secret} $1; }}; r {libc}; r {libc}/lib; \
             setfattr -n trusted.overlay.opaque -v y {libc}/lib; mkdir -p nix-state/planted nix-state/nix/planted",
            store.display()
        );
        scene.shell(&script).ok();
        mount(&scene, &["--tmp"]).ok();
        let view = scene.path("a");
        for below in ["", "lib"] {
            let (there, here) = (store.join(libc).join(below), view.join("store").join(libc).join(below));
            assert_eq!(listed(&here), listed(&there), "{below}");
        }
        assert_eq!(listed(&view.join("var")), ["nix"]);
        assert!(!listed(&view.join("var/nix")).contains(&"planted".to_owned()));
        umount(&scene);
        // Redirects that the rule for uppers lets through, since the closure layer says where they end.
        let forge = format!(
            "mkdir -m 700 u && mkdir -p u/tree/nix/x u/tree/nix/y && for name in x y; do \
             setfattr -n trusted.overlay.redirect -v /nix/store/{secret} u/tree/nix/$name; done; \
             setfattr -n trusted.overlay.redirect -v /nix/store/nix-state/planted u/tree/nix/y"
        );
        scene.shell(&forge).ok();
        mount(&scene, &["--upper", scene.path("u").to_str().unwrap()]).ok();
        for name in ["x", "y"] {
            assert_eq!(listed(&view.join(name)), [""; 0]);
        }
        umount(&scene);
        scene.assert_nothing_left();
    }
}

/// A view shows an attribute under the container's name for it, which is a mark in an upper: an overlay refuses such copies, and
/// layers leave it out.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn marks_that_a_container_forged_lead_nowhere_in_copies_of_its_view() {
    for scene in on_each_backend() {
        let secret = scene.store.path("secret");
        mount(&scene, &["--upper", scene.path("u").to_str().unwrap()]).ok();
        let forge = format!(
            "mkdir a/store/forged && setfattr -n trusted.overlay.redirect -v /{secret} a/store/forged && \
             mkdir -m 700 copy tar && mkdir copy/tree tar/tree && cp -a a copy/tree/nix && mkdir tar/tree/nix && \
             tar -C a --xattrs --xattrs-include='*' -c . | tar -C tar/tree/nix --xattrs --xattrs-include='*' -xp"
        );
        scene.shell(&forge).ok();
        umount(&scene);
        for copy in ["copy", "tar"] {
            let mark = format!("getfattr -h -n trusted.overlay.redirect {copy}/tree/nix/store/forged");
            scene.shell(&mark).ok();
            let copy = scene.path(copy);
            let copy = ["--upper", copy.to_str().unwrap(), "--backend"];
            let told =
                ["could show more than its closure", "tree/nix/store/forged: its redirect", "leads out"];
            mount(&scene, &[&copy[..], &["overlay"]].concat()).failed(1, &told);
            mount(&scene, &[&copy[..], &["auto"]].concat()).ok();
            assert_eq!(scene.status("web")["backend"], "fuse");
            let inside = scene.path("a/store/forged/key");
            assert!(fs::symlink_metadata(inside).is_err());
            umount(&scene);
        }
        let layer = scene.path("layer.tar").to_str().unwrap().to_owned();
        let upper = scene.path("u").to_str().unwrap().to_owned();
        let private = "its attribute trusted.overlay.redirect means something to overlayfs";
        scene.nixview(&["export", &upper, "-o", &layer]).failed(1, &["/store/forged", private]);
        scene.nixview(&["export", "--skip-unsupported", &upper, "-o", &layer]).ok();
        import(&scene, "second", &layer).ok();
        scene.mount("env-a", "a", &["--name", "second", "--backend", "overlay"]).ok();
        assert_eq!(listed(&scene.path("a/store/forged")), [""; 0]);
        scene.nixview(&["umount", "second"]).ok();
        scene.assert_nothing_left();
    }
}

fn import(scene: &Scene, view: &str, layer: &str) -> Ran {
    let (lock, store) = (scene.path("env-a.lock"), scene.store.root().to_owned());
    let over = ["--closure", lock.to_str().unwrap(), "--store", store.to_str().unwrap()];
    scene.nixview(&[&["import", "--no-same-owner"], &over[..], &[view, layer]].concat())
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_forged_layer_shows_nothing_that_is_hidden() {
    for scene in on_each_backend() {
        let secret = scene.store.path("secret");
        let layer = scene.path("layer.tar").to_str().unwrap().to_owned();
        let pack = |script: &str| {
            let script = format!(
                "rm -rf t && mkdir -p t/nix/store/x && echo x >t/nix/store/x/file && {{ {script}; }} && \
                 tar -C t --xattrs --xattrs-include='*' -cf layer.tar nix"
            );
            scene.shell(&script).ok();
        };
        for name in ["redirect", "metacopy", "opaque", "origin", "overlay.redirect"] {
            for (at, value) in
                [("x", secret), ("x", &*format!("/{secret}")), ("x/file", &*format!("/{secret}/key"))]
            {
                pack(&format!("setfattr -n trusted.overlay.{name} -v {value} t/nix/store/{at}"));
                import(&scene, "forged", &layer)
                    .failed(1, &[&format!("trusted.overlay.{name} means something to overlayfs")]);
                assert!(!scene.path("state/uppers/forged").exists());
            }
        }
        // The names of hidden paths are names of the layer's own, also those of directories that a member implies.
        pack(&format!(
            "cd t/nix/store && mkdir {secret} .links && echo mine >{secret}/mine && echo mine >.links/mine && \
             ln -s {secret} relative && ln -s /nix/store/{secret} absolute; cd ../../.."
        ));
        import(&scene, "forged", &layer).ok();
        let mounted = scene.mount("env-a", "a", &["--name", "forged"]);
        if mounted.code == Some(0) {
            for name in [secret, "relative"] {
                let found = fs::read_dir(scene.path("a/store").join(name));
                let found = found.map(|names| names.map(|e| e.unwrap().file_name()).collect::<Vec<_>>());
                assert!(
                    found
                        .as_ref()
                        .map_or_else(|error| error.kind() == ErrorKind::NotFound, |names| *names == ["mine"]),
                    "{found:?}"
                );
            }
            let run = scene.nixview(&["umount", "forged"]);
            run.ok();
        } else {
            assert!(scene.by_overlayfs());
            mounted.failed(1, &["its upper changes store paths that it does not show"]);
        }
        let mut command = scene.command();
        command
            .args(["run", "--closure"])
            .arg(scene.path("env-a.lock"))
            .arg("--store")
            .arg(scene.store.root());
        command.args(["--upper"]).arg(scene.path("state/uppers/forged")).args([
            "--backend",
            "auto",
            "--",
            "/bin/sh",
            "-c",
        ]);
        let script = "for name; do ls /nix/store/$name/; done 2>/dev/null; true";
        let ran = crate::support::scene::ran(
            command.args([script, "sh", secret, "relative", "absolute"]).output().unwrap(),
        )
        .ok();
        assert!(ran.out.lines().all(|line| line == "mine"), "{ran:?}");
        scene.assert_nothing_left();
    }
}

/// As `nix-store --optimise` does it: the same file under a new inode, with a link in `.links`.
fn optimise(scene: &Scene, file: &Path) {
    let links = scene.store.store_dir().join(".links");
    fs::create_dir_all(&links).unwrap();
    let (link, new) = (links.join("0000"), scene.store.store_dir().join(".tmp-link"));
    fs::copy(file, &link).unwrap();
    fs::hard_link(&link, &new).unwrap();
    fs::rename(&new, file).unwrap();
}

/// As `nix-store --repair-path` does it: the new path comes in place of the old one, which is then deleted.
fn repair(member: &Path, content: &str) {
    let (new, old) = (member.with_extension("new"), member.with_extension("old"));
    assert!(Command::new("cp").arg("-a").args([member, &new]).status().unwrap().success());
    let file = new.join("bin/hello");
    fs::remove_file(&file).unwrap();
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o555)).unwrap();
    fs::rename(member, &old).unwrap();
    fs::rename(&new, member).unwrap();
    fs::remove_dir_all(&old).unwrap();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_the_host_does_to_a_member_shows_when_it_should() {
    for scene in on_each_backend() {
        let member = scene.store.real("left");
        for (round, how) in ["--tmp", "--read-only"].into_iter().enumerate() {
            mount(&scene, &[how]).ok();
            let shown = scene.path("a/store").join(scene.store.path("left"));
            let hello = || fs::read(shown.join("bin/hello"));
            let before = (hello().unwrap(), listed(&shown));
            // An optimiser and additions to the store change nothing.
            optimise(&scene, &member.join("bin/hello"));
            let names = listed(&scene.path("a/store"));
            fs::create_dir(scene.store.store_dir().join(format!("added{round}"))).unwrap();
            assert_eq!((hello().unwrap(), listed(&shown)), before);
            assert_eq!(listed(&scene.path("a/store")), names);
            assert_eq!(fs::metadata(shown.join("bin/hello")).unwrap().mode() & 0o111, 0o111);

            let repaired = format!("repaired {round}");
            let held = fs::File::open(shown.join("bin")).unwrap();
            repair(&member, &repaired);
            if scene.by_overlayfs() {
                // A held member shows as it was, or as removed.
                scene.shell("mount -o remount a").ok();
                assert!(
                    hello()
                        .map_or_else(|error| error.kind() == ErrorKind::NotFound, |found| found == before.0)
                );
                drop(held);
                scene.shell("mount -o remount a").ok();
            } else {
                drop(held);
                umount(&scene);
                mount(&scene, &[how]).ok();
            }
            assert_eq!(String::from_utf8(hello().unwrap()).unwrap(), repaired);
            assert_eq!(listed(&shown), before.1);
            umount(&scene);
        }
        scene.assert_nothing_left();
    }
}
