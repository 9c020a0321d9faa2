//! What the tests of the union share: views over layers that outlive them, and whole trees to compare.
#![allow(dead_code, unreachable_pub, reason = "a module of several tests, each of which uses a part")]

pub mod client;
pub mod defect;
pub mod dir;
pub mod model;
pub mod notes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nixview::layer::fault::{FaultUpper, Faults};
use nixview::layer::mem::MemLayer;
use nixview::layer::{Lower, NewObject, Upper};
use nixview::union::{Io, Options, UnionFs};
use nixview::vfs::{
    Attr, Caller, DirEntry, Entry, Errno, FileKind, Flow, Handle, Ino, Name, OpenFlags, SetAttr, SetTime,
    Timespec, Vfs,
};

/// The mtime of everything in a test's lower.
pub const EPOCH: Timespec = Timespec { seconds: 1, nanoseconds: 0 };

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Who asks: the ids of this process, so that also an unprivileged one can make files for it.
pub fn caller() -> Caller {
    Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        pid: 0,
        umask: 0,
    }
}

/// Two layers that stay when a view of them goes.
pub trait Disk {
    type L: Lower;
    type U: Upper;
    fn lower(&self) -> Self::L;
    /// The upper as after a restart.
    fn upper(&self) -> Self::U;
    /// True if the format of the upper has a place for redirects.
    fn redirects(&self) -> bool {
        true
    }
}

/// Layers in memory.
pub struct MemDisk {
    pub lower: MemLayer,
    pub upper: MemLayer,
}

impl MemDisk {
    /// The usual lower: files, a link, an empty directory, two levels.
    pub fn new() -> Self {
        let lower = MemLayer::new();
        populate(&lower);
        lower.freeze();
        let upper = MemLayer::new();
        set_times(&upper, &upper.root().unwrap());
        upper.sync_all();
        Self { lower, upper }
    }
}

/// A disk whose upper fails, or is watched.
pub struct FaultDisk<'d, D> {
    pub disk: &'d D,
    pub faults: Arc<Faults>,
}

impl<D: Disk> Disk for FaultDisk<'_, D> {
    type L = D::L;
    type U = FaultUpper<D::U>;

    fn lower(&self) -> D::L {
        self.disk.lower()
    }

    fn upper(&self) -> Self::U {
        FaultUpper::new(self.disk.upper(), self.faults.clone())
    }

    fn redirects(&self) -> bool {
        self.disk.redirects()
    }
}

pub fn set_times<U: Upper>(layer: &U, object: &U::Object) {
    let time = Some(SetTime::At(EPOCH));
    layer.set_attr(object, &SetAttr { atime: time, mtime: time, ..SetAttr::default() }).unwrap();
}

/// Writes the usual lower through an upper.
pub fn populate<U: Upper>(layer: &U) {
    let Caller { uid, gid, .. } = caller();
    let mut made = vec![layer.root().unwrap()];
    let file = NewObject::File;
    let directory = NewObject::Directory { opaque: false };
    let link = NewObject::Symlink(b"a/b");
    for (path, new, permissions, content) in [
        ("a", &directory, 0o755, ""),
        ("a/a", &file, 0o644, "lower a/a"),
        ("a/b", &directory, 0o755, ""),
        ("a/b/a", &file, 0o755, "lower a/b/a"),
        ("a/b/b", &link, 0o777, ""),
        ("a/b/c", &directory, 0o755, ""),
        ("a/b/c/a", &file, 0o600, ""),
        ("b", &file, 0o744, "lower b"),
        ("c", &directory, 0o755, ""),
    ] {
        let mut names: Vec<Name> = path.split('/').map(name).collect();
        let last = names.pop().unwrap();
        let dir = layer.resolve(&names).unwrap();
        let draft = layer.draft(new, permissions, uid, gid).unwrap();
        let object = layer.draft_object(&draft);
        if !content.is_empty() {
            use nixview::layer::{Access, LayerFile};
            let file = layer.open(&object, Access::ReadWrite).unwrap();
            assert_eq!(file.write_at(0, content.as_bytes()).unwrap(), content.len());
            layer.set_xattr(&object, b"user.l", b"lower", nixview::vfs::XattrMode::Set).unwrap();
        }
        layer.publish(draft, &dir, &last).unwrap();
        made.push(object);
    }
    for object in made {
        set_times(layer, &object);
    }
}

impl Disk for MemDisk {
    type L = MemLayer;
    type U = MemLayer;

    fn lower(&self) -> MemLayer {
        self.lower.clone()
    }

    fn upper(&self) -> MemLayer {
        self.upper.reopen();
        self.upper.clone()
    }
}

/// A view by paths, which keeps count of what it looked up.
pub struct View<F> {
    pub fs: F,
    pub lookups: HashMap<Ino, u64>,
}

pub fn options(io: Io) -> Options {
    Options { io, durable: false, access_lists: true, ..Options::default() }
}

/// What tells how much it knows.
pub trait Counted: Vfs {
    fn known_inodes(&self) -> usize;
    fn open_handles(&self) -> usize;
    /// True if the kernel reads the lower's file through the handle.
    fn reads_lower(&self, handle: Handle) -> bool;
}

impl<L: Lower, U: Upper> Counted for UnionFs<L, U> {
    fn known_inodes(&self) -> usize {
        self.known_inodes()
    }

    fn open_handles(&self) -> usize {
        self.open_handles()
    }

