//! Uppers with a defect each, to check that the tests find them.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use nixview::layer::mem::MemLayer;
use nixview::layer::{Access, EntryKind, LayerEntry, LayerFile, Lower, NewObject, Presence, Stat, Upper};
use nixview::vfs::{Name, SetAttr, StatFs, XattrMode};

use super::{Disk, MemDisk};

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// A removal leaves no whiteout.
    LostWhiteout,
    /// A rename leaves no whiteout at the old name.
    LostWhiteoutOfRename,
    /// New directories are not opaque.
    LostOpaque,
    /// Every directory is said to be opaque.
    AlwaysOpaque,
    /// Whiteouts are listed as files.
    ListedWhiteout,
    /// A listing is never read again.
    StaleListing,
    /// Numbers are not stored.
    LostOrigin,
    /// A copy misses its content.
    EmptyCopy,
    /// Attributes are not copied.
    LostXattr,
    /// Times are not set.
    LostTimes,
    /// A file has the mode 0600, whatever was asked for.
    LostMode,
    /// An exchange only moves one of the two.
    HalfExchange,
}

pub const ALL: [Defect; 12] = [
    Defect::LostWhiteout,
    Defect::LostWhiteoutOfRename,
    Defect::LostOpaque,
    Defect::AlwaysOpaque,
    Defect::ListedWhiteout,
    Defect::StaleListing,
    Defect::LostOrigin,
    Defect::EmptyCopy,
    Defect::LostXattr,
    Defect::LostTimes,
    Defect::LostMode,
    Defect::HalfExchange,
];

/// An upper in memory that has one defect.
pub struct DefectUpper {
    inner: MemLayer,
    defect: Defect,
    listed: Mutex<HashMap<u64, Vec<LayerEntry>>>,
}

impl DefectUpper {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }
}

/// The usual layers, the upper with a defect.
pub struct DefectDisk {
    pub disk: MemDisk,
    pub defect: Defect,
}

impl Disk for DefectDisk {
    type L = MemLayer;
    type U = DefectUpper;

    fn lower(&self) -> MemLayer {
        self.disk.lower()
    }

    fn upper(&self) -> DefectUpper {
        DefectUpper { inner: self.disk.upper(), defect: self.defect, listed: Mutex::default() }
    }
}

type Object = <MemLayer as Lower>::Object;

impl Lower for DefectUpper {
    type Object = Object;
    type File = <MemLayer as Lower>::File;

    fn root(&self) -> io::Result<Object> {
        self.inner.root()
    }

    fn lookup(&self, dir: &Object, name: &Name) -> io::Result<Object> {
        self.inner.lookup(dir, name)
    }

    fn resolve(&self, path: &[Name]) -> io::Result<Object> {
        self.inner.resolve(path)
    }

    fn stat(&self, object: &Object) -> io::Result<Stat> {
        self.inner.stat(object)
    }

    fn read_dir(&self, dir: &Object) -> io::Result<Vec<LayerEntry>> {
        let mut entries = self.inner.read_dir(dir)?;
        if self.has(Defect::ListedWhiteout) {
            for entry in &mut entries {
                if entry.kind == EntryKind::Whiteout {
                    entry.kind = EntryKind::Object(nixview::vfs::FileKind::Regular);
                }
            }
        }
        if self.has(Defect::StaleListing) {
            let ino = self.inner.stat(dir)?.ino;
            return Ok(self.listed.lock().unwrap().entry(ino).or_insert(entries).clone());
        }
        Ok(entries)
    }

    fn read_link(&self, object: &Object) -> io::Result<Vec<u8>> {
        self.inner.read_link(object)
    }

    fn open(&self, object: &Object, access: Access) -> io::Result<Self::File> {
        self.inner.open(object, access)
    }

    fn get_xattr(&self, object: &Object, name: &[u8]) -> io::Result<Vec<u8>> {
        self.inner.get_xattr(object, name)
    }

    fn list_xattr(&self, object: &Object) -> io::Result<Vec<Vec<u8>>> {
        self.inner.list_xattr(object)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        self.inner.statfs()
    }
}

impl Upper for DefectUpper {
    type Draft = <MemLayer as Upper>::Draft;

    fn presence(&self, dir: &Object, name: &Name) -> io::Result<Presence<Object>> {
        self.inner.presence(dir, name)
    }

    fn is_opaque(&self, dir: &Object) -> io::Result<bool> {
        Ok(self.has(Defect::AlwaysOpaque) || self.inner.is_opaque(dir)?)
    }

    fn origin(&self, object: &Object) -> io::Result<Option<u64>> {
        self.inner.origin(object)
    }

    fn set_origin(&self, object: &Object, ino: u64) -> io::Result<()> {
        if self.has(Defect::LostOrigin) { Ok(()) } else { self.inner.set_origin(object, ino) }
    }

    fn draft(&self, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> io::Result<Self::Draft> {
        let permissions = if self.has(Defect::LostMode) { 0o600 } else { permissions };
        match new {
            NewObject::Directory { .. } if self.has(Defect::LostOpaque) => {
                self.inner.draft(&NewObject::Directory { opaque: false }, permissions, uid, gid)
            }
            new => self.inner.draft(new, permissions, uid, gid),
        }
    }

    fn draft_object(&self, draft: &Self::Draft) -> Object {
        self.inner.draft_object(draft)
    }

    fn fill(&self, draft: &Self::Draft, source: &dyn LayerFile) -> io::Result<()> {
        if self.has(Defect::EmptyCopy) { Ok(()) } else { self.inner.fill(draft, source) }
    }

    fn publish(&self, draft: Self::Draft, dir: &Object, name: &Name) -> io::Result<()> {
        self.inner.publish(draft, dir, name)
    }

    fn link(&self, object: &Object, dir: &Object, name: &Name) -> io::Result<()> {
        self.inner.link(object, dir, name)
    }

    fn remove(&self, dir: &Object, name: &Name, whiteout: bool) -> io::Result<()> {
        if self.has(Defect::LostWhiteout) && whiteout {
            return match self.inner.presence(dir, name)? {
                Presence::Present(_) => self.inner.remove(dir, name, false),
                _ => Ok(()),
            };
        }
        self.inner.remove(dir, name, whiteout)
    }

    fn rename(&self, from: (&Object, &Name), to: (&Object, &Name), whiteout: bool) -> io::Result<()> {
        self.inner.rename(from, to, whiteout && !self.has(Defect::LostWhiteoutOfRename))
    }

    fn exchange(&self, a: (&Object, &Name), b: (&Object, &Name)) -> io::Result<()> {
        if self.has(Defect::HalfExchange) { Ok(()) } else { self.inner.exchange(a, b) }
    }

    fn set_attr(&self, object: &Object, changes: &SetAttr) -> io::Result<()> {
        let mut changes = *changes;
        if self.has(Defect::LostTimes) {
            changes = SetAttr { atime: None, mtime: None, ..changes };
        }
        self.inner.set_attr(object, &changes)
    }

    fn set_xattr(&self, object: &Object, name: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        if self.has(Defect::LostXattr) { Ok(()) } else { self.inner.set_xattr(object, name, value, mode) }
    }

    fn remove_xattr(&self, object: &Object, name: &[u8]) -> io::Result<()> {
        self.inner.remove_xattr(object, name)
    }

    fn sync_dir(&self, dir: &Object) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
}
