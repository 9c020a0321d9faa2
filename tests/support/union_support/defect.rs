//! Uppers with a defect each, to check that the tests find them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use nixview::layer::mem::{MemFile, MemLayer};
use nixview::layer::{
    Access, EntryKind, LayerEntry, LayerFile, Lower, NewObject, Presence, Redirect, Stat, Upper,
};
use nixview::vfs::{Name, SeekTarget, SetAttr, StatFs, XattrMode};

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
    /// A moved directory forgets where its lower part is.
    LostRedirect,
    /// A moved directory only notes the name of its lower part.
    ShortRedirect,
    /// An exchange only moves one of the two.
    HalfExchange,
    /// Files are not synced.
    LostSync,
    /// Copies are not synced before they get their name.
    LostSyncOfCopy,
    /// Directories are not synced.
    LostSyncOfNames,
    /// Directories are not synced after a copy got its name in them.
    LostSyncOfCopiedNames,
}

pub const ALL: [Defect; 14] = [
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
    Defect::LostRedirect,
    Defect::ShortRedirect,
    Defect::HalfExchange,
];

/// Those that only a power cut brings to light.
pub const UNSYNCED: [Defect; 4] =
    [Defect::LostSync, Defect::LostSyncOfCopy, Defect::LostSyncOfNames, Defect::LostSyncOfCopiedNames];

/// An upper in memory that has one defect.
pub struct DefectUpper {
    inner: MemLayer,
    defect: Defect,
    listed: Mutex<HashMap<u64, Vec<LayerEntry>>>,
    /// How far the last copy is: 1 when it got its name, 2 when the directory got its times back.
    copied: AtomicU8,
}

impl DefectUpper {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }
}

/// An open file of such an upper.
pub struct DefectFile {
    inner: MemFile,
    defect: Defect,
}

impl LayerFile for DefectFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.inner.write_at(offset, data)
    }

    fn stat(&self) -> io::Result<Stat> {
        self.inner.stat()
    }

    fn set_attr(&self, changes: &SetAttr) -> io::Result<()> {
        self.inner.set_attr(changes)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        match self.defect {
            Defect::LostSync => Ok(()),
            Defect::LostSyncOfCopy if self.stat()?.nlink == 0 => Ok(()),
            _ => self.inner.sync(data_only),
        }
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        self.inner.allocate(mode, offset, length)
    }

    fn seek(&self, offset: u64, target: SeekTarget) -> io::Result<u64> {
        self.inner.seek(offset, target)
    }

    fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        None
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
        let (listed, copied) = (Mutex::default(), AtomicU8::new(0));
        DefectUpper { inner: self.disk.upper(), defect: self.defect, listed, copied }
    }
}

type Object = <MemLayer as Lower>::Object;

impl Lower for DefectUpper {
    type Object = Object;
    type File = DefectFile;

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
        Ok(DefectFile { inner: self.inner.open(object, access)?, defect: self.defect })
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

    fn descriptor<'a>(&self, object: &'a Object) -> Option<BorrowedFd<'a>> {
        self.inner.descriptor(object)
    }

    fn adopt(&self, descriptor: OwnedFd) -> io::Result<Object> {
        self.inner.adopt(descriptor)
    }

    fn clear_drafts(&self) -> io::Result<()> {
        self.inner.clear_drafts()
    }

    fn keeps_access_lists(&self) -> bool {
        self.inner.keeps_access_lists()
    }

    fn presence(&self, dir: &Object, name: &Name) -> io::Result<Presence<Object>> {
        self.inner.presence(dir, name)
    }

    fn is_opaque(&self, dir: &Object) -> io::Result<bool> {
        Ok(self.has(Defect::AlwaysOpaque) || self.inner.is_opaque(dir)?)
    }

    fn make_opaque(&self, dir: &Object) -> io::Result<()> {
        self.inner.make_opaque(dir)
    }

    fn redirect(&self, dir: &Object) -> io::Result<Option<Redirect>> {
        self.inner.redirect(dir)
    }

    fn set_redirect(&self, dir: &Object, redirect: &Redirect) -> io::Result<()> {
        match redirect {
            _ if self.has(Defect::LostRedirect) => Ok(()),
            Redirect::Path(path) if self.has(Defect::ShortRedirect) => {
                self.inner.set_redirect(dir, &Redirect::Sibling(path.last().unwrap().clone()))
            }
            redirect => self.inner.set_redirect(dir, redirect),
        }
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
        self.copied.store(1, Ordering::SeqCst);
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
        self.copied.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).ok();
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
        let of_copy = self.copied.swap(0, Ordering::SeqCst) == 2;
        match self.defect {
            Defect::LostSyncOfNames => Ok(()),
            Defect::LostSyncOfCopiedNames if of_copy => Ok(()),
            _ => self.inner.sync_dir(dir),
        }
    }
}
