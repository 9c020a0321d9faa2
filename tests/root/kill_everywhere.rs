//! `kill -9` of a server before each of its system calls that change anything, in the course of a fixed history: each
//! time the upper is mounted again and shows the plain tree before or after the operation that was interrupted.
//!
//! strace(1) kills the server (`--inject=CALL:signal=KILL:when=N`), for each call and each N until the history ends without
//! a kill. What is allowed comes from doing the same on a plain directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::effort::pick;
use crate::support::history::{HISTORY, Tree, expected, fill, tree};
use crate::support::scene::Scene;
use crate::support::strace::{self, has_ended, kill_at};
use crate::support::wait::{PATIENCE, eventually};

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

/// How a history went: how many operations were answered, and the error of the next.
fn run_history(dir: PathBuf) -> (usize, Option<io::Error>) {
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
        let options = ["--name", "k", "--io", "cached", "--threads", "1", "--no-restart", "--upper", upper];
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
        let (answered, error) = run_history(self.dir.clone());
        if error.is_none() {
            strace::end(strace);
            assert_eq!(self.shown(), self.allowed[answered], "without a kill");
        } else {
            eventually("strace ends with what it traces", PATIENCE, || has_ended(&mut strace));
            eventually("the keeper ends with its server", PATIENCE, || self.scene.processes().is_empty());
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
        // Most of these are what the server notes in memory, which changes no disk.
        let step = pick(12, 1) * if call == "pwrite64" { 8 } else { 1 };
        let count = (1..).step_by(step).take_while(|n| target.kill_at(call, *n)).count();
        assert!(count > 0, "the history needs no {call}");
        kills.insert(call, count);
    }
    println!("{} kills: {kills:?}", kills.values().sum::<usize>());
    assert_eq!(scene.store_digest(), before, "the store was changed");
    scene.assert_nothing_left();
}
