//! A layer in memory, for tests: the contract of [`Lower`] and [`Upper`] without a disk.
//!
//! A clone is the same tree, as a second process has the same disk. A crash is imitated by forgetting a draft and
//! calling [`MemLayer::reopen`], which does what opening an upper does; [`MemLayer::after_power_cut`] is the disk that is
//! found after the power failed. Locks: the one on names, then one inode.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::{Access, EntryKind, LayerEntry, Lower, NewObject, Stat, Upper};
use crate::vfs::{Errno, FileKind, Name, SetAttr, SetTime, StatFs, Timespec};

mod file;
mod journal;
mod write;

pub use file::MemFile;
pub use journal::Order;
pub use write::MemDraft;

/// A tree in memory; a clone of it is the same tree.
#[derive(Clone, Debug)]
pub struct MemLayer {
    tree: Arc<Tree>,
}

#[derive(Debug)]
struct Tree {
    root: MemObject,
    next: AtomicU64,
    frozen: AtomicBool,
    refuses_lists: AtomicBool,
    /// Held for every change of names.
    names: Mutex<()>,
    /// Drafts that are not published.
    work: Mutex<HashMap<u64, MemObject>>,
    /// Objects that have a descriptor, by the number of that.
    described: Mutex<HashMap<u64, MemObject>>,
    journal: journal::Journal,
}

/// An inode of a [`MemLayer`].
#[derive(Clone, Debug)]
pub struct MemObject(Arc<Inode>);

#[derive(Debug)]
struct Inode {
    ino: u64,
    kind: FileKind,
    body: Mutex<Body>,
    descriptor: OnceLock<OwnedFd>,
}

#[derive(Clone, Debug)]
struct Body {
    permissions: u16,
    uid: u32,
    gid: u32,
    rdev: u64,
    nlink: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    opaque: bool,
    whiteout: bool,
    /// As overlayfs stores it.
    redirect: Option<Vec<u8>>,
    origin: Option<u64>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Name, MemObject>),
    Symlink(Vec<u8>),
    Special,
}

