//! The changes of a layer in memory.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::MemfdFlags;

use super::{Content, MemLayer, MemObject, Tree, now};
use crate::layer::{LayerFile, NewObject, Presence, Redirect, Restore, Upper};
use crate::sys;
use crate::vfs::{Errno, FileKind, Name, SetAttr, XattrMode};

/// An object without a name; removed when dropped.
#[derive(Debug)]
pub struct MemDraft {
    object: MemObject,
    tree: Arc<Tree>,
}

impl Drop for MemDraft {
    fn drop(&mut self) {
        self.tree.work.lock().remove(&self.object.0.ino);
    }
}

impl MemObject {
    /// Changes the names of a directory; `ENOENT` for one that was removed.
    fn change<T>(&self, f: impl FnOnce(&mut BTreeMap<Name, Self>) -> T) -> io::Result<T> {
        let mut body = self.0.body.lock();
        if body.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        let Content::Directory(names) = &mut body.content else { return Err(Errno::ENOTDIR.into()) };
        let result = f(names);
        body.mtime = now();
        body.ctime = body.mtime;
        Ok(result)
    }

    fn count_links(&self, change: i32) {
        let mut body = self.0.body.lock();
        body.nlink = body.nlink.saturating_add_signed(change);
        body.ctime = now();
    }

    /// Puts `object` under a name; what it displaced loses a link.
    fn put(&self, name: &Name, object: &Self) -> io::Result<()> {
        let displaced = self.change(|names| names.insert(name.clone(), object.clone()))?;
        if let Some(old) = displaced {
            old.count_links(-1);
        }
        Ok(())
    }

    fn take(&self, name: &Name) -> io::Result<Self> {
        self.change(|names| names.remove(name))?.ok_or_else(|| Errno::ENOENT.into())
    }

    fn is_live(&self) -> io::Result<()> {
        self.change(|_| ())
    }
}

impl Tree {
    /// Notes what was changed with [`MemObject::set_attr`].
    pub(super) fn attributes_changed(&self, object: &MemObject, changes: &SetAttr) {
        if changes.size.is_some() {
            self.journal.data(object);
        } else {
            self.journal.metadata(object);
        }
    }
}

impl MemLayer {
    fn new_object(&self, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> MemObject {
        MemObject::new(self.tree.next.fetch_add(1, Ordering::Relaxed), new, permissions, uid, gid)
    }

    fn whiteout(&self) -> MemObject {
        let object = self.new_object(&NewObject::Node { kind: FileKind::CharDevice, rdev: 0 }, 0, 0, 0);
        object.0.body.lock().whiteout = true;
        object.count_links(1);
        object
    }
}

impl Upper for MemLayer {
    type Draft = MemDraft;

