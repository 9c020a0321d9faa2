//! mount(8), umount(8) and fstab(5) with views, in a mount namespace where the helpers are installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use mini_store::MiniStore;
use skip::skip;
use tempfile::TempDir;

#[path = "../../tests/support/skip.rs"]
mod skip;

const HELPER: &str = env!("CARGO_BIN_EXE_nixview-mount");

/// The `nixview` that was built beside the helper.
fn nixview() -> PathBuf {
    let path = Path::new(HELPER).with_file_name("nixview");
    assert!(path.exists(), "{} is missing: cargo build --bin nixview", path.display());
    path
}

struct Scene {
    dir: TempDir,
    store: MiniStore,
    /// What makes the views.
    backend: &'static str,
}

impl Scene {
    fn new() -> Self {
        Self::on("fuse")
    }

    fn on(backend: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("nv").tempdir_in("/tmp").unwrap();
        let store = MiniStore::build(&dir.path().join("s"));
        for name in ["a", "sbin", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["mount.nixview", "mount.fuse.nixview", "umount.nixview", "umount.fuse.nixview"] {
            symlink(HELPER, dir.path().join("sbin").join(name)).unwrap();
        }
        let scene = Self { dir, store, backend };
        let mut lock = Command::new(nixview());
        lock.args(["lock", "--store"]).arg(scene.store.root()).arg(scene.store.logical("env-a"));
        lock.arg("-o").arg(scene.dir.path().join("env.lock"));
        assert!(scene.dirs(&mut lock).status().unwrap().success());
        scene
    }

    fn dirs<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NIXVIEW_STATE_DIR", self.dir.path().join("state"));
        command.env("NIXVIEW_RUNTIME_DIR", self.dir.path().join("run"))
    }

