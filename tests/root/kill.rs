//! `kill -9` of the server at random moments of a load: what was acknowledged is there when the upper is mounted again.
//!
//! Each worker has a directory of its own in the view and a model of it; the model is changed when the view has
//! answered. So after a kill all is known but what one operation of each worker came to, and of that, what it may be.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::effort::pick;
use crate::support::scene::Scene;

const WORKERS: usize = 3;
/// Files of the store for each worker to change, and trees for it to remove and make again.
const FILES: usize = 60;
const TREES: usize = 60;
const LINE: &[u8] = b"a line that was added in the view\n";

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at / 7 + seed * 31 + at * seed) % 251).unwrap()).collect()
}

/// What a file of the store holds.
fn lower_file(number: usize) -> Vec<u8> {
    bytes(number, 64 * 1024 + number * 1000)
}

/// What a tree of the store has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tree {
    Lower,
    /// Some of it may be gone.
    Removing,
    Gone,
    /// `own` was being made in it.
    Filling,
    /// Made again, and empty.
    Empty,
    /// With one file of the view's own.
    Own,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Op {
    Create(String, Vec<u8>),
    Replace(String, Vec<u8>),
    Rename(String, String),
    Unlink(String),
    Append(usize),
    RemoveTree(usize),
    MakeTree(usize),
    FillTree(usize),
}

#[derive(Debug)]
struct Worker {
    own: PathBuf,
    lower: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
    appended: Vec<bool>,
    trees: Vec<Tree>,
    in_flight: Option<Op>,
    acknowledged: usize,
}

impl Worker {
    fn next(&self, numbers: &mut Numbers) -> Op {
        let existing = || self.files.keys().cloned().collect::<Vec<_>>();
        let content = |n: &mut Numbers| bytes(n.below(1000), n.below(40_000));
        let some = |n: &mut Numbers| existing().get(n.below(self.files.len().max(1))).cloned();
        let name = format!("f{}", numbers.below(20));
        match numbers.below(8) {
            0 => some(numbers).map(Op::Unlink),
            1 => some(numbers).filter(|from| *from != name).map(|from| Op::Rename(from, name.clone())),
            2 | 3 => self.appended.iter().position(|done| !done).map(Op::Append),
            4 | 5 => self.trees.iter().position(|tree| *tree != Tree::Own).map(|at| match self.trees[at] {
                Tree::Lower | Tree::Removing => Op::RemoveTree(at),
                Tree::Gone => Op::MakeTree(at),
                Tree::Empty | Tree::Filling | Tree::Own => Op::FillTree(at),
            }),
            _ => None,
        }
        .unwrap_or_else(|| {
            let content = content(numbers);
            if self.files.contains_key(&name) {
                Op::Replace(name, content)
            } else {
                Op::Create(name, content)
            }
        })
    }

    fn tree(&self, at: usize) -> PathBuf {
        self.lower.join(format!("t{at}"))
    }

    fn apply(&self, op: &Op) -> io::Result<()> {
        let write = |file: File, content: &[u8]| {
            for (at, part) in content.chunks(8192).enumerate() {
                file.write_all_at(part, (at * 8192) as u64)?;
            }
            file.sync_all()
        };
        match op {
            Op::Create(name, content) => {
                write(OpenOptions::new().write(true).create_new(true).open(self.own.join(name))?, content)
            }
            // As editors and databases do.
            Op::Replace(name, content) => {
                write(File::create(self.own.join("new"))?, content)?;
                fs::rename(self.own.join("new"), self.own.join(name))
            }
            Op::Rename(from, to) => fs::rename(self.own.join(from), self.own.join(to)),
            Op::Unlink(name) => fs::remove_file(self.own.join(name)),
            Op::Append(at) => {
                let mut file = OpenOptions::new().append(true).open(self.lower.join(format!("f{at}")))?;
                file.write_all(LINE)?;
                file.sync_data()
            }
            Op::RemoveTree(at) => fs::remove_dir_all(self.tree(*at)),
            Op::MakeTree(at) => fs::create_dir(self.tree(*at)),
            Op::FillTree(at) => write(File::create(self.tree(*at).join("own"))?, b"mine"),
        }
    }