    /// An empty file in memory, whose inode number stands for the object.
    fn descriptor<'a>(&self, object: &'a MemObject) -> Option<BorrowedFd<'a>> {
        let descriptor = &object.0.descriptor;
        if descriptor.get().is_none() {
            let file = rustix::fs::memfd_create("object", MemfdFlags::CLOEXEC).ok()?;
            let number = sys::stat::stat(file.as_fd()).ok()?.stx_ino;
            self.tree.described.lock().insert(number, object.clone());
            drop(descriptor.set(file));
        }
        descriptor.get().map(AsFd::as_fd)
    }

    fn adopt(&self, descriptor: OwnedFd) -> io::Result<MemObject> {
        let number = sys::stat::stat(descriptor.as_fd())?.stx_ino;
        self.tree.described.lock().get(&number).cloned().ok_or_else(|| Errno::ESTALE.into())
    }

    /// Drafts are objects without a name, and go with the process.
    fn clear_drafts(&self) -> io::Result<()> {
        Ok(())
    }

    /// True, but permission bits are not kept in step.
    fn keeps_access_lists(&self) -> bool {
        !self.tree.refuses_lists.load(Ordering::Relaxed)
    }

    fn presence(&self, dir: &MemObject, name: &Name) -> io::Result<Presence<MemObject>> {
        Ok(match dir.child(name)? {
            None => Presence::Absent,
            Some(object) if object.is_whiteout() => Presence::Whiteout,
            Some(object) => Presence::Present(object),
        })
    }

    fn is_opaque(&self, dir: &MemObject) -> io::Result<bool> {
        Ok(dir.0.body.lock().opaque)
    }

    fn make_opaque(&self, dir: &MemObject) -> io::Result<()> {
        self.writable()?;
        dir.0.body.lock().opaque = true;
        self.tree.journal.metadata(dir);
        Ok(())
    }

    fn redirect(&self, dir: &MemObject) -> io::Result<Option<Redirect>> {
        Ok(dir.0.body.lock().redirect.as_deref().map(Redirect::parse).transpose()?)
    }

    fn set_redirect(&self, dir: &MemObject, redirect: &Redirect) -> io::Result<()> {
        self.writable()?;
        dir.0.body.lock().redirect = Some(redirect.to_value()?);
        self.tree.journal.metadata(dir);
        Ok(())
    }

    fn origin(&self, object: &MemObject) -> io::Result<Option<u64>> {
        Ok(object.0.body.lock().origin)
    }

    fn set_origin(&self, object: &MemObject, ino: u64) -> io::Result<()> {
        self.writable()?;
        object.0.body.lock().origin = Some(ino);
        self.tree.journal.metadata(object);
        Ok(())
    }

    fn draft(&self, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> io::Result<MemDraft> {
        self.writable()?;
        let object = self.new_object(new, permissions, uid, gid);
        self.tree.work.lock().insert(object.0.ino, object.clone());
        self.tree.journal.metadata(&object);
        Ok(MemDraft { object, tree: self.tree.clone() })
    }

    fn draft_object(&self, draft: &MemDraft) -> MemObject {
        draft.object.clone()
    }

    fn fill(&self, draft: &MemDraft, source: &dyn LayerFile) -> io::Result<()> {
        self.writable()?;
        let mut data = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let got = source.read_at(data.len() as u64, &mut buffer)?;
            if got == 0 {
                break;
            }
            data.extend_from_slice(buffer.get(..got).unwrap_or_default());
        }
        if data.len() as u64 != source.stat()?.size {
            return Err(Errno::EIO.into());
        }
        draft.object.0.body.lock().content = Content::File(data);
        self.tree.journal.data(&draft.object);
        Ok(())
    }

    fn publish(&self, draft: MemDraft, dir: &MemObject, name: &Name) -> io::Result<()> {
        self.writable()?;
        let _names = self.tree.names.lock();
        if let Some(old) = dir.child(name)?
            && old.0.kind == FileKind::Directory
            && !old.is_hollow()?
        {
            return Err(Errno::ENOTEMPTY.into());
        }
        dir.put(name, &draft.object)?;
        draft.object.count_links(1);
        self.tree.journal.names(&[(dir, name, Some(&draft.object))]);
        Ok(())
    }

    fn link(&self, object: &MemObject, dir: &MemObject, name: &Name) -> io::Result<()> {
        self.writable()?;
        let _names = self.tree.names.lock();
        if object.0.kind == FileKind::Directory {
            return Err(Errno::EPERM.into());
        }
        if object.0.body.lock().nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        if dir.child(name)?.is_some_and(|old| !old.is_whiteout()) {
            return Err(Errno::EEXIST.into());
        }
        dir.put(name, object)?;
        object.count_links(1);
        self.tree.journal.names(&[(dir, name, Some(object))]);
        Ok(())
    }

    fn remove(&self, dir: &MemObject, name: &Name, whiteout: bool) -> io::Result<()> {
        self.writable()?;
        let _names = self.tree.names.lock();
        if let Some(old) = dir.child(name)?
            && old.0.kind == FileKind::Directory
            && !old.is_hollow()?
        {
            return Err(Errno::ENOTEMPTY.into());
        }
        let mark = whiteout.then(|| self.whiteout());
        match &mark {
            Some(mark) => dir.put(name, mark)?,
            None => dir.take(name)?.count_links(-1),
        }
        self.tree.journal.names(&[(dir, name, mark.as_ref())]);
        Ok(())
    }

    fn rename(&self, from: (&MemObject, &Name), to: (&MemObject, &Name), whiteout: bool) -> io::Result<()> {
        self.writable()?;
        let _names = self.tree.names.lock();
        let object = from.0.child(from.1)?.ok_or(Errno::ENOENT)?;
        if let Some(old) = to.0.child(to.1)?.filter(|old| !old.is_whiteout()) {
            match (object.0.kind == FileKind::Directory, old.0.kind == FileKind::Directory) {
                (true, false) => return Err(Errno::ENOTDIR.into()),
                (false, true) => return Err(Errno::EISDIR.into()),
                (true, true) if !old.is_hollow()? => return Err(Errno::ENOTEMPTY.into()),
                _ if Arc::ptr_eq(&old.0, &object.0) => return Ok(()),
                _ => {}
            }
        }
        to.0.is_live()?;
        from.0.take(from.1)?;
        to.0.put(to.1, &object)?;
        let mark = whiteout.then(|| self.whiteout());
        if let Some(mark) = &mark {
            from.0.put(from.1, mark)?;
        }
        self.tree.journal.names(&[(from.0, from.1, mark.as_ref()), (to.0, to.1, Some(&object))]);
        Ok(())
    }

    fn exchange(&self, a: (&MemObject, &Name), b: (&MemObject, &Name)) -> io::Result<()> {
        self.writable()?;
        let _names = self.tree.names.lock();
        let first = a.0.child(a.1)?.ok_or(Errno::ENOENT)?;
        let second = b.0.child(b.1)?.ok_or(Errno::ENOENT)?;
        a.0.change(|names| names.insert(a.1.clone(), second.clone()))?;
        b.0.change(|names| names.insert(b.1.clone(), first.clone()))?;
        self.tree.journal.names(&[(a.0, a.1, Some(&second)), (b.0, b.1, Some(&first))]);
        Ok(())
    }

    fn set_attr(&self, object: &MemObject, changes: &SetAttr) -> io::Result<()> {
        self.writable()?;
        object.set_attr(changes)?;
        self.tree.attributes_changed(object, changes);
        Ok(())
    }

    fn set_xattr(&self, object: &MemObject, name: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        self.writable()?;
        let mut body = object.0.body.lock();
        match (mode, body.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST.into()),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        body.xattrs.insert(name.to_vec(), value.to_vec());
        body.ctime = now();
        drop(body);
        self.tree.journal.metadata(object);
        Ok(())
    }

    fn remove_xattr(&self, object: &MemObject, name: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut body = object.0.body.lock();
        body.ctime = now();
        body.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        drop(body);
        self.tree.journal.metadata(object);
        Ok(())
    }

    fn sync_dir(&self, dir: &MemObject) -> io::Result<()> {
        self.tree.journal.sync(dir.0.ino, false);
        Ok(())
    }
}

impl Restore for MemLayer {
    fn make_transparent(&self, dir: &MemObject) -> io::Result<()> {
        self.writable()?;
        let mut body = dir.0.body.lock();
        (body.opaque, body.redirect) = (false, None);
        drop(body);
        self.tree.journal.metadata(dir);
        Ok(())
    }

    fn discard(&self, dir: &MemObject, name: &Name) -> io::Result<()> {
        self.writable()?;
        let _names = self.tree.names.lock();
        let mut gone = vec![dir.take(name)?];
        while let Some(object) = gone.pop() {
            if object.0.kind == FileKind::Directory {
                gone.extend(object.with_names(|names| names.values().cloned().collect::<Vec<_>>())?);
            }
            object.count_links(-1);
        }
        Ok(())
    }
}
