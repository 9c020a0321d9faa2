//! `kill -9` of a server before each of its system calls that change anything, in the course of a fixed history: each
//! time the upper is mounted again and shows the plain tree before or after the operation that was interrupted.
//!
//! strace(1) kills the server (`--inject=CALL:signal=KILL:when=N`), for each call and each N until the history ends without
//! a kill. What is allowed comes from doing the same on a plain directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "test code"
)]

mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};
use scene::Scene;

/// What changes something, and what a server may do without on some file systems.
const CHANGES: [&str; 16] = [
    "mkdirat",
    "mknodat",
    "symlinkat",
    "linkat",
    "unlinkat",
    "renameat2",
    "fchmodat",
    "fchownat",
    "setxattr",
    "removexattr",
    "utimensat",
    "ftruncate",
    "fallocate",
    "pwrite64",
    "fsync",
    "copy_file_range",
];

type Op = (&'static str, fn(&Path) -> io::Result<()>);

fn writer(path: PathBuf) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn rename(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags)?)
}

/// One change each, of the tree that [`fill`] makes.
const HISTORY: &[Op] = &[
    ("create", |d| File::create(d.join("n")).map(drop)),
    ("write", |d| writer(d.join("n"))?.write_all_at(b"new", 0)),
    ("fsync", |d| File::open(d.join("n"))?.sync_all()),
    ("fsync of a directory", |d| File::open(d)?.sync_all()),
    ("write to a file of the lower", |d| writer(d.join("f0"))?.write_all_at(b"UPPER", 3)),
    ("append to it", |d| writer(d.join("f0"))?.write_all_at(b"more", 10_000)),
    ("punch a hole", |d| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&writer(d.join("f0"))?, flags, 1000, 5000)?)
    }),
    ("fallocate", |d| Ok(fallocate(&writer(d.join("f0"))?, FallocateFlags::empty(), 0, 20_000)?)),
    ("truncate", |d| writer(d.join("f0"))?.set_len(5)),
    ("truncate a file of the lower", |d| writer(d.join("f1"))?.set_len(7)),
    ("empty a file of the lower", |d| {
        OpenOptions::new().write(true).truncate(true).open(d.join("f2")).map(drop)
    }),
    ("set an attribute of the lower", |d| {
        Ok(rustix::fs::setxattr(d.join("f3"), "user.a", b"1", XattrFlags::empty())?)
    }),
    ("set another", |d| Ok(rustix::fs::setxattr(d.join("f3"), "user.b", b"2", XattrFlags::empty())?)),
    ("remove the first", |d| Ok(rustix::fs::removexattr(d.join("f3"), "user.a")?)),
    ("chmod in the lower", |d| fs::set_permissions(d.join("f4"), Permissions::from_mode(0o4711))),
    ("chown", |d| chown(d.join("f4"), Some(7), Some(8))),
    ("chown in the lower", |d| chown(d.join("f5"), Some(7), Some(8))),
    ("utimes", |d| {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(77);
        File::open(d.join("f5"))?.set_modified(time)
    }),
    ("link of the lower", |d| fs::hard_link(d.join("f6"), d.join("l6"))),
    ("rename in the lower", |d| fs::rename(d.join("f7"), d.join("r7"))),
    ("unlink in the lower", |d| fs::remove_file(d.join("f8"))),
    ("create over a whiteout", |d| File::create_new(d.join("f8")).map(drop)),
    ("unlink it again", |d| fs::remove_file(d.join("f8"))),
    ("link over that whiteout", |d| fs::hard_link(d.join("f6"), d.join("f8"))),
    ("mkdir", |d| fs::create_dir(d.join("m"))),
    ("mkdir in it", |d| fs::create_dir(d.join("m/s"))),
    ("symlink", |d| symlink("s", d.join("m/l"))),
    ("fifo", |d| Ok(rustix::fs::mknodat(CWD, d.join("m/p"), FileType::Fifo, Mode::RUSR, 0)?)),
    ("rename into it", |d| fs::rename(d.join("n"), d.join("m/n"))),
    ("rename over the lower", |d| fs::rename(d.join("m/n"), d.join("f9"))),
    ("exchange with the lower", |d| rename(d, "g0", "m/l", RenameFlags::EXCHANGE)),
    ("rename a directory", |d| fs::rename(d.join("m"), d.join("m2"))),
    ("unlink in a directory of the lower", |d| fs::remove_file(d.join("sub/x"))),
    ("unlink the last there", |d| fs::remove_file(d.join("sub/y"))),
    ("rmdir of the lower", |d| fs::remove_dir(d.join("sub"))),
    ("mkdir over a whiteout", |d| fs::create_dir(d.join("sub"))),
    ("create what was there", |d| File::create(d.join("sub/x")).map(drop)),
    ("exchange directories", |d| rename(d, "sub", "m2", RenameFlags::EXCHANGE)),
    ("empty a directory of the lower", |d| fs::remove_file(d.join("sub2/z"))),
    ("a directory onto it", |d| fs::rename(d.join("m2"), d.join("sub2"))),
    ("rename to where a whiteout is", |d| rename(d, "sub", "m2", RenameFlags::NOREPLACE)),
    ("unlink a link of the lower", |d| fs::remove_file(d.join("link"))),
    ("a directory in its place", |d| fs::create_dir(d.join("link"))),
    ("chmod of a directory of the lower", |d| {
        fs::set_permissions(d.join("deep"), Permissions::from_mode(0o700))
    }),
    ("write far down", |d| writer(d.join("deep/a/b/f"))?.write_all_at(b"!", 0)),
];

