//! Views in user namespaces: root of a container owns its /nix and writes it, with owners that were mapped by the view
//! (`--owner`) or by an idmapped mount of it; on the host nothing changes owner.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code; mount_setattr(2) has no safe binding"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::scene::{Ran, Scene, ran};
use crate::support::skip::skip;
use crate::support::wait::{PATIENCE, eventually};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// What 0 of the container is on the host.
const FIRST: u32 = 100_000;

/// A user namespace in which the ids from 0 are those of the host from [`FIRST`].
struct Container {
    holder: Child,
}

impl Container {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "sleep", "600"]).stdin(Stdio::null()).current_dir("/");
        let container = Self { holder: command.spawn().unwrap() };
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        eventually("the process has a user namespace of its own", PATIENCE, || {
            fs::read_link(container.namespace()).is_ok_and(|theirs| theirs != own)
        });
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", container.holder.id()), format!("0 {FIRST} 65536")).unwrap();
        }
        container
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/user", self.holder.id())
    }

    /// A shell command of a user of the container, and of the group of the same number.
    fn shell_as(&self, user: u32, dir: &Path, script: &str) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "30", "nsenter", &format!("--user={}", self.namespace())]);
        command.args([&format!("--setuid={user}"), &format!("--setgid={user}"), "/bin/sh", "-c", script]);
        ran(command.current_dir(dir).stdin(Stdio::null()).output().unwrap())
    }

    fn shell(&self, dir: &Path, script: &str) -> Ran {
        self.shell_as(0, dir, script)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

fn scene() -> Scene {
    // Overlayfs refuses an idmapped mount of a view.
    let scene = Scene::on("fuse");
    scene.shell("chmod 755 .; mkdir c").ok();
    scene
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

fn set_idmap(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd().try_into().unwrap(),
    };
    // SAFETY: the path is a NUL-terminated constant, `attributes` is a live structure of exactly the length given, and the
    // kernel only reads both during the call.
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

fn release() -> (u32, u32) {
    let uname = rustix::system::uname();
    let mut numbers =
        uname.release().to_str().unwrap().split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Mounts what is at `from` also at `to`, as a runtime does for a container; false where this kernel cannot.
fn bind_idmapped(from: &Path, to: &Path, container: &Container) -> bool {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, from, flags).unwrap();
    let namespace = File::open(container.namespace()).unwrap();
    match set_idmap(tree.as_fd(), namespace.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && release() < (6, 12) => {
            skip!("this kernel has no idmapped mounts of FUSE (Linux 6.12)");
            return false;
        }
        answer => answer.unwrap(),
    }
    move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
    true
}

/// What root of a container does in its /nix, in the directory of the view.
fn use_as_root(scene: &Scene, container: &Container, view: &Path) {
    let libc = format!("store/{}", scene.store.path("libc"));
    let inside = |script: &str| container.shell(view, script).ok().out;
    // Everything of the store is root's.
    let owners = inside("find . -printf '%U:%G\\n' | sort -u");
    assert_eq!(owners, "0:0\n");
    assert_eq!(inside("id -u"), "0\n");
    inside(
        "mkdir store/new && echo mine > store/new/file && ln -s file store/new/link && mkfifo store/new/fifo",
    );
    inside(&format!("echo more >> {libc}/lib/libc.so.1 && grep -q 'I live in' {libc}/lib/libc.so.1"));
    inside(&format!("rm -r store/{}", scene.store.path("config")));
    inside("chown 5:7 store/new/file && chown -h 8:9 store/new/link");
    assert_eq!(inside("stat -c %u:%g store/new/file store/new/link"), "5:7\n8:9\n");
    // A user of the container, and one that it has not.
    container.shell_as(5, view, "echo x >> store/new/file && touch -m store/new/file").ok();
    assert_ne!(container.shell_as(6, view, "echo x >> store/new/file").code, Some(0));
    assert_ne!(container.shell_as(6, view, "touch store/new/theirs").code, Some(0));
    inside("chmod 1777 store/new");
    container.shell_as(6, view, "echo own > store/new/theirs && chmod 600 store/new/theirs").ok();
    assert_eq!(inside("stat -c %u:%g store/new/theirs"), "6:6\n");
    let refused = container.shell(view, "chown 70000 store/new/file");
    assert!(refused.code != Some(0) && refused.err.contains("Invalid argument"), "{refused:?}");
    // Of a directory with a set-group-id bit.
    inside("mkdir store/group && chown 0:7 store/group && chmod 2777 store/group");
    container.shell_as(6, view, "mkdir store/group/d && touch store/group/f").ok();
    assert_eq!(inside("stat -c %u:%g store/group/d store/group/f"), "6:7\n6:7\n");
    // Rights that a change takes away, and those of root. No attribute `trusted.` is told in a container.
    inside("echo x > store/new/prog && chown 5:5 store/new/prog && chmod 6777 store/new/prog");
    container.shell_as(6, view, ": > store/new/prog").ok();
    assert_eq!(inside("stat -c %a store/new/prog"), "777\n");
}

/// Owners of what [`use_as_root`] made, given the owner of the container's root.
fn assert_owners(top: &Path, root: u32) {
    let new = top.join("store/new");
    assert_eq!(owner(&new), (root, root));
    assert_eq!(owner(&new.join("file")), (root + 5, root + 7));
    assert_eq!(owner(&new.join("link")), (root + 8, root + 9));
    assert_eq!(owner(&new.join("fifo")), (root, root));
    assert_eq!(owner(&new.join("theirs")), (root + 6, root + 6));
    assert_eq!(owner(&top.join("store/group/d")), (root + 6, root + 7));
}

fn mount(scene: &Scene, owner: &str, io: &str) {
    let upper = scene.path("u").into_os_string().into_string().unwrap();
    scene.mount("env-a", "a", &["--name", "web", "--owner", owner, "--io", io, "--upper", &upper]).ok();
}

fn end(scene: &Scene) {
    scene.nixview(&["umount", "web"]).ok();
    fs::remove_dir_all(scene.path("u")).unwrap();
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_view_with_an_owner_is_root_s_in_a_user_namespace() {
    let scene = scene();
    let before = scene.store_digest();
    let container = Container::new();
    for io in ["auto", "cached"] {
        mount(&scene, &format!("{FIRST}:{FIRST}"), io);
        use_as_root(&scene, &container, &scene.path("a"));
        // On the host: the view, and the upper behind it.
        assert_owners(&scene.path("a"), FIRST);
        assert_owners(&scene.path("u/tree/nix"), FIRST);
        let copied = scene.path("u/tree/nix/store").join(scene.store.path("libc"));
        assert_eq!(owner(&copied.join("lib/libc.so.1")), (FIRST, FIRST));
        end(&scene);
        assert_eq!(scene.store_digest(), before, "the store was changed");
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_idmapped_mount_of_a_view_is_root_s_in_a_user_namespace() {
    let scene = scene();
    let before = scene.store_digest();
    let container = Container::new();
    for io in ["auto", "cached"] {
        mount(&scene, "0:0", io);
        if !bind_idmapped(&scene.path("a"), &scene.path("c"), &container) {
            return end(&scene);
        }
        let (plain, mapped) = (scene.path("a"), scene.path("c"));
        use_as_root(&scene, &container, &mapped);
        assert_owners(&plain, 0);
        assert_owners(&scene.path("u/tree/nix"), 0);
        assert_owners(&mapped, FIRST);
        let copied = scene.path("u/tree/nix/store").join(scene.store.path("libc"));
        assert_eq!(owner(&copied.join("lib/libc.so.1")), (0, 0));
        // Without the mapping it is nobody's of the container's, and root of the host has no place behind it.
        assert_eq!(container.shell(&plain, "stat -c %u:%g store").ok().out, "65534:65534\n");
        assert_ne!(container.shell(&plain, "touch store/mine").code, Some(0));
        let refused = scene.shell("touch c/store/mine");
        assert!(refused.err.contains("Value too large"), "{refused:?}");
        scene.shell("echo host > a/store/host && cat c/store/host && chown 3:4 a/store/host").ok();
        assert_eq!(container.shell(&mapped, "stat -c %u:%g store/host").ok().out, "3:4\n");
        // Attributes of the host's root are told to it alone.
        scene.shell("setfattr -n trusted.x -v 1 a/store/host && setfattr -n user.x -v 1 a/store/host").ok();
        assert!(scene.shell("getfattr -m - a/store/host").ok().out.contains("trusted.x"));
        let told = container.shell(&mapped, "getfattr -m - store/host").ok();
        assert!(!told.out.contains("trusted.x") && told.out.contains("user.x"), "{told:?}");
        scene.shell("umount c").ok();
        end(&scene);
        assert_eq!(scene.store_digest(), before, "the store was changed");
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn access_control_lists_name_users_of_the_container() {
    let scene = scene();
    let container = Container::new();
    for (owner, idmapped) in [(FIRST, false), (0, true)] {
        let upper = scene.path("u").into_os_string().into_string().unwrap();
        let owner = format!("{owner}:{owner}");
        scene.mount("env-a", "a", &["--name", "web", "--owner", &owner, "--acl", "--upper", &upper]).ok();
        let view = scene.path(if idmapped { "c" } else { "a" });
        if idmapped && !bind_idmapped(&scene.path("a"), &view, &container) {
            return end(&scene);
        }
        container
            .shell(&view, "mkdir store/d && chmod 700 store/d && echo x > store/d/f && chmod 666 store/d/f")
            .ok();
        assert_ne!(container.shell_as(6, &view, "cat store/d/f").code, Some(0));
        container.shell(&view, "setfacl -m u:6:rx store/d").ok();
        container.shell_as(6, &view, "cat store/d/f").ok();
        assert_ne!(container.shell_as(7, &view, "cat store/d/f").code, Some(0));
        let told = container.shell(&view, "getfacl -n store/d").ok().out;
        assert!(told.contains("user:6:r-x"), "{told}");
        let host = scene.shell("getfacl -n u/tree/nix/store/d").ok().out;
        let expected = if idmapped { "user:6:r-x".to_owned() } else { format!("user:{}:r-x", FIRST + 6) };
        assert!(host.contains(&expected), "{host}");
        if idmapped {
            scene.shell("umount c").ok();
        }
        end(&scene);
    }
}
