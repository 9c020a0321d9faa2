//! An upper that fails at the n-th change, for tests.
//!
//! Counts the changes (and syncs) that it is asked for, calls a hook before each, and fails as its [`Faults`] say: once, with a
//! chosen errno, or for good from the n-th change on, as a machine that lost its power: then every call fails with
//! `EIO`, and drafts stay in the work directory.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Access, LayerEntry, LayerFile, Lower, NewObject, Presence, Redirect, Restore, Stat, Upper};
use crate::vfs::{Errno, Name, SeekTarget, SetAttr, StatFs, XattrMode};

/// A kind of change, for hooks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "named after the methods of Upper and LayerFile")]
pub enum Change {
    SetRedirect,
    SetOrigin,
    Discard,
    Draft,
    Fill,
    Publish,
    Link,
    Remove,
    Rename,
    Exchange,
    SetAttr,
    SetXattr,
    RemoveXattr,
    Write,
    FileSetAttr,
    Allocate,
    Sync,
    SyncDir,
}

impl Change {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::SetRedirect,
        Self::SetOrigin,
        Self::Draft,
        Self::Fill,
        Self::Publish,
        Self::Link,
        Self::Remove,
        Self::Rename,
        Self::Exchange,
        Self::SetAttr,
        Self::SetXattr,
        Self::RemoveXattr,
        Self::Write,
        Self::FileSetAttr,
        Self::Allocate,
        Self::Sync,
        Self::SyncDir,
    ];
}

type Hook = Box<dyn Fn(Change) + Send + Sync>;

/// What fails and when; shared between a [`FaultUpper`] and the test.
pub struct Faults {
    seen: AtomicU64,
    at: u64,
    /// `None`: a crash.
    errno: Option<Errno>,
    dead: AtomicBool,
    ended_at: OnceLock<Change>,
    hook: Option<Hook>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("seen", &self.seen).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Faults {
    fn new(at: u64, errno: Option<Errno>, hook: Option<Hook>) -> Arc<Self> {
        Arc::new(Self {
            seen: AtomicU64::new(0),
            at,
            errno,
            dead: AtomicBool::new(false),
            ended_at: OnceLock::new(),
            hook,
        })
    }

    /// Nothing fails; changes are counted.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Self::new(u64::MAX, None, None)
    }

    /// The `n`-th change (from 0) and every call after it fail with `EIO`.
    #[must_use]
    pub fn crash_at(n: u64) -> Arc<Self> {
        Self::new(n, None, None)
    }

    /// The `n`-th change (from 0) fails with `errno`; all others succeed.
    #[must_use]
    pub fn fail_once(n: u64, errno: Errno) -> Arc<Self> {
        Self::new(n, Some(errno), None)
    }

    /// Nothing fails; `hook` is called before each change, and may block.
    #[must_use]
    pub fn watch(hook: impl Fn(Change) + Send + Sync + 'static) -> Arc<Self> {
        Self::new(u64::MAX, None, Some(Box::new(hook)))
    }

    /// How many changes were asked for.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// True once the crash has happened.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// The change that the crash prevented.
    #[must_use]
    pub fn ended_at(&self) -> Option<Change> {
        self.ended_at.get().copied()
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed() { Err(Errno::EIO.into()) } else { Ok(()) }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.alive()?;
        if let Some(hook) = &self.hook {
            hook(change);
        }
        if self.seen.fetch_add(1, Ordering::SeqCst) != self.at {
            return Ok(());
        }
        match self.errno {
            Some(errno) => Err(errno.into()),
            None => {
                self.dead.store(true, Ordering::SeqCst);
                self.ended_at.get_or_init(|| change);
                Err(Errno::EIO.into())
            }
        }
    }
}

/// An upper with faults.
#[derive(Debug)]
pub struct FaultUpper<U> {
    inner: U,
    faults: Arc<Faults>,
}

impl<U> FaultUpper<U> {
    /// Wraps an upper.
    #[must_use]
    pub fn new(inner: U, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

/// A draft that a crash leaves behind.
#[derive(Debug)]
pub struct FaultDraft<D> {
    inner: Option<D>,
    faults: Arc<Faults>,
}

impl<D> FaultDraft<D> {
    fn get(&self) -> io::Result<&D> {
        self.inner.as_ref().ok_or_else(|| Errno::EIO.into())
    }
}

impl<D> Drop for FaultDraft<D> {
    fn drop(&mut self) {
        if self.faults.crashed() {
            std::mem::forget(self.inner.take());
        }
    }
}

/// An open file with faults.
#[derive(Debug)]
pub struct FaultFile<F> {
    inner: F,
    faults: Arc<Faults>,
}

impl<F: LayerFile> LayerFile for FaultFile<F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.faults.alive()?;
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.faults.change(Change::Write)?;
        self.inner.write_at(offset, data)
    }

