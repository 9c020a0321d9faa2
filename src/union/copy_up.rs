//! Copying an inode from the lower to the upper before it is changed.
//!
//! Parents first; then a draft with content, owner, mode, attributes and times, to which the change that asked for the
//! copy is applied; then one rename gives it its name. Until that moment nothing has happened, after it everything.
//! The node keeps its number, which is stored with the copy.
//!
//! The one exception: the kernel reads the lower's file by itself at this moment ([`Io::Passthrough`]) and the change is to
//! content. An inode has one file then, so the copy becomes an inode of its own, and the caller gets `ESTALE`, upon
//! which the kernel walks again and finds it. The old inode stays with those who have it open: they read the old
//! bytes, as on overlayfs, and changes of metadata that they make go to the copy.

use super::node::{Held, Link};
use super::place::Side;
use super::record::{self, Intent};
use super::{Io, Outcome, UnionFs, number};
use crate::layer::{Access, LayerFile, Lower, NewObject, Stat, Upper};
use crate::vfs::{Errno, FileKind, Ino, SetAttr, SetTime, Timespec, XattrMode};

/// The capabilities of a program, which go when its content does.
const CAPABILITY: &[u8] = b"security.capability";

/// For what a copy is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// Metadata, or names, will change.
    Metadata,
    /// Content will change.
    Content,
    /// All content will go.
    Truncated,
}

/// What is known of the inode to copy.
struct Original<LO> {
    ino: Ino,
    object: LO,
    stat: Stat,
}

/// A copy that has just got its name.
pub(super) struct Published<'a, L: Lower, U: Upper> {
    /// The inode that was copied.
    pub(super) ino: Ino,
    pub(super) link: &'a Link,
    /// The copy, and its number in the upper.
    pub(super) object: &'a U::Object,
    pub(super) number: u64,
    /// What the kernel reads at this moment, if it does.
    pub(super) lower: Option<L::Object>,
    /// The copy is an inode of its own.
    pub(super) split: bool,
    /// The directory, which keeps these access and change times.
    pub(super) parent: &'a U::Object,
    pub(super) times: (Timespec, Timespec),
}

/// Ends the time in which the lower's file must not be opened for passthrough.
struct Publishing<'a, L: Lower, U: Upper> {
    fs: &'a UnionFs<L, U>,
    ino: Ino,
}

