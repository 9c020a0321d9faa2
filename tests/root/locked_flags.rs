//! A container with a user namespace of its own takes `nosuid` and `nodev` off no view, however it got the view.
#![allow(
    unsafe_code,
    reason = "test code: a process that attacks is made by fork, and mount_setattr(2) has no safe binding"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::CloneFlags;
use nixview::control::{Client, MountRequest, Place, Upper};
use nixview::sys::mount;
use nixview::sys::mountinfo;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsmount, fsopen, mount_remount, move_mount, open_tree,
};

use crate::support::scene::{self, Scene, on_each_backend};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};

/// Clears flags of the mount at `path`.
fn clear(path: &Path, flags: u64) -> io::Result<()> {
    let mount = mount::open_target(path)?;
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: flags, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a NUL-terminated constant, `attributes` is a live structure of exactly the length given, and
    // the kernel only reads both during the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a container does that was handed a mount: in a user and a mount namespace of its own it gives the mount a place,
/// and clears its flags. Answers how many of four attempts the kernel let pass.
fn attack(view: BorrowedFd<'_>, place: &Path) -> usize {
    let view = view.as_raw_fd();
    let at = place.to_owned();
    let attempts = move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        // SAFETY: the parent holds the descriptor until this process has ended.
        let view = unsafe { BorrowedFd::borrow_raw(view) };
        move_mount(view, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let relative = MountFlags::BIND | MountFlags::RELATIME;
        let attempts = [
            clear(&at, libc::MOUNT_ATTR_NOSUID),
            clear(&at, libc::MOUNT_ATTR_NODEV),
            mount_remount(&at, relative | MountFlags::NODEV, "").map_err(io::Error::from),
            mount_remount(&at, relative | MountFlags::NOSUID, "").map_err(io::Error::from),
        ];
        let mut passed = 0;
        for attempt in attempts {
            match attempt {
                Ok(()) => passed += 1,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) => return Err(error),
            }
        }
        // The only way from here to the parent, but for success, is the number of an error.
        if passed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(1000 + passed)) }
    };
    let mut command = Command::new("true");
    // SAFETY: between fork and exec the closure makes system calls; what it allocates is small, and glibc's allocator works
    // in a forked process.
    unsafe { command.pre_exec(attempts) };
    match command.status() {
        Ok(ended) => {
            assert!(ended.success());
            0
        }
        Err(error) => match error.raw_os_error() {
            Some(number @ 1001..=1004) => usize::try_from(number - 1000).unwrap(),
            _ => panic!("the attack could not be tried: {error}"),
        },
    }
}

/// True if root may have user namespaces here.
fn user_namespaces() -> bool {
    let tried = Command::new("unshare").args(["--user", "--mount", "true"]).output().unwrap();
    if !tried.status.success() {
        skip!("no user namespaces: {}", tried.stderr.escape_ascii());
    }
    tried.status.success()
}

fn new_tmpfs() -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&context).unwrap();
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).unwrap()
}

fn handed(scene: &Scene, name: &str) -> (MountRequest, File) {
    let lock = scene.path("env-a.lock");
    let place = Place::Handed { purpose: "a test".to_owned() };
    let mut request = MountRequest::new(lock.clone(), place, Upper::Temporary);
    request.name = Some(name.to_owned());
    request.store = scene.store.root().to_owned();
    (request, File::open(lock).unwrap())
}