fn fill(dir: &Path) {
    for name in ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "g0"] {
        fs::write(dir.join(name), name.repeat(5000)).unwrap();
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o644)).unwrap();
    }
    for name in ["sub", "sub2", "deep/a/b"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    for name in ["sub/x", "sub/y", "sub2/z", "deep/a/b/f"] {
        fs::write(dir.join(name), name).unwrap();
    }
    symlink("f0", dir.join("link")).unwrap();
}

/// What a tree shows, by path.
type Tree = BTreeMap<PathBuf, String>;

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let mut content = Vec::new();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        } else if meta.is_symlink() {
            content = fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes();
        } else if meta.is_file() {
            content = fs::read(&full).unwrap();
        }
        let mut attributes = Vec::new();
        for name in ["user.a", "user.b"] {
            let mut value = [0; 16];
            let length = rustix::fs::lgetxattr(&full, name, &mut value).unwrap_or(0);
            attributes.push(value[..length].escape_ascii().to_string());
        }
        let mut hash = DefaultHasher::new();
        content.hash(&mut hash);
        let start = content.get(..20).unwrap_or(&content).escape_ascii().to_string();
        let content = format!("{start}… {} bytes, {:x}", content.len(), hash.finish());
        let set_time = if meta.mtime() == 77 { 77 } else { 0 };
        let numbers = (format!("{:o}", meta.mode()), meta.uid(), meta.gid(), set_time);
        found.insert(path, format!("{numbers:?} {attributes:?} {content}"));
    }
    found
}

/// The plain tree before everything, and after each operation.
fn expected(work: &Path) -> Vec<Tree> {
    let plain = work.join("plain");
    fs::create_dir(&plain).unwrap();
    fill(&plain);
    let mut trees = vec![tree(&plain)];
    for (what, op) in HISTORY {
        op(&plain).unwrap_or_else(|error| panic!("{what}: {error}"));
        trees.push(tree(&plain));
    }
    trees
}