    fn acknowledge(&mut self, op: Op) {
        self.acknowledged += 1;
        match op {
            Op::Create(name, content) | Op::Replace(name, content) => drop(self.files.insert(name, content)),
            Op::Rename(from, to) => {
                let content = self.files.remove(&from).unwrap();
                self.files.insert(to, content);
            }
            Op::Unlink(name) => drop(self.files.remove(&name)),
            Op::Append(at) => self.appended[at] = true,
            Op::RemoveTree(at) => self.trees[at] = Tree::Gone,
            Op::MakeTree(at) => self.trees[at] = Tree::Empty,
            Op::FillTree(at) => self.trees[at] = Tree::Own,
        }
    }

    /// Works until the server is killed.
    fn work(mut self, mut numbers: Numbers, killed: &AtomicBool) -> Self {
        loop {
            let op = self.next(&mut numbers);
            self.in_flight = Some(op.clone());
            if let Err(error) = self.apply(&op) {
                assert!(killed.load(Ordering::SeqCst), "{op:?}: {error}");
                return self;
            }
            self.in_flight = None;
            self.acknowledge(op);
        }
    }

    /// Compares the view with the model, and takes over what became of the operation that was interrupted.
    fn check(&mut self) {
        let in_flight = self.in_flight.take();
        self.check_files(in_flight.as_ref());
        for at in 0..FILES {
            let content = fs::read(self.lower.join(format!("f{at}"))).unwrap();
            let mut full = lower_file(at);
            let length = full.len();
            full.extend_from_slice(LINE);
            if in_flight == Some(Op::Append(at)) {
                assert!(content.len() >= length && full.starts_with(&content), "f{at} is half a file");
                if content.len() < full.len() {
                    fs::write(self.lower.join(format!("f{at}")), &full).unwrap();
                }
                self.appended[at] = true;
            } else {
                let want = if self.appended[at] { &full[..] } else { &full[..length] };
                assert!(content == want, "f{at} has {} bytes of {}", content.len(), want.len());
            }
        }
        for at in 0..TREES {
            self.trees[at] = self.check_tree(at, in_flight.as_ref());
        }
    }

    fn check_files(&mut self, in_flight: Option<&Op>) {
        let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for entry in fs::read_dir(&self.own).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        }
        let mut want = self.files.clone();
        match in_flight {
            Some(Op::Create(name, content)) => {
                if let Some(part) = found.get(name) {
                    assert!(content.starts_with(part), "{name} holds what nobody wrote");
                    want.insert(name.clone(), part.clone());
                }
            }
            Some(Op::Replace(name, content)) => match found.get("new") {
                Some(part) => {
                    assert!(content.starts_with(part), "'new' holds what nobody wrote");
                    fs::remove_file(self.own.join("new")).unwrap();
                    found.remove("new");
                }
                None if found.get(name) == Some(content) => drop(want.insert(name.clone(), content.clone())),
                None => {}
            },
            Some(Op::Rename(from, to)) if !found.contains_key(from) => {
                let content = want.remove(from).unwrap();
                want.insert(to.clone(), content);
            }
            Some(Op::Unlink(name)) if !found.contains_key(name) => drop(want.remove(name)),
            _ => {}
        }
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&want), "interrupted: {in_flight:?}");
        assert!(found == want, "contents differ; interrupted: {in_flight:?}");
        self.files = found;
    }

    fn check_tree(&self, at: usize, in_flight: Option<&Op>) -> Tree {
        let path = self.tree(at);
        let listed = fs::read_dir(&path).map(|entries| {
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        });
        let names = match listed {
            Ok(names) => names,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "t{at}");
                let removing = in_flight == Some(&Op::RemoveTree(at));
                let making = in_flight == Some(&Op::MakeTree(at));
                assert!(removing || making || self.trees[at] == Tree::Gone, "t{at} is gone");
                return Tree::Gone;
            }
        };
        let is = |want: &[&str]| names == want;
        match self.trees[at] {
            Tree::Lower | Tree::Removing => {
                let all = is(&["one", "three", "two"]);
                let may_lack = self.trees[at] == Tree::Removing || in_flight == Some(&Op::RemoveTree(at));
                assert!(all || may_lack, "t{at} holds {names:?}");
                for name in names {
                    assert_eq!(fs::read(path.join(&name)).unwrap(), name.as_bytes());
                }
                if may_lack { Tree::Removing } else { Tree::Lower }
            }
            Tree::Gone => {
                assert_eq!(in_flight, Some(&Op::MakeTree(at)), "t{at} came back with {names:?}");
                assert!(is(&[]), "t{at} shows {names:?} of the store");
                Tree::Empty
            }
            Tree::Empty | Tree::Filling => {
                let may_hold = self.trees[at] == Tree::Filling || in_flight == Some(&Op::FillTree(at));
                assert!(is(&[]) || (may_hold && is(&["own"])), "t{at} shows {names:?}");
                if may_hold { Tree::Filling } else { Tree::Empty }
            }
            Tree::Own => {
                assert!(is(&["own"]), "t{at} shows {names:?}");
                assert_eq!(fs::read(path.join("own")).unwrap(), b"mine");
                Tree::Own
            }
        }
    }
}