fn now() -> Timespec {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timespec {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

fn point(time: SetTime) -> Timespec {
    match time {
        SetTime::Now => now(),
        SetTime::At(time) => time,
    }
}

impl MemObject {
    fn new(ino: u64, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> Self {
        let (kind, content, rdev, opaque) = match new {
            NewObject::File => (FileKind::Regular, Content::File(Vec::new()), 0, false),
            NewObject::Directory { opaque } => {
                (FileKind::Directory, Content::Directory(BTreeMap::new()), 0, *opaque)
            }
            NewObject::Symlink(target) => (FileKind::Symlink, Content::Symlink(target.to_vec()), 0, false),
            NewObject::Node { kind, rdev } => (*kind, Content::Special, *rdev, false),
        };
        let time = now();
        let body = Body {
            permissions,
            uid,
            gid,
            rdev,
            nlink: 0,
            atime: time,
            mtime: time,
            ctime: time,
            xattrs: BTreeMap::new(),
            opaque,
            whiteout: false,
            redirect: None,
            origin: None,
            content,
        };
        Self(Arc::new(Inode { ino, kind, body: Mutex::new(body), descriptor: OnceLock::new() }))
    }

    fn is_whiteout(&self) -> bool {
        self.0.body.lock().whiteout
    }

    /// Runs on the names of a directory; `ENOTDIR` for anything else.
    fn with_names<T>(&self, f: impl FnOnce(&BTreeMap<Name, Self>) -> T) -> io::Result<T> {
        match &self.0.body.lock().content {
            Content::Directory(names) => Ok(f(names)),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    fn child(&self, name: &Name) -> io::Result<Option<Self>> {
        self.with_names(|names| names.get(name).cloned())
    }

    /// True if a directory holds whiteouts and nothing else.
    fn is_hollow(&self) -> io::Result<bool> {
        self.with_names(|names| names.values().all(Self::is_whiteout))
    }

    fn stat(&self) -> Stat {
        let body = self.0.body.lock();
        let size = match &body.content {
            Content::File(data) => data.len(),
            Content::Symlink(target) => target.len(),
            Content::Directory(names) => names.len(),
            Content::Special => 0,
        } as u64;
        let links = match &body.content {
            Content::Directory(names) if body.nlink > 0 => {
                let inside = names.values().filter(|object| object.0.kind == FileKind::Directory);
                2 + u32::try_from(inside.count()).unwrap_or(u32::MAX - 2)
            }
            _ => body.nlink,
        };
        Stat {
            ino: self.0.ino,
            kind: self.0.kind,
            permissions: body.permissions,
            nlink: links,
            uid: body.uid,
            gid: body.gid,
            rdev: body.rdev,
            size,
            blocks: size.div_ceil(512),
            block_size: 4096,
            atime: body.atime,
            mtime: body.mtime,
            ctime: body.ctime,
        }
    }

    fn set_attr(&self, changes: &SetAttr) -> io::Result<()> {
        let mut body = self.0.body.lock();
        if let Some(size) = changes.size {
            let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
            match &mut body.content {
                Content::File(data) => data.resize(size, 0),
                Content::Directory(_) => return Err(Errno::EISDIR.into()),
                _ => return Err(Errno::EINVAL.into()),
            }
            body.mtime = now();
        }
        body.permissions = changes.permissions.unwrap_or(body.permissions);
        body.uid = changes.uid.unwrap_or(body.uid);
        body.gid = changes.gid.unwrap_or(body.gid);
        body.atime = changes.atime.map_or(body.atime, point);
        body.mtime = changes.mtime.map_or(body.mtime, point);
        body.ctime = now();
        Ok(())
    }
}

impl Default for MemLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl MemLayer {
    /// An empty tree whose root has mode 0755 and belongs to 0:0.
    #[must_use]
    pub fn new() -> Self {
        let root = MemObject::new(2, &NewObject::Directory { opaque: false }, 0o755, 0, 0);
        root.0.body.lock().nlink = 1;
        Self {
            tree: Arc::new(Tree {
                root,
                next: AtomicU64::new(3),
                frozen: AtomicBool::new(false),
                refuses_lists: AtomicBool::new(false),
                names: Mutex::new(()),
                work: Mutex::new(HashMap::new()),
                described: Mutex::new(HashMap::new()),
                journal: journal::Journal::default(),
            }),
        }
    }

    /// From now on every change is answered with `EROFS`, as a lower must.
    pub fn freeze(&self) {
        self.tree.frozen.store(true, Ordering::SeqCst);
    }

    /// From now on it is a layer without access control lists.
    pub fn refuse_access_lists(&self) {
        self.tree.refuses_lists.store(true, Ordering::Relaxed);
    }

    /// What opening an upper does after a crash: removes what is left in the work directory, answers how much.
    pub fn reopen(&self) -> usize {
        let mut work = self.tree.work.lock();
        let left = work.len();
        work.clear();
        left
    }

    /// How many drafts exist that are not published.
    #[must_use]
    pub fn drafts(&self) -> usize {
        self.tree.work.lock().len()
    }

    /// Adds an object, for building test trees; `path` is relative, its directories must exist.
    ///
    /// # Errors
    /// As [`Upper::publish`]; `EINVAL` for a path that is none.
    pub fn add(&self, path: &str, new: &NewObject<'_>, permissions: u16) -> io::Result<MemObject> {
        let mut names =
            path.split('/').map(|n| Name::new(n.as_bytes())).collect::<Result<Vec<_>, Errno>>()?;
        let last = names.pop().ok_or(Errno::EINVAL)?;
        let dir = self.resolve(&names)?;
        let draft = self.draft(new, permissions, 0, 0)?;
        let object = self.draft_object(&draft);
        self.publish(draft, &dir, &last)?;
        Ok(object)
    }

    /// Adds a regular file with this content.
    ///
    /// # Errors
    /// As [`MemLayer::add`].
    pub fn add_file(&self, path: &str, permissions: u16, content: &[u8]) -> io::Result<MemObject> {
        let object = self.add(path, &NewObject::File, permissions)?;
        object.0.body.lock().content = Content::File(content.to_vec());
        self.tree.journal.data(&object);
        Ok(object)
    }

    /// Adds a directory that is not opaque.
    ///
    /// # Errors
    /// As [`MemLayer::add`].
    pub fn add_dir(&self, path: &str, permissions: u16) -> io::Result<MemObject> {
        self.add(path, &NewObject::Directory { opaque: false }, permissions)
    }

    fn writable(&self) -> io::Result<()> {
        if self.tree.frozen.load(Ordering::SeqCst) {
            return Err(Errno::EROFS.into());
        }
        Ok(())
    }
}

impl Lower for MemLayer {
    type Object = MemObject;
    type File = MemFile;

    fn root(&self) -> io::Result<MemObject> {
        Ok(self.tree.root.clone())
    }

    fn lookup(&self, dir: &MemObject, name: &Name) -> io::Result<MemObject> {
        dir.child(name)?.ok_or_else(|| Errno::ENOENT.into())
    }

    fn resolve(&self, path: &[Name]) -> io::Result<MemObject> {
        path.iter().try_fold(self.tree.root.clone(), |dir, name| self.lookup(&dir, name))
    }

    fn stat(&self, object: &MemObject) -> io::Result<Stat> {
        Ok(object.stat())
    }

    fn read_dir(&self, dir: &MemObject) -> io::Result<Vec<LayerEntry>> {
        dir.with_names(|names| {
            names
                .iter()
                .map(|(name, object)| LayerEntry {
                    name: name.clone(),
                    kind: if object.is_whiteout() {
                        EntryKind::Whiteout
                    } else {
                        EntryKind::Object(object.0.kind)
                    },
                    ino: object.0.ino,
                })
                .collect()
        })
    }

    fn read_link(&self, object: &MemObject) -> io::Result<Vec<u8>> {
        match &object.0.body.lock().content {
            Content::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    fn open(&self, object: &MemObject, access: Access) -> io::Result<MemFile> {
        match object.0.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            FileKind::Symlink => return Err(Errno::ELOOP.into()),
            _ => return Err(Errno::ENXIO.into()),
        }
        if access == Access::ReadWrite {
            self.writable()?;
        }
        Ok(MemFile::new(object.clone(), access, self.tree.clone()))
    }

    fn get_xattr(&self, object: &MemObject, name: &[u8]) -> io::Result<Vec<u8>> {
        object.0.body.lock().xattrs.get(name).cloned().ok_or_else(|| Errno::ENODATA.into())
    }

    fn list_xattr(&self, object: &MemObject) -> io::Result<Vec<Vec<u8>>> {
        Ok(object.0.body.lock().xattrs.keys().cloned().collect())
    }

    fn statfs(&self) -> io::Result<StatFs> {
        Ok(StatFs { block_size: 4096, name_max: 255, ..StatFs::default() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::layer::{LayerFile, Presence};

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn whiteouts_stand_for_what_was_removed_and_give_way() {
        let layer = MemLayer::new();
        let dir = layer.add_dir("d", 0o755).unwrap();
        let file = layer.add_file("d/f", 0o644, b"x").unwrap();
        layer.remove(&dir, &name("f"), true).unwrap();
        assert_eq!(file.stat().nlink, 0);
        assert!(matches!(layer.presence(&dir, &name("f")).unwrap(), Presence::Whiteout));
        assert_eq!(layer.read_dir(&dir).unwrap().first().unwrap().kind, EntryKind::Whiteout);
        layer.add_file("d/f", 0o644, b"y").unwrap();
        let root = layer.root().unwrap();
        assert_eq!(Errno::of(&layer.remove(&root, &name("d"), false).unwrap_err()), Errno::ENOTEMPTY);
        layer.remove(&dir, &name("f"), true).unwrap();
        layer.remove(&root, &name("d"), false).unwrap();
        assert_eq!(Errno::of(&layer.lookup(&root, &name("d")).unwrap_err()), Errno::ENOENT);
    }

    #[test]
    fn drafts_go_when_dropped_and_files_live_on_without_a_name() {
        let layer = MemLayer::new();
        drop(layer.draft(&NewObject::File, 0o644, 0, 0).unwrap());
        assert_eq!(layer.drafts(), 0);
        let object = layer.add_file("f", 0o644, b"abc").unwrap();
        let file = layer.open(&object, Access::ReadWrite).unwrap();
        layer.remove(&layer.root().unwrap(), &name("f"), false).unwrap();
        assert_eq!(file.write_at(5, b"z").unwrap(), 1);
        let mut buffer = [1; 8];
        assert_eq!(file.read_at(0, &mut buffer).unwrap(), 6);
        assert_eq!(buffer, *b"abc\0\0z\x01\x01");
    }

    #[test]
    fn a_frozen_layer_refuses_changes() {
        let layer = MemLayer::new();
        let object = layer.add_file("f", 0o644, b"").unwrap();
        layer.freeze();
        assert_eq!(Errno::of(&layer.open(&object, Access::ReadWrite).unwrap_err()), Errno::EROFS);
        assert_eq!(Errno::of(&layer.draft(&NewObject::File, 0, 0, 0).unwrap_err()), Errno::EROFS);
    }
}