/// How a history went: how many operations were answered, and the error of the next.
fn history(dir: PathBuf) -> (usize, Option<io::Error>) {
    let (done, ended) = mpsc::channel();
    // Not joined: one that hangs would hang the test.
    thread::spawn(move || {
        for (at, (_, op)) in HISTORY.iter().enumerate() {
            if let Err(error) = op(&dir) {
                return done.send((at, Some(error)));
            }
        }
        done.send((HISTORY.len(), None))
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("an operation hangs")
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets strace(1) kill a server before its `n`-th `call`; comes back when it watches all threads.
fn kill_at(call: &str, n: usize, server: i32) -> Child {
    let strace = Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={n}"), "-p", &server.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("strace is needed");
    wait_until("strace does not attach", || {
        fs::read_dir(format!("/proc/{server}/task")).unwrap().all(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            status.contains(&format!("TracerPid:\t{}\n", strace.id()))
        })
    });
    strace
}

fn has_ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

/// A view of the scene whose upper begins empty each time.
struct Target<'s> {
    scene: &'s Scene,
    upper: PathBuf,
    dir: PathBuf,
    /// What may show after so many operations.
    allowed: Vec<Tree>,
}

impl Target<'_> {
    fn mount(&self) {
        let upper = self.upper.to_str().unwrap();
        let options = ["--name", "k", "--io", "cached", "--threads", "1", "--upper", upper];
        self.scene.mount("env-b", "a", &options).ok();
    }

    /// What shows; the member's own files are none of the history's.
    fn shown(&self) -> Tree {
        let mut tree = tree(&self.dir);
        tree.retain(|path, _| self.allowed.iter().any(|allowed| allowed.contains_key(path)));
        tree.insert(PathBuf::new(), self.allowed[0][Path::new("")].clone());
        tree
    }

    /// Runs the history with a kill; false if it ended before there was one.
    fn kill_at(&self, call: &str, n: usize) -> bool {
        if self.upper.exists() {
            fs::remove_dir_all(&self.upper).unwrap();
        }
        self.mount();
        let mut strace = kill_at(call, n, self.scene.server("k"));
        let (answered, error) = history(self.dir.clone());
        if error.is_none() {
            kill_process(Pid::from_child(&strace), Signal::TERM).unwrap();
            wait_until("strace does not end", || has_ended(&mut strace));
            assert_eq!(self.shown(), self.allowed[answered], "without a kill");
        } else {
            wait_until("strace does not end with what it traces", || has_ended(&mut strace));
            self.mount();
            assert_eq!(self.scene.names("u/work"), Vec::<String>::new(), "drafts are left");
            let found = self.shown();
            let (before, after) = (&self.allowed[answered], &self.allowed[answered + 1]);
            let differs = |tree: &Tree| {
                let paths: BTreeSet<_> = tree.keys().chain(found.keys()).collect();
                let path = paths.into_iter().find(|path| tree.get(*path) != found.get(*path));
                path.map(|path| format!("{path:?}: {:?} for {:?}", found.get(path), tree.get(path)))
            };
            if let (Some(before), Some(after)) = (differs(before), differs(after)) {
                let what = HISTORY[answered].0;
                panic!("{call} {n}, in '{what}' ({error:?}): not before, {before}; not after, {after}");
            }
        }
        self.scene.nixview(&["umount", "k"]).ok();
        error.is_some()
    }
}

#[test]
#[ignore = "needs root, /dev/fuse and strace"]
fn a_kill_before_any_change_leaves_the_tree_before_or_after() {
    let scene = Scene::new();
    fill(&scene.store.real("data"));
    let before = scene.store_digest();
    let allowed = expected(scene.dir.path());
    let dir = scene.path("a/store").join(scene.store.path("data"));
    let target = Target { scene: &scene, upper: scene.path("u"), dir, allowed };
    let mut kills = BTreeMap::new();
    for call in CHANGES {
        let count = (1..).take_while(|n| target.kill_at(call, *n)).count();
        assert!(count > 0, "the history needs no {call}");
        kills.insert(call, count);
    }
    println!("{} kills: {kills:?}", kills.values().sum::<usize>());
    assert_eq!(scene.store_digest(), before, "the store was changed");
    scene.assert_nothing_left();
}
