//! A worker of a long load: it changes files of its own and of the store, and knows what each of them holds.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, XattrFlags};

/// Files and trees of the store that each worker changes.
const LOWER_FILES: usize = 4;
const LOWER_TREES: usize = 2;
/// The longest file.
const LONGEST: usize = 200_000;
const NAMES: usize = 12;

/// Numbers that look random, the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let (length, seed) = (self.below(longest) + 1, self.below(251));
        (0..length).map(|at| u8::try_from((at / 7 + seed * 31 + at * seed) % 251).unwrap()).collect()
    }
}

/// What a file of the store holds.
fn lower_content(worker: usize, at: usize) -> Vec<u8> {
    Numbers((worker * LOWER_FILES + at) as u64).bytes(100_000)
}

/// What so many workers change, in a member of the store. (Contents are not compared with the database's hash.)
pub(crate) fn fill_store(dir: &Path, workers: usize) {
    for worker in 0..workers {
        let dir = dir.join(format!("w{worker}"));
        fs::create_dir(&dir).unwrap();
        for at in 0..LOWER_FILES {
            let path = dir.join(format!("f{at}"));
            fs::write(&path, lower_content(worker, at)).unwrap();
            let mut permissions = fs::metadata(&path).unwrap().permissions();
            permissions.set_readonly(true);
            fs::set_permissions(&path, permissions).unwrap();
        }
        for at in 0..LOWER_TREES {
            fs::create_dir(dir.join(format!("t{at}"))).unwrap();
            for name in ["one", "two"] {
                fs::write(dir.join(format!("t{at}/{name}")), name).unwrap();
            }
        }
    }
}

/// What a worker knows of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    content: Vec<u8>,
    permissions: u32,
    attribute: Option<Vec<u8>>,
}

pub(crate) struct Worker {
    number: usize,
    /// Its own directory, and its directory of the store.
    own: PathBuf,
    lower: PathBuf,
    numbers: Numbers,
    /// By name below `own`, or by `../` and the name in the store.
    files: BTreeMap<PathBuf, Known>,
    /// Of the store: what is in each now, if it is there.
    trees: [Option<Vec<&'static str>>; LOWER_TREES],
    /// What an operation that did not end may have changed.
    in_flight: Vec<PathBuf>,
    tree_in_flight: Option<usize>,
    pub(crate) done: u64,
}

impl Worker {
    pub(crate) fn new(number: usize, own: PathBuf, lower: PathBuf) -> Self {
        fs::create_dir(&own).unwrap();
        let mut files = BTreeMap::new();
        for at in 0..LOWER_FILES {
            let content = lower_content(number, at);
            let known = Known { content, permissions: 0o444, attribute: None };
            files.insert(lower.join(format!("f{at}")), known);
        }
        Self {
            number,
            own,
            lower,
            numbers: Numbers(number as u64 + 77),
            files,
            trees: [const { None }; LOWER_TREES].map(|_: Option<()>| Some(vec!["one", "two"])),
            in_flight: Vec::new(),
            tree_in_flight: None,
            done: 0,
        }
    }

    /// Works until `stop`, or until an operation fails because the server was `killed`.
    pub(crate) fn work(&mut self, stop: &AtomicBool, killed: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            if let Err(error) = self.step() {
                let number = self.number;
                assert!(killed.load(Ordering::SeqCst), "worker {number} at {:?}: {error}", self.in_flight);
                return;
            }
            self.in_flight.clear();
            self.tree_in_flight = None;
            self.done += 1;
        }
    }

    fn own_name(&mut self) -> PathBuf {
        self.own.join(format!("f{}", self.numbers.below(NAMES)))
    }

    fn existing(&mut self) -> PathBuf {
        let at = self.numbers.below(self.files.len());
        self.files.keys().nth(at).unwrap().clone()
    }

    fn own_existing(&mut self) -> Option<PathBuf> {
        let path = self.existing();
        path.starts_with(&self.own).then_some(path)
    }

    fn step(&mut self) -> io::Result<()> {
        match self.numbers.below(16) {
            0 | 1 => self.replace(),
            2 => match self.own_existing() {
                Some(path) => self.remove(path),
                None => self.replace(),
            },
            3 => match self.own_existing() {
                Some(path) => self.rename(path),
                None => self.replace(),
            },
            4 | 5 => self.write(),
            6 => self.append(),
            7 => self.truncate(),
            8 => self.punch(),
            9 => self.mode_and_attribute(),
            10 => self.link(),
            11 => self.tree_of_own(),
            12 => self.tree_of_the_store(),
            13 => self.list(),
            _ => {
                let path = self.existing();
                self.verify(&path)
            }
        }
    }

