//! What a member makes: a file, a directory, a link, a device.

use std::io::{self, Read};

use super::super::entry::{Body, Entry};
use super::super::read::Reader;
use super::super::{Problem, Tried, is_private, is_zero_device};
use super::Apply;
use super::path::Place;
use crate::layer::{Access, LayerFile, Lower, NewObject, Presence, Restore};
use crate::vfs::{Errno, FileKind, Name, SetAttr, SetTime, XattrMode};

/// How much content is read at once, in bytes; and the size of the zeros that become a hole.
pub(super) const CHUNK: usize = 256 * 1024;
const HOLE: usize = 4096;

impl<L: Lower, U: Restore> Apply<'_, L, U> {
    /// Makes an object, in place of one that came before.
    pub(super) fn object(
        &mut self,
        entry: &Entry,
        dir: &U::Object,
        path: &[Name],
        name: &Name,
        reader: &mut Reader<impl Read>,
    ) -> Result<(), Problem> {
        let upper = self.target.trees.upper;
        let linked = match &entry.body {
            Body::HardLink(target) => Some(self.linked(target, path)?),
            _ => None,
        };
        if let Presence::Present(old) = upper.presence(dir, name).tried("look it up")? {
            let both = entry.body == Body::Directory
                && upper.stat(&old).tried("look it up")?.kind == FileKind::Directory;
            if both {
                let place = self.plan.place(path);
                self.plan.change(place, |node| node.mtime = Some(entry.mtime));
                return self.metadata(&old, entry);
            }
            // The times of what was in it stay in the plan: at the end there is nothing that they belong to.
            upper.discard(dir, name).tried("replace what came before it")?;
        }
        if let Some(object) = linked {
            return upper.link(&object, dir, name).tried("link it");
        }
        const MAKE: &str = "make it";
        let new = match &entry.body {
            Body::File { .. } | Body::HardLink(_) => NewObject::File,
            Body::Directory => {
                let place = self.plan.place(path);
                self.plan.change(place, |node| node.mtime = Some(entry.mtime));
                NewObject::Directory { opaque: self.in_lower(place, path)?.is_none() }
            }
            Body::Symlink(target) => NewObject::Symlink(target),
            Body::Node { kind, rdev } if is_zero_device(*kind, *rdev) => {
                return Err(Problem::refused("a device 0:0 would hide a name"));
            }
            Body::Node { kind: FileKind::CharDevice | FileKind::BlockDevice, .. } if !self.target.devices => {
                return Err(Problem::Device);
            }
            Body::Node { kind, rdev } => NewObject::Node { kind: *kind, rdev: *rdev },
        };
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        let draft = upper.draft(&new, entry.permissions, uid, gid).tried(MAKE)?;
        let object = upper.draft_object(&draft);
        if let Body::File { size, data } = &entry.body {
            self.content(&object, *size, data.as_deref(), reader)?;
        }
        self.metadata(&object, entry)?;
        if entry.body != Body::Directory {
            let mtime = Some(SetTime::At(entry.mtime));
            upper.set_attr(&object, &SetAttr { mtime, ..SetAttr::default() }).tried("set its time")?;
        }
        upper.publish(draft, dir, name).tried(MAKE)
    }

    /// The object that a hard link names: one that the archive had before.
    fn linked(&mut self, target: &[u8], path: &[Name]) -> Result<U::Object, Problem> {
        let shown = target.escape_ascii();
        let Place::Inside(names) = Place::of(target, &self.source.prefix)? else {
            return Err(Problem::refused(format!("it is a link to '{shown}', which is not in the view")));
        };
        let upper = self.target.trees.upper;
        if names == path {
            return Err(Problem::refused("it is a link to itself"));
        }
        let missing = || Problem::refused(format!("it is a link to '{shown}', which did not come before it"));
        let object = match upper.resolve(&names) {
            Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                return Err(missing());
            }
            answer => answer.tried("look up its target")?,
        };
        if upper.stat(&object).tried("look up its target")?.kind == FileKind::Directory {
            return Err(Problem::refused(format!("it is a link to '{shown}', which is a directory")));
        }
        Ok(object)
    }

    /// Sets owner, attributes and mode, in this order, since each of them can change the next.
    pub(super) fn metadata(&self, object: &U::Object, entry: &Entry) -> Result<(), Problem> {
        let upper = self.target.trees.upper;
        let stat = upper.stat(object).tried("look it up")?;
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        if (stat.uid, stat.gid) != (uid, gid) {
            let changes = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
            upper.set_attr(object, &changes).tried("set its owner")?;
        }
        for known in upper.list_xattr(object).tried("list its attributes")? {
            // What the system sets by itself stays.
            if !known.starts_with(b"security.") && !entry.xattrs.iter().any(|(name, _)| *name == known) {
                upper.remove_xattr(object, &known).tried("remove an attribute")?;
            }
        }
        for (name, value) in &entry.xattrs {
            let shown = name.escape_ascii();
            if is_private(name) {
                return Err(Problem::refused(format!("its attribute {shown} means something to overlayfs")));
            }
            upper
                .set_xattr(object, name, value, XattrMode::Set)
                .map_err(|error| Problem::refused(format!("its attribute {shown} cannot be set: {error}")))?;
        }
        if stat.kind != FileKind::Symlink {
            let changes = SetAttr { permissions: Some(entry.permissions), ..SetAttr::default() };
            upper.set_attr(object, &changes).tried("set its mode")?;
        }
        Ok(())
    }

    /// Writes the content of a file: all, or its stretches of data.
    fn content(
        &mut self,
        object: &U::Object,
        size: u64,
        data: Option<&[(u64, u64)]>,
        reader: &mut Reader<impl Read>,
    ) -> Result<(), Problem> {
        const WRITE: &str = "write it";
        if size == 0 {
            return Ok(());
        }
        let file = self.target.trees.upper.open(object, Access::ReadWrite).tried(WRITE)?;
        let whole = [(0, size)];
        for (offset, length) in data.unwrap_or(&whole) {
            let mut done = 0;
            while done < *length {
                let wanted = usize::try_from(length - done).unwrap_or(usize::MAX).min(CHUNK);
                let part = self.buffer.get_mut(..wanted).unwrap_or_default();
                let got = reader.content(part)?;
                if got == 0 {
                    return Err(Problem::refused("it is shorter than its header says"));
                }
                write_data(&file, offset + done, part.get(..got).unwrap_or_default()).tried(WRITE)?;
                done += got as u64;
            }
        }
        file.set_attr(&SetAttr { size: Some(size), ..SetAttr::default() }).tried(WRITE)
    }
}

/// Writes what is not zeros; `offset` counts from the beginning of the file.
fn write_data(file: &impl LayerFile, offset: u64, data: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
        let is_hole = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
        let zeros: usize = rest.chunks(HOLE).take_while(is_hole).map(<[u8]>::len).sum();
        let start = at + zeros;
        let after = data.get(start..).unwrap_or_default();
        let length: usize = after.chunks(HOLE).take_while(|block| !is_hole(block)).map(<[u8]>::len).sum();
        let mut run = after.get(..length).unwrap_or_default();
        let mut to = offset + start as u64;
        while !run.is_empty() {
            let written = file.write_at(to, run)?;
            if written == 0 {
                return Err(Errno::EIO.into());
            }
            to += written as u64;
            run = run.get(written..).unwrap_or_default();
        }
        at = start + length;
    }
    Ok(())
}
