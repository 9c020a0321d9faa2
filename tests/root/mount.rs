//! `nixview mount`, `status`, `umount`: whole views of a tiny store, on this machine's kernel.

use std::process::Command;

use crate::support::scene::{self, Scene, on_each_backend};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

#[test]
#[ignore = "needs root and /dev/fuse"]
fn two_views_at_once_show_their_own_and_change_nothing_else() {
    for scene in on_each_backend() {
        let before = scene.store_digest();
        scene.mount("env-a", "a", &["--name", "one", "--tmp"]).ok();
        scene.mount("env-b", "b", &["--name", "two", "--tmp"]).ok();

        let store = &scene.store;
        for (target, label) in [("a", "env-a"), ("b", "env-b")] {
            let mut want: Vec<&str> = store.closure(label);
            want.sort_unstable();
            let listed = scene.shell(&format!("LC_ALL=C ls {target}/store")).ok().out;
            assert_eq!(listed.lines().collect::<Vec<_>>(), want);
        }
        // What the other has is not there, however it is asked for.
        let (data, secret) = (store.path("data"), store.path("secret"));
        for hidden in [data, secret, "00000000000000000000000000000000-nothing"] {
            for ask in ["ls", "stat", "cat", "readlink"] {
                let ran = scene.shell(&format!("{ask} a/store/{hidden}"));
                assert_ne!(ran.code, Some(0), "{ask} {hidden}: {ran:?}");
                assert!(ask == "readlink" || ran.err.contains("No such file or directory"), "{ran:?}");
            }
        }
        let libc = store.path("libc");
        scene.shell(&format!("grep 'I live in' a/store/{libc}/lib/libc.so.1")).ok();

        // Writing, deleting, replacing in A.
        scene.shell(&format!("echo changed > a/store/{libc}/lib/libc.so.1")).ok();
        scene.shell(&format!("rm -r a/store/{}", store.path("config"))).ok();
        scene.shell("mkdir a/store/new && echo mine > a/store/new/file").ok();
        assert_eq!(scene.shell(&format!("cat a/store/{libc}/lib/libc.so.1")).ok().out, "changed\n");
        scene.shell(&format!("grep 'I live in' b/store/{libc}/lib/libc.so.1")).ok();
        assert_ne!(scene.shell("ls b/store/new").code, Some(0));

        scene.nixview(&["umount", "one"]).ok();
        scene.nixview(&["umount", scene.path("b").to_str().unwrap()]).ok();
        assert_eq!(scene.store_digest(), before, "the store was changed");
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn changes_are_there_again_with_the_same_upper() {
    for scene in on_each_backend() {
        scene.mount("env-a", "a", &["--name", "web"]).ok();
        let config = scene.store.path("config").to_owned();
        scene
            .shell(&format!(
                "echo red > a/store/{config}; rm -r a/store/{}; mkdir a/own",
                scene.store.path("tool")
            ))
            .ok();
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
        scene.mount("env-a", "b", &["--name", "web"]).ok();
        assert_eq!(scene.shell(&format!("cat b/store/{config}")).ok().out, "red\n");
        assert_ne!(scene.shell(&format!("ls b/store/{}", scene.store.path("tool"))).code, Some(0));
        scene.shell("test -d b/own").ok();
        let listed = scene.nixview(&["upper", "list"]).ok().out;
        assert!(listed.contains("state/uppers/web") && listed.contains("process"), "{listed}");
        scene.nixview(&["upper", "remove", "web"]).failed(1, &["process"]);
        scene.nixview(&["umount", "web"]).ok();
        scene.nixview(&["upper", "remove", "web"]).ok();
        assert_eq!(scene.names("state/uppers"), Vec::<String>::new());
        scene.nixview(&["upper", "remove", "web"]).failed(1, &["hint"]);
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_upper_of_another_environment_is_warned_of_and_shows_whole_paths_alone() {
    let scene = Scene::new();
    let warned = "the upper was last used with another environment";
    let mount = |label: &str| scene.mount(label, "a", &["--name", "web"]).ok();
    // Nothing is in it yet.
    mount("env-b");
    scene.nixview(&["umount", "web"]).ok();
    assert!(!mount("env-a").err.contains(warned));
    scene.nixview(&["umount", "web"]).ok();
    assert!(!mount("env-b").err.contains(warned));
    let data = scene.store.path("data");
    scene.shell(&format!("chmod 700 a/store/{data}/share && cp -r a/store/{data} a/store/new")).ok();
    scene.nixview(&["umount", "web"]).ok();
    // overlayfs would show the changes of such a path as the path. What is refused changes nothing.
    let told = ["its upper changes store paths that it does not show", "hint"];
    let overlay = ["--name", "web", "--backend", "overlay"];
    for _ in 0..2 {
        scene.mount("env-a", "a", &overlay).failed(1, &told);
    }
    let ran = mount("env-a");
    for part in [warned, "'env-b'", "'env-a'", data, "nixview reset"] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    let mut want = scene.store.closure("env-a");
    want.push("new");
    want.sort_unstable();
    let listed = scene.shell("LC_ALL=C ls a/store").ok().out;
    assert_eq!(listed.lines().collect::<Vec<_>>(), want);
    scene
        .shell(&format!("! test -e a/store/{data} && ! mkdir a/store/{data} && test -d a/store/new/share"))
        .ok();
    scene.nixview(&["umount", "web"]).ok();
    assert!(!mount("env-a").err.contains(warned), "it is the same now");
    scene.nixview(&["umount", "web"]).ok();
    scene.mount("env-a", "a", &overlay).failed(1, &told);
    mount("env-b");
    assert_eq!(scene.shell(&format!("stat -c %a a/store/{data}/share")).ok().out, "700\n");
    // A path that was moved as a whole is a part of what it was before.
    scene.nixview(&["reset", "web", "store"]).failed(1, &[]);
    scene.nixview(&["umount", "web"]).ok();
    scene.nixview(&["reset", "web", "store"]).ok();
    mount("env-b");
    scene.shell(&format!("mv a/store/{data} a/store/kept")).ok();
    scene.nixview(&["umount", "web"]).ok();
    scene.mount("env-a", "a", &overlay).failed(1, &told);
    mount("env-a");
    scene.shell("! test -e a/store/kept").ok();
    scene.nixview(&["umount", "web"]).ok();
    scene.mount("env-b", "a", &overlay).ok();
    scene.shell(&format!("test -e a/store/kept/share && ! test -e a/store/{data}")).ok();
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_name_is_free_when_its_view_was_unmounted_by_others() {
    for scene in on_each_backend() {
        // umount(8) comes back while the server still cleans up.
        for _ in 0..8 {
            scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
            scene.shell("for n in $(seq 50); do echo $n > a/file$n; done; umount a").ok();
        }
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        scene.mount("env-a", "b", &["--name", "web", "--tmp"]).failed(1, &["web", "umount web"]);
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn names_targets_and_uppers_are_used_once() {
    for scene in on_each_backend() {
        let upper = scene.path("upper").into_os_string().into_string().unwrap();
        scene.mount("env-a", "a", &["--name", "web", "--upper", &upper]).ok();
        let pid = scene.keeper("web").to_string();
        scene
            .mount("env-a", "b", &["--name", "web", "--tmp"])
            .failed(1, &["'web' is being served already", &pid]);
        scene.mount("env-a", "b", &["--name", "other", "--upper", &upper]).failed(1, &[&upper, &pid]);
        scene.mount("env-a", "a", &["--name", "other", "--tmp"]).failed(1, &["mounted on", "already"]);
        let views: Vec<String> = scene.names("run/views");
        assert_eq!(views, ["web.json", "web.lock"], "what failed is registered");
        assert_eq!(scene.gc_roots().len(), 1);
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_fails_leaves_nothing() {
    for scene in on_each_backend() {
        scene.mount("env-a", "missing", &["--tmp"]).failed(1, &["missing", "mkdir -p"]);
        std::fs::write(scene.path("file"), "").unwrap();
        scene.mount("env-a", "file", &["--tmp"]).failed(1, &["Not a directory"]);
        std::os::unix::fs::symlink(scene.path("a"), scene.path("link")).unwrap();
        scene.mount("env-a", "link", &["--tmp"]).failed(1, &["symbolic link"]);
        let lock = scene.path("env-b.lock").into_os_string().into_string().unwrap();
        let target = scene.path("a").into_os_string().into_string().unwrap();
        let elsewhere = ["mount", "--closure", &lock, "--store", "/tmp", &target];
        scene.nixview(&elsewhere).failed(1, &["nix/store"]);
        scene.mount("env-a", "a", &["--tmp", "-o", "suid"]).failed(2, &["suid"]);
        scene.mount("env-a", "a", &["--tmp", "-o", "ro"]).failed(2, &["ro"]);
        scene.mount("env-c", "a", &["--tmp"]).failed(1, &["env-c.lock"]);

        // A lock that lies: another digest, another count.
        scene.lock("env-a", |lock| {
            lock.closure.digest = nixview::lock::Digest::of(b"something else");
            lock.closure.count = 99;
        });
        let real = scene.store.closure("env-a").len().to_string();
        scene.mount("env-a", "a", &["--tmp"]).failed(1, &["99", &real]);
        scene.mount("env-a", "a", &["--name", "kept"]).failed(1, &["99", &real]);
        let fresh = scene.path("fresh");
        scene.mount("env-a", "a", &["--upper", fresh.to_str().unwrap()]).failed(1, &["99", &real]);
        assert!(!fresh.exists(), "an upper that nobody used");
        // One whose root is gone from the store.
        scene.lock("env-a", |lock| {
            lock.roots =
                vec![nixview::lock::Root::plain("00000000000000000000000000000000-gone".parse().unwrap())];
        });
        scene.mount("env-a", "a", &["--tmp"]).failed(1, &["00000000000000000000000000000000-gone"]);
        // The upper cannot be had: after the name was taken, before the mount.
        std::fs::write(scene.path("upper"), "").unwrap();
        scene.mount("env-b", "a", &["--upper", scene.path("upper").to_str().unwrap()]).failed(1, &["upper"]);
        scene.assert_nothing_left();
        assert_eq!(scene.names("state/uppers"), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_killed_server_is_cleaned_up_after_and_its_upper_keeps_what_was_synced() {
    let scene = Scene::on("fuse");
    for target in ["a", "b"] {
        let upper = if target == "a" { vec!["--name", "a"] } else { vec!["--name", "b", "--tmp"] };
        scene.mount("env-a", target, &upper).ok();
        let script = format!(
            "cd {target}; for n in 1 2 3; do dd if=/dev/zero of=f$n bs=4k count=$n conv=fsync status=none; done; sync -f ."
        );
        scene.shell(&script).ok();
    }
    scene.kill_views(["a", "b"]);
    assert!(!scene.names("state/temporary").is_empty());
    let status = scene.nixview(&["status"]).ok().out;
    assert_eq!(status.matches("dead").count(), 2, "{status}");
    scene.assert_nothing_left();
    assert_eq!(scene.nixview(&["status", "--json"]).ok().out.trim(), "[]");
    scene.mount("env-a", "a", &["--name", "a"]).ok();
    assert_eq!(scene.shell("stat -c %s a/f1 a/f2 a/f3").ok().out, "4096\n8192\n12288\n");
    // The same again, cleaned up by the next mount, and by umount.
    scene.kill_view("a");
    scene.mount("env-a", "a", &["--name", "a"]).ok();
    assert_eq!(scene.mounts().len(), 1, "the dead mount was taken away");
    scene.kill_view("a");
    let said = scene.nixview(&["umount", "a"]).ok().err;
    assert!(said.contains("was dead"), "{said}");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_used_view_is_not_unmounted_unless_lazily() {
    for scene in on_each_backend() {
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        let mut user = Command::new("sleep").arg("60").current_dir(scene.path("a")).spawn().unwrap();
        scene.nixview(&["umount", "web"]).failed(1, &["busy", "fuser -vm"]);
        let lazy = scene.nixview(&["umount", "--lazy", "web"]).ok();
        assert!(lazy.err.contains("ends when nobody uses it"), "{lazy:?}");
        assert_eq!(scene.mounts().len(), 0);
        let processes = if scene.by_overlayfs() { 1 } else { 2 };
        assert_eq!(scene.processes().len(), processes, "it is kept, and served if there is a server");
        user.kill().unwrap();
        user.wait().unwrap();
        eventually("the view's processes end", PATIENCE, || scene.processes().is_empty());
        scene.assert_nothing_left();
        scene.nixview(&["umount", "web"]).failed(1, &["no view"]);
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_server_told_to_end_unmounts_first() {
    for scene in on_each_backend() {
        for signal in ["-TERM", "-INT"] {
            scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
            let pid = scene.keeper("web").to_string();
            assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
            eventually("the view's processes end", PATIENCE, || scene.processes().is_empty());
            scene.assert_nothing_left();
        }
        // umount(8) from outside.
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        scene.shell("umount -l a").ok();
        eventually("the view's processes end", PATIENCE, || scene.processes().is_empty());
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn read_only_views_owners_and_modes_of_io() {
    let scene = Scene::new();
    scene.mount("env-a", "a", &["--name", "ro", "--read-only", "--owner", "1234:99", "--io", "cached"]).ok();
    let denied = scene.shell("touch a/new");
    assert!(denied.err.contains("Read-only file system"), "{denied:?}");
    let libc = scene.store.path("libc");
    assert_eq!(
        scene.shell(&format!("stat -c %u:%g:%h a/store/{libc}/lib/libc.so.1")).ok().out,
        "1234:99:1\n"
    );
    let status = scene.nixview(&["status", "--json", "ro"]).ok().out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status[0]["io"], "cached");
    assert_eq!(status[0]["upper"]["kind"], "readOnly");
    assert_eq!(status[0]["state"], "mounted");
    assert_eq!(status[0]["closure"]["count"], scene.store.closure("env-a").len());
    scene.nixview(&["umount", "ro"]).ok();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn roots_of_the_collector_are_there_as_long_as_the_view() {
    for scene in on_each_backend() {
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        let roots = scene.gc_roots();
        assert_eq!(roots.len(), 1);
        let link = &roots[0].0;
        assert!(link.ends_with(scene.store.path("env-a")));
        let lease = link.parent().unwrap();
        assert_eq!(lease.parent().unwrap(), scene.leases_dir());
        assert!(lease.file_name().unwrap().to_str().unwrap().starts_with("web-"), "{lease:?}");
        assert_eq!(roots[0].1.to_str().unwrap(), scene.store.logical("env-a"));
        scene.nixview(&["umount", "web"]).ok();
        // A state directory that cannot be written: said, and fatal only on demand.
        scene.shell(&format!("mount -t tmpfs -o ro none {}/gcroots", scene.store.state_dir().display())).ok();
        let ran = scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        assert!(ran.err.contains("not safe from Nix's garbage collector"), "{ran:?}");
        scene.nixview(&["umount", "web"]).ok();
        scene
            .mount("env-a", "a", &["--name", "web", "--tmp", "--require-gc-roots"])
            .failed(1, &["Read-only file system"]);
        scene.shell(&format!("umount {}/gcroots", scene.store.state_dir().display())).ok();
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_foreground_serves_until_it_is_interrupted() {
    for scene in on_each_backend() {
        let mut command = scene.direct();
        command.args(["mount", "-f", "--tmp", "--name", "web", "--closure"]).arg(scene.path("env-a.lock"));
        command.arg("--store").arg(scene.store.root()).arg(scene.path("a"));
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stderr.take().unwrap()), &mut said)
            .unwrap();
        assert!(said.contains("view 'web'"), "{said}");
        scene.shell(&format!("ls a/store/{}", scene.store.path("libc"))).ok();
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn fusermount3_mounts_for_users_and_can_be_forced() {
    let scene = Scene::new();
    if scene.shell("command -v fusermount3").code != Some(0) {
        skip!("fusermount3 is not installed");
        return;
    }
    scene.mount("env-a", "a", &["--name", "web", "--tmp", "--fusermount"]).ok();
    scene.shell(&format!("ls a/store/{}", scene.store.path("libc"))).ok();
    scene.nixview(&["umount", "web"]).ok();
    scene.assert_nothing_left();

    // As a user, with a device and a configuration of a namespace of the test's own. It unmounts by itself.
    scene.shell("chmod 755 . && mkdir -m 0777 home run-user && chown 65534:65534 a && chmod a+r *.lock").ok();
    let script = |options: &str| {
        format!(
            "set -e; cp -a /dev/fuse home/fuse; chmod 666 home/fuse; mount --bind home/fuse /dev/fuse
             : > home/conf; : >> /etc/fuse.conf; mount --bind home/conf /etc/fuse.conf
             cp -f {1} home/nixview; chmod 755 home/nixview; cd /
             n() {{ setpriv --reuid=65534 --regid=65534 --clear-groups env HOME={0}/home \\
               {0}/home/nixview --state-dir {0}/home/state --runtime-dir {0}/run-user \"$@\"; }}
             n mount --closure {0}/env-a.lock --store {0}/s --name own --tmp {options} {0}/a
             setpriv --reuid=65534 --regid=65534 --clear-groups ls -d {0}/a/store
             n status; n umount own",
            scene.dir.path().display(),
            env!("CARGO_BIN_EXE_nixview"),
        )
    };
    std::fs::write(scene.path("script"), script("").replace("\\\\", "\\").replace("\\\"", "\"")).unwrap();
    let ran = scene.shell("unshare -m --propagation private /bin/sh ./script").ok();
    assert!(ran.out.contains("a/store\n") && ran.out.contains("cached"), "{ran:?}");
    std::fs::write(
        scene.path("script"),
        script("-o allow_other").replace("\\\\", "\\").replace("\\\"", "\""),
    )
    .unwrap();
    let ran = scene.shell("unshare -m --propagation private /bin/sh ./script");
    assert!(ran.err.contains("user_allow_other"), "{ran:?}");
    assert_eq!(scene.names("run-user/views"), Vec::<String>::new());
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_store_without_any_record_is_scanned() {
    for scene in on_each_backend() {
        std::fs::remove_dir_all(scene.store.root().join("nix/var")).unwrap();
        let lock = scene.path("env-a.lock").into_os_string().into_string().unwrap();
        let path = scene.store.logical("env-a");
        let store = scene.store.root().to_str().unwrap();
        scene.nixview(&["lock", "--store", store, "-o", &lock, &path]).ok();
        scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
        let listed = scene.shell("LC_ALL=C ls a/store").ok().out;
        let mut want = scene.store.closure("env-a");
        want.sort_unstable();
        assert_eq!(listed.lines().collect::<Vec<_>>(), want);
        scene.nixview(&["umount", "web"]).ok();
        scene.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn of_mounts_at_the_same_moment_one_succeeds() {
    let scene = Scene::new();
    let upper = scene.path("upper").into_os_string().into_string().unwrap();
    // The same name; the same directory; the same upper.
    let cases: [[(&str, Vec<&str>); 2]; 3] = [
        [("a", vec!["--name", "x", "--tmp"]), ("b", vec!["--name", "x", "--tmp"])],
        [("a", vec!["--name", "x", "--tmp"]), ("a", vec!["--name", "y", "--tmp"])],
        [("a", vec!["--name", "x", "--upper", &upper]), ("b", vec!["--name", "y", "--upper", &upper])],
    ];
    for _ in 0..5 {
        for case in &cases {
            let answers = std::thread::scope(|scope| {
                let threads = case
                    .each_ref()
                    .map(|(target, options)| scope.spawn(|| scene.mount("env-a", target, options).code));
                threads.map(|thread| thread.join().unwrap())
            });
            let mut sorted = answers;
            sorted.sort_unstable();
            assert_eq!(sorted, [Some(0), Some(1)], "{case:?}");
            assert_eq!(scene.mounts().len(), 1, "{case:?}");
            let winner = &case[usize::from(answers[1] == Some(0))];
            scene.nixview(&["umount", winner.1[1]]).ok();
            scene.assert_nothing_left();
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_is_unmounted_by_name_or_by_any_form_of_its_path() {
    for scene in on_each_backend() {
        let relative = |arguments: &[&str]| {
            scene::ran(scene.command().args(arguments).current_dir(scene.dir.path()).output().unwrap())
        };
        for form in ["web", "a", "./a", "a/", "b/../a"] {
            scene.mount("env-a", "a", &["--name", "web", "--tmp"]).ok();
            relative(&["umount", form]).ok();
            scene.assert_nothing_left();
        }
        // A name counts for more than a path.
        scene.mount("env-a", "a", &["--name", "b", "--tmp"]).ok();
        scene.mount("env-a", "b", &["--name", "a", "--tmp"]).ok();
        relative(&["umount", "a"]).ok();
        assert_eq!(scene.mounts(), [scene.path("a")]);
        // What lies over a view is named, and left alone.
        scene.shell("mount -t tmpfs none a").ok();
        relative(&["umount", "b"]).failed(1, &["over the view 'b'", "umount"]);
        scene.shell("umount a").ok();
        relative(&["umount", "b"]).ok();
        relative(&["umount", "a"]).failed(1, &["no view", "'a'"]);
        scene.assert_nothing_left();
    }
}

/// The memory of a process that it shares with no file, in kB, and where that was read.
fn own_memory(pid: i32) -> (u64, String) {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let own = ["Private_Dirty:", "Shared_Dirty:"]
        .iter()
        .filter_map(|name| rollup.lines().find(|line| line.starts_with(name)))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    (own, rollup)
}

/// The part of a server's memory that is its own stays below 3 MB, also after it has moved large files: the buffers of
/// its threads are bounded. (In PSS, what the program file is shared with other servers for comes on top of it.)
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_server_that_moved_large_files_is_small_again() {
    let scene = Scene::new();
    for io in ["cached", "passthrough"] {
        scene.mount("env-a", "a", &["--name", "v", "--tmp", "--io", io]).ok();
        let work = "for n in 1 2 3 4; do dd if=/dev/zero of=a/store/big$n bs=1M count=8 & done; wait; \
                    for n in 1 2 3 4; do dd if=a/store/big$n of=/dev/null bs=1M iflag=nocache & done; wait";
        scene.shell(work).ok();
        // What it works on at this moment is let go of soon. The pages of an unoptimised program that the loader writes are 2 MB.
        let server = scene.server("v");
        eventually("the server has no more than 4 MB of its own", PATIENCE, || {
            (1..=4096).contains(&own_memory(server).0)
        });
        scene.nixview(&["umount", "v"]).ok();
    }
    scene.assert_nothing_left();
}