    /// As editors and databases do; or straight into the file.
    fn replace(&mut self) -> io::Result<()> {
        let (path, content) = (self.own_name(), self.numbers.bytes(LONGEST));
        let temporary = self.own.join("new");
        let by_rename = self.numbers.below(2) == 0;
        self.in_flight = vec![path.clone(), temporary.clone()];
        let file = File::create(if by_rename { &temporary } else { &path })?;
        for (at, part) in content.chunks(30_000).enumerate() {
            file.write_all_at(part, (at * 30_000) as u64)?;
        }
        if self.numbers.below(8) == 0 {
            file.sync_all()?;
        }
        file.set_permissions(Permissions::from_mode(0o640))?;
        let mut attribute = None;
        if by_rename {
            fs::rename(&temporary, &path)?;
        } else {
            // The inode stays what it was, with its attribute.
            attribute = self.files.get(&path).and_then(|known| known.attribute.clone());
        }
        self.files.insert(path, Known { content, permissions: 0o640, attribute });
        Ok(())
    }

    fn remove(&mut self, path: PathBuf) -> io::Result<()> {
        self.in_flight = vec![path.clone()];
        // Open files live on without a name.
        let file = File::open(&path)?;
        fs::remove_file(&path)?;
        let known = self.files.remove(&path).unwrap();
        let mut content = vec![0; known.content.len()];
        file.read_exact_at(&mut content, 0)?;
        assert!(content == known.content, "{path:?} changed when it lost its name");
        match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => panic!("{path:?} is there when it was removed"),
        }
    }

    fn rename(&mut self, from: PathBuf) -> io::Result<()> {
        let to = self.own_name();
        self.in_flight = vec![from.clone(), to.clone()];
        fs::rename(&from, &to)?;
        let known = self.files.remove(&from).unwrap();
        self.files.insert(to, known);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let path = self.existing();
        let (offset, data) = (self.numbers.below(LONGEST), self.numbers.bytes(20_000));
        self.in_flight = vec![path.clone()];
        let file = OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(&data, offset as u64)?;
        if self.numbers.below(8) == 0 {
            file.sync_data()?;
        }
        let content = &mut self.files.get_mut(&path).unwrap().content;
        content.resize(content.len().max(offset + data.len()), 0);
        content[offset..offset + data.len()].copy_from_slice(&data);
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        let (path, data) = (self.existing(), self.numbers.bytes(5_000));
        if self.files[&path].content.len() > LONGEST {
            return Ok(());
        }
        self.in_flight = vec![path.clone()];
        OpenOptions::new().append(true).open(&path)?.write_all(&data)?;
        self.files.get_mut(&path).unwrap().content.extend_from_slice(&data);
        Ok(())
    }

    fn truncate(&mut self) -> io::Result<()> {
        let (path, length) = (self.existing(), self.numbers.below(LONGEST));
        self.in_flight = vec![path.clone()];
        OpenOptions::new().write(true).open(&path)?.set_len(length as u64)?;
        self.files.get_mut(&path).unwrap().content.resize(length, 0);
        Ok(())
    }

    fn punch(&mut self) -> io::Result<()> {
        let (path, start, length) = (self.existing(), self.numbers.below(LONGEST), 8192);
        self.in_flight = vec![path.clone()];
        let file = OpenOptions::new().write(true).open(&path)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, start as u64, length)?;
        let content = &mut self.files.get_mut(&path).unwrap().content;
        let end = content.len();
        content[start.min(end)..(start + 8192).min(end)].fill(0);
        Ok(())
    }

    fn mode_and_attribute(&mut self) -> io::Result<()> {
        let path = self.existing();
        let permissions = 0o600 | u32::try_from(self.numbers.below(0o100)).unwrap();
        self.in_flight = vec![path.clone()];
        fs::set_permissions(&path, Permissions::from_mode(permissions))?;
        let value = self.numbers.bytes(100);
        rustix::fs::setxattr(&path, "user.worker", &value, XattrFlags::empty())?;
        let known = self.files.get_mut(&path).unwrap();
        (known.permissions, known.attribute) = (permissions, Some(value));
        Ok(())
    }

    /// A second name, through which it is changed, and which goes again.
    fn link(&mut self) -> io::Result<()> {
        let (path, other) = (self.existing(), self.own.join("link"));
        self.in_flight = vec![path.clone(), other.clone()];
        fs::hard_link(&path, &other)?;
        let data = self.numbers.bytes(100);
        OpenOptions::new().write(true).open(&other)?.write_all_at(&data, 0)?;
        fs::remove_file(&other)?;
        let content = &mut self.files.get_mut(&path).unwrap().content;
        content.resize(content.len().max(data.len()), 0);
        content[..data.len()].copy_from_slice(&data);
        Ok(())
    }

    fn tree_of_own(&mut self) -> io::Result<()> {
        let (top, moved) = (self.own.join("tree"), self.own.join("moved"));
        self.in_flight = vec![top.clone(), moved.clone()];
        fs::create_dir_all(top.join("a/b"))?;
        for at in 0..5 {
            fs::write(top.join(format!("a/b/{at}")), [at])?;
        }
        symlink("a/b/3", top.join("link"))?;
        fs::rename(&top, &moved)?;
        assert_eq!(fs::read(moved.join("link"))?, [3]);
        fs::remove_dir_all(&moved)
    }

    /// A directory of the store goes, comes again without what the store has in it, and is filled.
    fn tree_of_the_store(&mut self) -> io::Result<()> {
        let at = self.numbers.below(LOWER_TREES);
        let path = self.lower.join(format!("t{at}"));
        self.tree_in_flight = Some(at);
        match &self.trees[at] {
            None => {
                fs::create_dir(&path)?;
                self.trees[at] = Some(Vec::new());
            }
            Some(names) if names.is_empty() => {
                fs::write(path.join("own"), "own")?;
                self.trees[at] = Some(vec!["own"]);
            }
            Some(_) => {
                fs::remove_dir_all(&path)?;
                self.trees[at] = None;
            }
        }
        Ok(())
    }

    fn list(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.own)? {
            found.push(entry?.path());
        }
        found.sort();
        let known: Vec<_> = self.files.keys().filter(|path| path.starts_with(&self.own)).cloned().collect();
        assert_eq!(found, known, "worker {}: names", self.number);
        Ok(())
    }

    fn verify(&self, path: &PathBuf) -> io::Result<()> {
        let known = &self.files[path];
        let content = fs::read(path)?;
        let first = content.iter().zip(&known.content).position(|(a, b)| a != b);
        assert!(
            content == known.content,
            "{path:?}: {} for {}, at {first:?}",
            content.len(),
            known.content.len()
        );
        let permissions = fs::metadata(path)?.permissions().mode() & 0o7777;
        assert_eq!(permissions, known.permissions, "{path:?}");
        if let Some(value) = &known.attribute {
            let mut found = vec![0; 200];
            let length = rustix::fs::getxattr(path, "user.worker", &mut found)?;
            assert_eq!(&found[..length], value, "{path:?}");
        }
        Ok(())
    }

    /// Compares everything with what is known. What was interrupted is taken away first: it may be anything in between.
    pub(crate) fn check(&mut self) {
        for path in std::mem::take(&mut self.in_flight) {
            self.files.remove(&path);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::IsADirectory => fs::remove_dir_all(&path).unwrap(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{path:?}"),
                Ok(()) => {}
            }
        }
        if let Some(at) = self.tree_in_flight.take() {
            let path = self.lower.join(format!("t{at}"));
            if path.exists() {
                fs::remove_dir_all(&path).unwrap();
            }
            self.trees[at] = None;
        }
        if self.files.is_empty() {
            self.replace().unwrap();
            self.in_flight.clear();
        }
        self.list().unwrap();
        for path in self.files.keys() {
            self.verify(path).unwrap();
        }
        for (at, tree) in self.trees.iter().enumerate() {
            let listed = fs::read_dir(self.lower.join(format!("t{at}"))).ok().map(|entries| {
                let mut names: Vec<_> =
                    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                names
            });
            let known = tree.as_ref().map(|names| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
            assert_eq!(listed, known, "worker {}: t{at}", self.number);
        }
    }
}