    fn stat(&self) -> io::Result<Stat> {
        self.faults.alive()?;
        self.inner.stat()
    }

    fn set_attr(&self, changes: &SetAttr) -> io::Result<()> {
        self.faults.change(Change::FileSetAttr)?;
        self.inner.set_attr(changes)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.faults.change(Change::Sync)?;
        self.inner.sync(data_only)
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        self.faults.change(Change::Allocate)?;
        self.inner.allocate(mode, offset, length)
    }

    fn seek(&self, offset: u64, target: SeekTarget) -> io::Result<u64> {
        self.faults.alive()?;
        self.inner.seek(offset, target)
    }

    fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.inner.descriptor()
    }
}

impl<U: Upper> Lower for FaultUpper<U> {
    type Object = U::Object;
    type File = FaultFile<U::File>;

    fn root(&self) -> io::Result<U::Object> {
        self.faults.alive()?;
        self.inner.root()
    }

    fn lookup(&self, dir: &U::Object, name: &Name) -> io::Result<U::Object> {
        self.faults.alive()?;
        self.inner.lookup(dir, name)
    }

    fn resolve(&self, path: &[Name]) -> io::Result<U::Object> {
        self.faults.alive()?;
        self.inner.resolve(path)
    }

    fn stat(&self, object: &U::Object) -> io::Result<Stat> {
        self.faults.alive()?;
        self.inner.stat(object)
    }

    fn read_dir(&self, dir: &U::Object) -> io::Result<Vec<LayerEntry>> {
        self.faults.alive()?;
        self.inner.read_dir(dir)
    }

    fn read_link(&self, object: &U::Object) -> io::Result<Vec<u8>> {
        self.faults.alive()?;
        self.inner.read_link(object)
    }

    fn open(&self, object: &U::Object, access: Access) -> io::Result<Self::File> {
        self.faults.alive()?;
        Ok(FaultFile { inner: self.inner.open(object, access)?, faults: self.faults.clone() })
    }

    fn get_xattr(&self, object: &U::Object, name: &[u8]) -> io::Result<Vec<u8>> {
        self.faults.alive()?;
        self.inner.get_xattr(object, name)
    }

    fn list_xattr(&self, object: &U::Object) -> io::Result<Vec<Vec<u8>>> {
        self.faults.alive()?;
        self.inner.list_xattr(object)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        self.faults.alive()?;
        self.inner.statfs()
    }
}

impl<U: Upper> Upper for FaultUpper<U> {
    type Draft = FaultDraft<U::Draft>;