    /// Runs a script in a mount namespace of its own in which mount(8) finds the helpers. `$D` is the scene, `$O` says where
    /// nixview keeps its files and which store it is. All servers of the script end with it.
    fn run(&self, script: &str) -> Output {
        let dir = self.dir.path().display();
        let (store, backend) = (self.store.root().display(), self.backend);
        let whole = format!(
            "set -u; D={dir}; O=store={store},state-dir={dir}/state,runtime-dir={dir}/run,backend={backend}
             fail() {{ echo \"$*\" >&2; exit 99; }}
             mount -t overlay overlay -o lowerdir=$D/sbin:/usr/sbin /usr/sbin || fail overlay
             cd $D; {script}"
        );
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60", "unshare", "-m", "sh", "-c", &whole]);
        self.dirs(&mut command).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{output:?}");
        // umount(8) does not use the helper in each case; then the server cleans up a moment later.
        let views = self.dir.path().join("run/views");
        let left = || fs::read_dir(&views).unwrap().count();
        let until = Instant::now() + Duration::from_secs(10);
        while left() > 0 {
            assert!(Instant::now() < until, "the registry is not empty");
            std::thread::sleep(Duration::from_millis(20));
        }
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(mini_store::remove(self.store.root()));
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn mount_and_umount_as_for_any_file_system() {
    let scene = Scene::new();
    let out =
        scene.ok("mount -t nixview $D/env.lock $D/a -o $O,upper=$D/up,owner=1000:100,name=web || fail mount
         grep \" $D/a \" /proc/mounts
         echo changed >a/store/own || fail write
         umount $D/a || fail umount
         [ ! -e a/store ] || fail 'still there'
         # The upper is free at once: umount has waited for the server.
         mount -t nixview $D/env.lock a -o $O,upper=$D/up,name=web || fail again
         cat a/store/own
         umount a || fail umount");
    assert!(out.contains("nixview") && out.contains(" fuse.nixview rw,nosuid,nodev"), "{out}");
    assert!(out.contains("changed"), "{out}");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn fstab_lines_mount_and_unmount() {
    let scene = Scene::new();
    let out = scene.ok(
        "echo \"$D/env.lock $D/a nixview defaults,noauto,nofail,x-systemd.automount,tmp,$O 0 0\" >fstab
         mount -T fstab $D/a || fail mount
         ls a/store | wc -l
         mount -T fstab -o remount,ro $D/a || fail remount
         umount $D/a || fail umount
         echo \"$D/env.lock $D/a fuse.nixview ro,$O 0 0\" >fstab
         mount -T fstab -a || fail 'mount -a'
         mount -T fstab -a || fail 'mount -a again'
         mount -T fstab -av | grep -q \"$D/a .*already mounted\" || fail 'not taken for mounted'
         grep -c \" $D/a fuse.nixview ro,\" /proc/mounts
         findmnt -no SOURCE $D/a
         umount $D/a || fail umount
         mkdir 'e n,v'; cp env.lock 'e n,v/b#.lock'; ln -s 'e n,v/b#.lock' link.lock
         echo \"$D/link.lock $D/a nixview ro,$O 0 0\" >fstab
         mount -T fstab -a || fail 'mount -a of a link'
         mount -T fstab -a || fail 'mount -a of a link again'
         grep -c \" $D/a fuse.nixview ro,\" /proc/mounts
         umount $D/a || fail umount",
    );
    let members = scene.store.closure("env-a").len();
    let lock = scene.dir.path().join("env.lock");
    assert_eq!(out, format!("{members}\n1\n{}\n1\n", lock.display()));
}

/// A mount by overlayfs has its type in the table of mounts: umount(8) and a remount without fstab ask no helper.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn views_by_overlayfs_are_mounted_remounted_and_unmounted() {
    for backend in ["overlay", "auto"] {
        let scene = Scene::on(backend);
        let out = scene.ok("echo \"$D/env.lock $D/a nixview noauto,upper=$D/up,$O 0 0\" >fstab
             mount -T fstab $D/a || fail mount
             grep -c \"^$D/env.lock $D/a overlay rw,nosuid,nodev\" /proc/mounts
             echo changed >a/store/own || fail write
             mount -T fstab -o remount,ro $D/a || fail remount
             ! touch a/store/two 2>/dev/null || fail 'written though read-only'
             mount -o remount,rw a || fail 'remount rw'
             touch a/store/two || fail 'not writable again'
             mount -T fstab -av | grep -q \"$D/a .*already mounted\\|ignored\" || fail 'not taken for mounted'
             umount $D/a || fail umount
             # A keeper that nothing waits for lives on for a moment.
             for n in 1 2 3 4 5 6 7 8 9 10; do mount -T fstab $D/a 2>err && break; sleep 0.1; done
             cat a/store/own
             umount a || fail umount
             mount -t nixview $D/env.lock a -o $O,ro || fail 'mount ro'
             mount -T fstab -o remount,rw $D/a 2>err && fail 'rw without an upper'
             umount a || fail umount");
        assert_eq!(out, "1\nchanged\n");
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn remount_changes_what_can_change() {
    let scene = Scene::new();
    scene.ok("mount -t nixview $D/env.lock a -o $O,tmp || fail mount
         echo x >a/one || fail write
         mount -o remount,ro a || fail 'remount ro'
         ! touch a/two 2>/dev/null || fail 'written though read-only'
         mount -o remount,rw a || fail 'remount rw'
         touch a/two || fail 'not writable again'
         printf '#!/bin/sh\\n' >a/script; chmod +x a/script; a/script || fail exec
         mount -o remount,noexec a || fail 'remount noexec'
         ! a/script 2>/dev/null || fail 'executed though noexec'
         mount -o remount,exec a; a/script || fail 'exec again'
         mount -o remount,owner=1:1 a 2>err; [ $? -ne 0 ] || fail 'owner changed'
         grep -q \"'owner' cannot change\" err || fail \"$(cat err)\"
         umount a || fail umount
         mount -t nixview $D/env.lock a -o $O,ro || fail 'mount ro'
         mount -o remount,rw a 2>err; [ $? -eq 32 ] || fail 'rw without an upper'
         grep -q 'has no upper' err || fail \"$(cat err)\"
         umount a || fail umount");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn what_fails_has_the_exit_code_of_mount_8() {
    let scene = Scene::new();
    fs::create_dir(scene.dir.path().join("run")).unwrap();
    fs::create_dir(scene.dir.path().join("run/views")).unwrap();
    scene.ok("code() { want=$1; shift; \"$@\" 2>err; got=$?; [ $got -eq $want ] || fail \"$*: $got, not $want: $(cat err)\"; }
         code 32 mount -t nixview $D/none.lock $D/a -o $O
         grep -q 'nixview lock' err || fail \"$(cat err)\"
         echo '{}' >bad.lock; code 32 mount -t nixview $D/bad.lock $D/a -o $O
         code 1 mount -t nixview $D/env.lock $D/a -o $O,colour=red
         grep -q colour err || fail \"$(cat err)\"
         code 0 mount -s -f -t nixview $D/env.lock $D/a -o $O,colour=red
         code 1 mount -t nixview $D/env.lock $D/a -o $O,ro,tmp
         code 0 mount -t nixview $D/env.lock $D/a -o $O,tmp
         code 32 mount -t nixview $D/env.lock $D/a -o $O,tmp,name=two
         grep -q 'mounted on' err || fail \"$(cat err)\"
         exec 5<a/store; code 32 umount $D/a; grep -q -i busy err || fail \"$(cat err)\"
         code 0 umount -l $D/a; exec 5<&-
         for i in $(seq 100); do [ -z \"$(ls run/views)\" ] && break; sleep 0.05; done
         code 32 umount.nixview $D/a");
}

#[test]
#[ignore = "needs binutils"]
fn neither_sqlite_nor_fuse_is_linked_in() {
    for program in [HELPER, env!("CARGO_BIN_EXE_nixview-oci-hook")] {
        let output = match Command::new("nm").arg(program).output() {
            Ok(output) => output,
            Err(error) => {
                skip!("nm: {error}");
                return;
            }
        };
        let symbols = String::from_utf8(output.stdout).unwrap();
        assert!(symbols.contains("nixview"), "{program} has symbols");
        for of_others in ["sqlite3_", "fuser", "rusqlite"] {
            assert!(!symbols.contains(of_others), "{of_others} is linked into {program}");
        }
    }
}