impl<L: Lower, U: Upper> Drop for Publishing<'_, L, U> {
    fn drop(&mut self) {
        if let Ok(node) = self.fs.table.lock().get_mut(self.ino) {
            node.publishing = false;
        }
    }
}

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Makes sure that an inode is in the upper. The caller holds no locks.
    ///
    /// `change` is what will be done to it: applied to the copy before that is visible, and the answer is true; or not
    /// applied, because there is no need to copy, and the answer is false.
    pub(super) fn copy_up(
        &self,
        ino: Ino,
        need: Need,
        change: &dyn Fn(&U::Object) -> std::io::Result<()>,
    ) -> Outcome<bool> {
        self.upper()?;
        if self.is_copied(ino, need)? {
            return Ok(false);
        }
        loop {
            let above = self.table.lock().ancestors(ino);
            for directory in above.into_iter().rev() {
                if !self.is_copied(directory, Need::Metadata)? {
                    self.copy_once(directory, Need::Metadata, &|_| Ok(()))?;
                }
            }
            if let Some(applied) = self.copy_once(ino, need, change)? {
                return Ok(applied);
            }
        }
    }

    /// [`Self::copy_up`] for a change of names in a directory.
    pub(super) fn copy_up_directory(&self, ino: Ino) -> Outcome<()> {
        self.copy_up(ino, Need::Metadata, &|_| Ok(())).map(drop)
    }

    /// True if the upper has the inode and takes the change; `ESTALE` if the name has to be walked again.
    fn is_copied(&self, ino: Ino, need: Need) -> Outcome<bool> {
        let (number, links) = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            let Some(number) = node.source.upper() else { return Ok(false) };
            if need == Need::Metadata || !node.reads_lower() {
                return Ok(true);
            }
            (number, node.links.all())
        };
        // Metadata was copied in place; the content is still read from the lower through open handles.
        if !links.is_empty() {
            self.split(ino, number, &links)?;
        }
        Err(Errno::ESTALE)
    }

    /// Parts the inode that readers have open from the one that its names stand for from now on.
    fn split(&self, ino: Ino, upper_number: u64, links: &[Link]) -> Outcome<()> {
        let object = self.upper_object(ino)?;
        let parents: Vec<Ino> = links.iter().map(|(parent, _)| *parent).collect();
        let _changing = self.lock_names(&parents);
        let still = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            node.reads_lower() && links == node.links.all()
        };
        if still {
            self.upper()?.set_origin(&object, number::of_upper(upper_number))?;
            for link in links {
                self.detach(ino, upper_number, link, None, &object);
            }
        }
        Ok(())
    }

    /// The inode, whose content is read from `lower`, loses a name to the copy, whose metadata it keeps.
    pub(super) fn detach(
        &self,
        ino: Ino,
        upper_number: u64,
        link: &Link,
        lower: Option<L::Object>,
        copy: &U::Object,
    ) {
        self.hold_always(ino, copy);
        let held = Held { lower, lower_at: None, upper: Some(copy.clone()) };
        let dropped = self.table.lock().detach(ino, upper_number, link.0, &link.1, held);
        self.purge(dropped);
    }

    /// Copies one inode whose parents are in the upper. `None`: names changed meanwhile, try again.
    fn copy_once(
        &self,
        ino: Ino,
        need: Need,
        change: &dyn Fn(&U::Object) -> std::io::Result<()>,
    ) -> Outcome<Option<bool>> {
        let _once = self.copies.lock(&[ino]);
        if self.is_copied(ino, need)? {
            return Ok(Some(false));
        }
        let link = {
            let table = self.table.lock();
            let node = table.get(ino)?;
            if node.links.first().is_none() && node.lower_opens > 0 && need != Need::Metadata {
                return Err(Errno::ESTALE);
            }
            node.links.first().cloned()
        };
        let object = self.lower_object(ino)?;
        let stat = self.lower.stat(&object)?;
        let original = Original { ino, object, stat };
        let upper = self.upper()?;
        // Without a name the copy gets none: the draft goes when this ends, its inode stays as long as it is held.
        let parent = match &link {
            Some((parent, _)) => match self.table.lock().get(*parent)?.source.upper() {
                Some(_) => Some(*parent),
                None => return Ok(None),
            },
            None => None,
        };
        let parent = parent.map(|parent| self.upper_object(parent)).transpose()?;
        let draft = self.draft_of(&original, need, change)?;
        match (&link, &parent) {
            (Some(link), Some(parent)) => {
                let changing = self.lock_names(&[link.0]);
                let published = self.publish(&original, need, draft, parent, link);
                drop(changing);
                let split = match published {
                    Err(Errno::ENOENT) if !self.table.lock().is_linked(ino) => return Ok(None),
                    published => published?,
                };
                // Nobody waits for this disk but who changes, or syncs, what is copied (`copies_above_are_durable`).
                if self.options.durable {
                    upper.sync_dir(parent)?;
                }
                if split {
                    return Err(Errno::ESTALE);
                }
            }
            _ => {
                let object = upper.draft_object(&draft);
                let number = upper.stat(&object)?.ino;
                self.hold_always(ino, &object);
                drop(draft);
                self.table.lock().copied_nameless(ino, number, object);
            }
        }
        Ok(Some(true))
    }

    /// A complete copy that nobody sees yet.
    fn draft_of(
        &self,
        original: &Original<L::Object>,
        need: Need,
        change: &dyn Fn(&U::Object) -> std::io::Result<()>,
    ) -> Outcome<U::Draft> {
        let upper = self.upper()?;
        let stat = &original.stat;
        let (uid, gid) = self.options.owner.unwrap_or((stat.uid, stat.gid));
        let target;
        let new = match stat.kind {
            FileKind::Regular => NewObject::File,
            FileKind::Directory => NewObject::Directory { opaque: false },
            FileKind::Symlink => {
                target = self.lower.read_link(&original.object)?;
                NewObject::Symlink(&target)
            }
            kind => NewObject::Node { kind, rdev: stat.rdev },
        };
        let draft = upper.draft(&new, stat.permissions, uid, gid)?;
        let object = upper.draft_object(&draft);
        let is_file = stat.kind == FileKind::Regular;
        if is_file && need != Need::Truncated && stat.size > 0 {
            upper.fill(&draft, &self.lower.open(&original.object, Access::Read)?)?;
        }
        for name in self.lower_xattrs(&original.object)? {
            if need == Need::Truncated && name == CAPABILITY {
                continue;
            }
            let value = self.lower.get_xattr(&original.object, &name)?;
            upper.set_xattr(&object, &name, &value, XattrMode::Set)?;
        }
        // Writing content takes setuid bits away, so the mode is set once more. Truncated content is new content.
        let permissions = (stat.kind != FileKind::Symlink).then_some(stat.permissions);
        let time = (need != Need::Truncated).then_some(SetTime::At(stat.mtime));
        upper.set_attr(&object, &SetAttr { permissions, atime: time, mtime: time, ..SetAttr::default() })?;
        upper.set_origin(&object, original.ino.0)?;
        change(&object)?;
        if is_file && self.options.durable {
            upper.open(&object, Access::Read)?.sync(false)?;
        }
        Ok(draft)
    }

    /// Waits until the copies of an inode and of the directories above, if any are being made, are durable with their
    /// names: what is synced then can be found again. The caller holds no locks.
    pub(super) fn copies_above_are_durable(&self, ino: Ino) {
        let above = self.table.lock().ancestors(ino);
        for copied in above.into_iter().chain([ino]) {
            drop(self.copies.lock(&[copied]));
        }
    }

    /// Gives a copy its name and the node its new source, or its successor: then the answer is true, and the name has to
    /// be walked again. The lock of the directory is held and a change of names has begun. `ENOENT`: the name is not the
    /// inode's any more.
    fn publish(
        &self,
        original: &Original<L::Object>,
        need: Need,
        draft: U::Draft,
        parent: &U::Object,
        link: &Link,
    ) -> Outcome<bool> {
        let upper = self.upper()?;
        let ino = original.ino;
        let busy = {
            let mut table = self.table.lock();
            let node = table.get_mut(ino)?;
            if !node.links.contains(link.0, &link.1) {
                return Err(Errno::ENOENT);
            }
            node.publishing = true;
            node.lower_opens > 0
        };
        let _publishing = Publishing { fs: self, ino };
        let object = upper.draft_object(&draft);
        let copy = upper.stat(&object)?.ino;
        let split = busy && need != Need::Metadata;
        if split {
            upper.set_origin(&object, number::of_upper(copy))?;
        }
        let before = upper.stat(parent)?;
        let times = (before.atime, before.mtime);
        let intending = self.intend(|| {
            let link = record::link(link.0, &link.1);
            let times = (record::moment(times.0), record::moment(times.1));
            Ok(Intent::CopyUp { ino: ino.0, link, object: copy, busy, split, times })
        })?;
        upper.publish(draft, parent, &link.1)?;
        let lower = busy.then(|| original.object.clone());
        self.published(Published { ino, link, object: &object, number: copy, lower, split, parent, times })?;
        intending.done(None);
        self.forget_lower(ino, original.stat.kind);
        Ok(split)
    }

    /// Tells the table of a copy that has its name now.
    pub(super) fn published(&self, copy: Published<'_, L, U>) -> Outcome<()> {
        let Published { ino, link, object, number, lower, split, parent, times } = copy;
        if split {
            self.detach(ino, number, link, lower, object);
        } else {
            let mut table = self.table.lock();
            table.copied_up(ino, number);
            if let Some(lower) = lower {
                table.keep_lower(ino, lower);
            }
            drop(table);
            self.caches.keep_upper(ino, number, object);
        }
        self.keep_times(parent, times)
    }

    /// A copy changes nothing that shows, so the directory that it was made in keeps its times.
    pub(super) fn keep_times(&self, parent: &U::Object, times: (Timespec, Timespec)) -> Outcome<()> {
        let (atime, mtime) = (Some(SetTime::At(times.0)), Some(SetTime::At(times.1)));
        Ok(self.upper()?.set_attr(parent, &SetAttr { atime, mtime, ..SetAttr::default() })?)
    }

    fn forget_lower(&self, ino: Ino, kind: FileKind) {
        if kind == FileKind::Regular {
            let file = self.caches.files.lock().remove(&(ino, Side::Lower, false));
            drop(file);
        }
    }

    /// True if the kernel reads the files that opens answer.
    pub(super) fn passes_through(&self) -> bool {
        self.options.io == Io::Passthrough
    }
}