fn wait_until_no_view_is_left(scene: &Scene) {
    eventually("a view that nothing uses ends", PATIENCE, || {
        scene.names("run/views").is_empty() && scene.processes().is_empty()
    });
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn flags_of_a_view_that_is_handed_over_are_locked() {
    if !user_namespaces() {
        return;
    }
    let scene = Scene::new();
    // Without a lock the attack works: else the test would show nothing.
    assert_eq!(attack(new_tmpfs().as_fd(), &scene.path("b")), 4, "the attack itself");

    // To a runtime's hook, by a server of its own and by the daemon.
    for with_daemon in [false, true] {
        let mut program = scene.direct();
        program.arg("daemon");
        let (client, daemon) = if with_daemon {
            let daemon = program.arg("--store").arg(scene.store.root()).spawn().unwrap();
            let mut client = None;
            eventually("the daemon listens", PATIENCE, || {
                client = Client::connect(&scene.path("run/control.sock")).ok().flatten();
                client.is_some()
            });
            (client.unwrap(), Some(daemon))
        } else {
            program.arg("--once");
            (Client::start(program).unwrap(), None)
        };
        let (request, lock) = handed(&scene, "given");
        let mounted = client.mount(&request, lock.as_fd(), None).unwrap();
        let view = mounted.mount.expect("a detached mount");
        assert_eq!(attack(view.as_fd(), &scene.path("b")), 0, "handed over, daemon: {with_daemon}");
        drop((view, client));
        if let Some(mut daemon) = daemon {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            fs::remove_file(scene.path("run/control.sock")).unwrap();
        }
        wait_until_no_view_is_left(&scene);
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn flags_of_a_view_on_a_directory_and_of_a_command_are_locked() {
    if !user_namespaces() {
        return;
    }
    let scene = Scene::new();
    // A runtime clones what is on the directory for a volume, before it enters the container's namespaces.
    for options in ["nosuid", "noexec"] {
        scene.mount("env-a", "a", &["--name", "web", "--tmp", "-o", options]).ok();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let volume = open_tree(CWD, scene.path("a"), flags).unwrap();
        assert_eq!(attack(volume.as_fd(), &scene.path("b")), 0, "cloned from a directory");
        drop(volume);
        // Flags show as before, also of the host's root; others of them may change, and the view goes.
        let shown = mountinfo::mount_at(&scene.path("a")).unwrap().unwrap();
        let no_exec = if options == "noexec" { ",noexec" } else { "" };
        assert_eq!(shown.options, format!("rw,nosuid,nodev{no_exec},relatime").into_bytes());
        scene.shell("mount -i -o remount,bind,suid,dev a").failed(32, &[]);
        scene.shell("mount -i -o remount,bind,ro,exec a && ! touch a/x 2>/dev/null").ok();
        scene.shell("mount -i -o remount,bind,rw,noexec a && touch a/x").ok();
        scene.nixview(&["umount", "web"]).ok();
        wait_until_no_view_is_left(&scene);
    }
    let ran =
        scene.run("env-a", &[], "mount -i -o remount,bind,suid,dev /nix; grep ' /nix ' /proc/self/mountinfo");
    assert!(ran.out.contains(" /nix rw,nosuid,nodev,relatime"), "{ran:?}");
    wait_until_no_view_is_left(&scene);
}

/// No copy of many mounts is made for a view, but one of a namespace that another view's keeper has open, or of a new one.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn flags_are_locked_where_the_host_has_many_mounts() {
    if !user_namespaces() {
        return;
    }
    scene::alone();
    let crowd = tempfile::tempdir().unwrap();
    let dir = crowd.path().display();
    for scene in on_each_backend() {
        let begin = |target: &str| {
            scene.mount("env-a", target, &["--name", target, "--tmp"]).ok();
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let volume = open_tree(CWD, scene.path(target), flags).unwrap();
            assert_eq!(attack(volume.as_fd(), &scene.path("crowd")), 0);
            fs::read_to_string(scene.path("run/namespace")).ok()
        };
        fs::create_dir(scene.path("crowd")).unwrap();
        assert_eq!(begin("a"), None, "few mounts are copied");
        scene.shell(&format!("for n in $(seq 120); do mount -t tmpfs none {dir} || exit; done")).ok();
        let first = begin("b").expect("the first keeper makes one");
        assert!(first.starts_with(&format!("{} ", scene.keeper("b"))), "{first}");
        fs::create_dir(scene.path("c")).unwrap();
        assert_eq!(begin("c"), Some(first.clone()), "the second takes it over");
        scene.nixview(&["umount", "c"]).ok();
        scene.nixview(&["umount", "b"]).ok();
        eventually("the keeper ends", PATIENCE, || !first_is_there(&first));
        let next = begin("b").expect("it went with the keeper");
        assert_ne!(next, first);
        // Another process has the number, or something else open.
        let own = File::open("/dev/null").unwrap();
        let id = next.split_ascii_whitespace().nth(2).unwrap();
        for fd in [own.as_raw_fd().to_string(), "ns".to_owned()] {
            let told = format!("{} {fd} {id}\n", std::process::id());
            fs::write(scene.path("run/namespace"), &told).unwrap();
            assert_ne!(begin("c").unwrap(), told);
            scene.nixview(&["umount", "c"]).ok();
        }
        scene.shell(&format!("for n in $(seq 120); do umount {dir} || exit; done")).ok();
        ["a", "b"].iter().for_each(|name| drop(scene.nixview(&["umount", name]).ok()));
        wait_until_no_view_is_left(&scene);
    }
}

fn first_is_there(note: &str) -> bool {
    let pid = note.split_ascii_whitespace().next().unwrap();
    fs::exists(format!("/proc/{pid}")).unwrap()
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn where_user_namespaces_are_forbidden_views_work_and_the_log_says_so() {
    if !user_namespaces() {
        return;
    }
    let scene = Scene::new();
    let lock = scene.path("env-a.lock");
    // The limit of the namespace around it: none in here.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && NIXVIEW_LOG=warn exec timeout 30 {} --state-dir {} \
         --runtime-dir {} run --closure {} --store {} --io cached -- sh -c 'cd /nix/store && echo *-config.txt; touch /nix/x; echo end'",
        env!("CARGO_BIN_EXE_nixview"),
        scene.path("state").display(),
        scene.path("run").display(),
        lock.display(),
        scene.store.root().display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).current_dir("/");
    let ran = scene::ran(command.output().unwrap());
    if ran.err.contains("max_user_namespaces") {
        return skip!("the limit cannot be set: {}", ran.err.trim());
    }
    assert!(ran.out.contains("-config.txt\nend\n"), "{ran:?}");
    assert!(ran.err.contains("not locked"), "{ran:?}");
    wait_until_no_view_is_left(&scene);
}