    fn descriptor<'a>(&self, object: &'a U::Object) -> Option<BorrowedFd<'a>> {
        self.inner.descriptor(object)
    }

    fn adopt(&self, descriptor: OwnedFd) -> io::Result<U::Object> {
        self.inner.adopt(descriptor)
    }

    fn clear_drafts(&self) -> io::Result<()> {
        self.faults.alive()?;
        self.inner.clear_drafts()
    }

    fn keeps_access_lists(&self) -> bool {
        self.inner.keeps_access_lists()
    }

    fn presence(&self, dir: &U::Object, name: &Name) -> io::Result<Presence<U::Object>> {
        self.faults.alive()?;
        self.inner.presence(dir, name)
    }

    fn is_opaque(&self, dir: &U::Object) -> io::Result<bool> {
        self.faults.alive()?;
        self.inner.is_opaque(dir)
    }

    fn make_opaque(&self, dir: &U::Object) -> io::Result<()> {
        self.faults.change(Change::SetXattr)?;
        self.inner.make_opaque(dir)
    }

    fn redirect(&self, dir: &U::Object) -> io::Result<Option<Redirect>> {
        self.faults.alive()?;
        self.inner.redirect(dir)
    }

    fn set_redirect(&self, dir: &U::Object, redirect: &Redirect) -> io::Result<()> {
        self.faults.change(Change::SetRedirect)?;
        self.inner.set_redirect(dir, redirect)
    }

    fn origin(&self, object: &U::Object) -> io::Result<Option<u64>> {
        self.faults.alive()?;
        self.inner.origin(object)
    }

    fn set_origin(&self, object: &U::Object, ino: u64) -> io::Result<()> {
        self.faults.change(Change::SetOrigin)?;
        self.inner.set_origin(object, ino)
    }

    fn draft(&self, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> io::Result<Self::Draft> {
        self.faults.change(Change::Draft)?;
        let inner = Some(self.inner.draft(new, permissions, uid, gid)?);
        Ok(FaultDraft { inner, faults: self.faults.clone() })
    }

    fn draft_object(&self, draft: &Self::Draft) -> U::Object {
        #[allow(clippy::expect_used, reason = "test code; only publish takes the inner draft, by value")]
        self.inner.draft_object(draft.inner.as_ref().expect("a draft that was not published"))
    }

    fn fill(&self, draft: &Self::Draft, source: &dyn LayerFile) -> io::Result<()> {
        self.faults.change(Change::Fill)?;
        self.inner.fill(draft.get()?, source)
    }

    fn publish(&self, mut draft: Self::Draft, dir: &U::Object, name: &Name) -> io::Result<()> {
        self.faults.change(Change::Publish)?;
        match draft.inner.take() {
            Some(inner) => self.inner.publish(inner, dir, name),
            None => Err(Errno::EIO.into()),
        }
    }

    fn link(&self, object: &U::Object, dir: &U::Object, name: &Name) -> io::Result<()> {
        self.faults.change(Change::Link)?;
        self.inner.link(object, dir, name)
    }

    fn remove(&self, dir: &U::Object, name: &Name, whiteout: bool) -> io::Result<()> {
        self.faults.change(Change::Remove)?;
        self.inner.remove(dir, name, whiteout)
    }

    fn rename(&self, from: (&U::Object, &Name), to: (&U::Object, &Name), whiteout: bool) -> io::Result<()> {
        self.faults.change(Change::Rename)?;
        self.inner.rename(from, to, whiteout)
    }

    fn exchange(&self, a: (&U::Object, &Name), b: (&U::Object, &Name)) -> io::Result<()> {
        self.faults.change(Change::Exchange)?;
        self.inner.exchange(a, b)
    }

    fn set_attr(&self, object: &U::Object, changes: &SetAttr) -> io::Result<()> {
        self.faults.change(Change::SetAttr)?;
        self.inner.set_attr(object, changes)
    }

    fn set_xattr(&self, object: &U::Object, name: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        self.faults.change(Change::SetXattr)?;
        self.inner.set_xattr(object, name, value, mode)
    }

    fn remove_xattr(&self, object: &U::Object, name: &[u8]) -> io::Result<()> {
        self.faults.change(Change::RemoveXattr)?;
        self.inner.remove_xattr(object, name)
    }

    fn sync_dir(&self, dir: &U::Object) -> io::Result<()> {
        self.faults.change(Change::SyncDir)?;
        self.inner.sync_dir(dir)
    }
}

impl<U: Restore> Restore for FaultUpper<U> {
    fn make_transparent(&self, dir: &U::Object) -> io::Result<()> {
        self.faults.change(Change::RemoveXattr)?;
        self.inner.make_transparent(dir)
    }

    fn discard(&self, dir: &U::Object, name: &Name) -> io::Result<()> {
        self.faults.change(Change::Discard)?;
        self.inner.discard(dir, name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::layer::mem::MemLayer;

    #[test]
    fn a_crash_ends_everything_and_leaves_its_draft() {
        let disk = MemLayer::new();
        let upper = FaultUpper::new(disk.clone(), Faults::crash_at(1));
        let draft = upper.draft(&NewObject::File, 0o644, 0, 0).unwrap();
        let name = Name::new(b"a").unwrap();
        let root = disk.root().unwrap();
        assert_eq!(Errno::of(&upper.publish(draft, &root, &name).unwrap_err()), Errno::EIO);
        assert_eq!(Errno::of(&upper.root().unwrap_err()), Errno::EIO);
        assert_eq!(disk.reopen(), 1, "the draft stayed");
        assert!(matches!(disk.presence(&root, &name).unwrap(), Presence::Absent));
    }

    #[test]
    fn one_failure_is_one_failure() {
        let upper = FaultUpper::new(MemLayer::new(), Faults::fail_once(0, Errno::ENOSPC));
        assert_eq!(Errno::of(&upper.draft(&NewObject::File, 0, 0, 0).err().unwrap()), Errno::ENOSPC);
        upper.draft(&NewObject::File, 0, 0, 0).unwrap();
    }
}