/// What the workers change, in a member of the store. (Contents are not compared with the database's hash.)
fn fill_store(dir: &Path) {
    for worker in 0..WORKERS {
        let dir = dir.join(format!("w{worker}"));
        fs::create_dir(&dir).unwrap();
        for at in 0..FILES {
            fs::write(dir.join(format!("f{at}")), lower_file(at)).unwrap();
        }
        for at in 0..TREES {
            fs::create_dir(dir.join(format!("t{at}"))).unwrap();
            for name in ["one", "two", "three"] {
                fs::write(dir.join(format!("t{at}/{name}")), name).unwrap();
            }
        }
    }
}

fn kill_under_load(io: &str, rounds: usize) {
    let scene = Scene::new();
    fill_store(&scene.store.real("data"));
    let before = scene.store_digest();
    let view = scene.path("a");
    let options = ["--name", "web", "--io", io];
    scene.mount("env-b", "a", &options).ok();
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|number| Worker {
            own: view.join(format!("own{number}")),
            lower: view.join("store").join(scene.store.path("data")).join(format!("w{number}")),
            files: BTreeMap::new(),
            appended: vec![false; FILES],
            trees: vec![Tree::Lower; TREES],
            in_flight: None,
            acknowledged: 0,
        })
        .collect();
    for worker in &workers {
        fs::create_dir(&worker.own).unwrap();
    }
    let mut numbers = Numbers(io.len() as u64);
    for round in 0..rounds {
        let killed: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let (done, ended) = mpsc::channel();
        for (at, worker) in workers.drain(..).enumerate() {
            let (done, seed) = (done.clone(), Numbers((round * WORKERS + at) as u64));
            // Not joined: one that hangs would hang the test.
            thread::spawn(move || drop(done.send(worker.work(seed, killed))));
        }
        drop(done);
        thread::sleep(Duration::from_micros(numbers.below(60_000) as u64));
        killed.store(true, Ordering::SeqCst);
        scene.kill_view("web");
        for _ in 0..WORKERS {
            let worker = ended.recv_timeout(Duration::from_secs(20));
            workers.push(worker.expect("a worker hangs, or the view answered an error before the kill"));
        }
        scene.mount("env-b", "a", &options).ok();
        assert_eq!(scene.names("state/uppers/web/work"), Vec::<String>::new(), "drafts are left");
        for worker in &mut workers {
            worker.check();
        }
    }
    let acknowledged: usize = workers.iter().map(|worker| worker.acknowledged).sum();
    assert!(acknowledged > rounds, "the load did nothing");
    println!("{io}: {rounds} kills, {acknowledged} operations acknowledged");
    scene.nixview(&["umount", "web"]).ok();
    assert_eq!(scene.store_digest(), before, "the store was changed");
    scene.assert_nothing_left();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn kills_under_load_lose_nothing_with_passthrough() {
    kill_under_load("passthrough", pick(6, 30));
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn kills_under_load_lose_nothing_with_cached_files() {
    kill_under_load("cached", pick(6, 30));
}