    fn reads_lower(&self, _: Handle) -> bool {
        false
    }
}

impl<L: Lower, U: Upper> View<UnionFs<L, U>> {
    pub fn new(lower: L, upper: U, options: Options) -> Self {
        Self { fs: UnionFs::new(lower, Some(upper), options).unwrap(), lookups: HashMap::new() }
    }
}

impl<F: Vfs> View<F> {
    pub fn count(&mut self, entry: Entry) -> Attr {
        *self.lookups.entry(entry.attr.ino).or_default() += 1;
        entry.attr
    }

    pub fn lookup(&mut self, dir: Ino, name: &Name) -> Result<Attr, Errno> {
        let entry = self.fs.lookup(dir, name).map_err(|e| e.errno())?.ok_or(Errno::ENOENT)?;
        Ok(self.count(entry))
    }

    /// The attributes at a path; the root for "".
    pub fn walk(&mut self, path: &str) -> Result<Attr, Errno> {
        let mut attr = self.fs.getattr(Ino::ROOT, None).map_err(|e| e.errno())?;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            attr = self.lookup(attr.ino, &name(part))?;
        }
        Ok(attr)
    }

    pub fn ino(&mut self, path: &str) -> Ino {
        self.walk(path).unwrap_or_else(|e| panic!("{path}: {e:?}")).ino
    }

    /// Forgets all that was looked up, as the kernel under memory pressure.
    pub fn forget_all(&mut self) {
        for (ino, count) in self.lookups.drain() {
            self.fs.forget(ino, count);
        }
    }

    pub fn read(&self, ino: Ino) -> Vec<u8> {
        let opened = self.fs.open(ino, OpenFlags(libc::O_RDONLY)).unwrap();
        let content = self.read_handle(ino, opened.handle);
        self.fs.release(ino, opened.handle);
        content
    }

    pub fn read_handle(&self, ino: Ino, handle: Handle) -> Vec<u8> {
        let mut content = vec![0; 64 * 1024];
        let got = self.fs.read(ino, Some(handle), 0, &mut content).unwrap();
        content.truncate(got);
        content
    }

    /// Opens for writing, walking again if told so, as the kernel does.
    pub fn write(&mut self, path: &str, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        for _ in 0..2 {
            let ino = self.walk(path)?.ino;
            match self.fs.open(ino, OpenFlags(libc::O_RDWR)) {
                Ok(opened) => {
                    let done = self.fs.write(ino, Some(opened.handle), offset, data);
                    self.fs.release(ino, opened.handle);
                    return done.map_err(|e| e.errno());
                }
                Err(e) if e.errno() == Errno::ESTALE => {}
                Err(e) => return Err(e.errno()),
            }
        }
        Err(Errno::ESTALE)
    }

    /// The names of a directory, asked for `batch` at a time.
    pub fn names(&mut self, ino: Ino, batch: usize) -> Vec<DirEntry> {
        let mut all: Vec<DirEntry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |e| e.cookie);
            let mut part: Vec<DirEntry> = Vec::new();
            self.fs
                .readdir(ino, after, true, &mut |entry| {
                    if part.len() == batch {
                        return Flow::Full;
                    }
                    part.push(entry.clone());
                    Flow::Continue
                })
                .unwrap();
            if part.is_empty() {
                return all;
            }
            for entry in &part {
                assert!(
                    entry.cookie > 2 && all.iter().all(|e| e.cookie != entry.cookie),
                    "cookies are distinct"
                );
                *self.lookups.entry(entry.entry.attr.ino).or_default() += 1;
                all.push(entry.clone());
            }
        }
    }

    /// All that shows, by path.
    pub fn tree(&mut self) -> BTreeMap<String, Shown> {
        let mut all = BTreeMap::new();
        let root = self.fs.getattr(Ino::ROOT, None).unwrap();
        self.add(String::new(), root, &mut all);
        all
    }

    fn add(&mut self, path: String, attr: Attr, all: &mut BTreeMap<String, Shown>) {
        if attr.kind == FileKind::Directory {
            for entry in self.names(attr.ino, 3) {
                let path = format!("{path}/{}", entry.name);
                let found = self.lookup(attr.ino, &entry.name).unwrap();
                assert_eq!(unread(found), unread(entry.entry.attr), "{path}: lookup and listing agree");
                self.add(path, found, all);
            }
        }
        let content = match attr.kind {
            FileKind::Regular => self.read(attr.ino),
            FileKind::Symlink => self.fs.readlink(attr.ino).unwrap(),
            _ => Vec::new(),
        };
        let names = self.fs.listxattr(attr.ino).unwrap();
        let xattrs = names
            .into_iter()
            .filter(|n| n.starts_with(b"user."))
            .map(|n| {
                let value = self.fs.getxattr(attr.ino, &n).unwrap();
                (n, value)
            })
            .collect();
        let again = self.fs.getattr(attr.ino, None).unwrap();
        assert_eq!(unread(again), unread(attr), "{path}: lookup and getattr agree");
        let old = all.insert(path.clone(), Shown { attr, content, xattrs });
        assert!(old.is_none(), "{path} is listed twice");
    }
}

/// Without the time of last access, which reading changes.
fn unread(attr: Attr) -> Attr {
    Attr { atime: EPOCH, ..attr }
}

/// One object of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub attr: Attr,
    /// Of a file, or the target of a link.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}
