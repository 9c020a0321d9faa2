//! From an archive to an upper.

use std::borrow::Cow;
use std::io::{self, Read};

use super::entry::{Body, Entry};
use super::plan::{Plan, ROOT};
use super::read::Reader;
use super::{DIRECTORY_MARK, ImportError, OPAQUE, Problem, Tried, WHITEOUT, is_private, is_zero_device};
use crate::layer::{Access, Descent, LayerFile, Lower, NewObject, Presence, Restore};
use crate::vfs::{Errno, FileKind, Name, SetAttr, SetTime, Timespec, XattrMode};
use crate::view::changes::Trees;

/// The longest path of a member, or target of a hard link, in bytes.
const PATH_MAX: usize = 1 << 16;

/// The most names that such a path may have.
const DEPTH_MAX: usize = 1 << 14;

/// How many files with set-id bits are told by name.
const TOLD: usize = 5;

/// Set-user-id and set-group-id of a mode.
const SET_ID: u16 = 0o6000;

/// The attribute of file capabilities (capabilities(7)).
const CAPABILITIES: &[u8] = b"security.capability";

/// How much content is read at once, in bytes; and the size of the zeros that become a hole.
const CHUNK: usize = 256 * 1024;
const HOLE: usize = 4096;

const ROOT_OF: &str = "open the root";

/// How the members of an archive are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The directory of the archive that is the root of the view.
    pub prefix: Vec<Name>,
    /// Leave out members that lie elsewhere; else they are an error.
    pub skip_others: bool,
    /// The most bytes that the archive may have, uncompressed.
    pub max_size: u64,
}

/// Where they go.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t, L, U> {
    /// An upper without a name in it, and the lower that directories are taken from which the archive implies.
    pub trees: Trees<'t, L, U>,
    /// User and group of everything; `None`: as the archive says.
    pub owner: Option<(u32, u32)>,
    /// Device nodes are made; else they are an error.
    pub devices: bool,
    /// Files keep what gives other rights to a program: set-id bits, and file capabilities.
    pub set_id: bool,
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Objects that were made, one that came twice counted twice.
    pub entries: u64,
    /// Names that are hidden.
    pub whiteouts: u64,
    /// Directories of which nothing of the lower shows, by a mark.
    pub opaque: u64,
    /// Members that lie elsewhere, left out.
    pub skipped: u64,
    /// Files that the archive gives set-id bits or capabilities, whether they kept them or not.
    pub set_id: u64,
    /// The paths of the first few of these in the archive, escaped.
    pub first_set_id: Vec<String>,
}

/// Makes an empty upper hold and hide what an archive says.
///
/// Nothing in the archive is trusted: names are looked up one by one in the new upper, where no symbolic link is followed. Of two members with one
/// name the later counts. Whiteouts and opaque marks hide what the lower has, wherever in the archive they come, and nothing of the archive itself.
/// Zeros in files become holes. Nothing is synced.
///
/// # Errors
/// [`ImportError`], with the member; the upper then holds a part.
pub fn import<L: Lower, U: Restore>(
    source: &Source,
    archive: impl Read,
    target: Target<'_, L, U>,
) -> Result<Imported, ImportError> {
    let mut reader = Reader::new(archive, source.max_size);
    let root = target.trees.upper.root().tried(ROOT_OF).map_err(|problem| reader.error(problem))?;
    let mut apply = Apply {
        source,
        target,
        plan: Plan::new(),
        at: Vec::new(),
        way: Descent::new(root),
        imported: Imported::default(),
        buffer: vec![0; CHUNK],
    };
    while let Some(entry) = reader.next()? {
        if let Err(problem) = apply.member(&entry, &mut reader) {
            return Err(reader.error(problem));
        }
    }
    reader.finish()?;
    apply.finish()
}

struct Apply<'a, L, U: Lower> {
    source: &'a Source,
    target: Target<'a, L, U>,
    /// What is to be hidden, at the end: it hides nothing of the archive itself. And the times of directories, set last, since
    /// what is made in them changes them.
    plan: Plan,
    /// The directory that was last looked up, and the directories on the way there.
    at: Vec<Name>,
    way: Descent<U::Object>,
    imported: Imported,
    buffer: Vec<u8>,
}

/// What is done in the directory at a place of the plan, given the one that it is in; answers whether to go on below.
type Visit<A, O> = fn(&mut A, usize, Option<&O>) -> Result<bool, Problem>;

/// What the name of a member stands for.
enum Place {
    /// A path of the view.
    Inside(Vec<Name>),
    /// Something above or beside it.
    Outside,
}

impl<L: Lower, U: Restore> Apply<'_, L, U> {
    fn member(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<(), Problem> {
        let path = match self.place(&entry.path)? {
            Place::Inside(path) => path,
            Place::Outside => return self.outside(entry),
        };
        let Some((name, above)) = path.split_last() else { return self.root(entry) };
        if name.as_bytes() == OPAQUE {
            let place = self.plan.place(above);
            self.plan.change(place, |node| node.opaque = true);
            return Ok(());
        }
        if name.as_bytes().starts_with(DIRECTORY_MARK) {
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden =
                Name::new(hidden).map_err(|errno| Problem::refused(format!("it hides no name: {errno}")))?;
            let above = self.plan.place(above);
            let place = self.plan.inner(above, &hidden);
            self.plan.change(place, |node| node.hidden = true);
            return Ok(());
        }
        self.imported.entries += 1;
        let entry = &self.without_set_id(entry);
        let dir = self.directory(above)?.ok_or_else(|| not_a_directory(above))?;
        self.object(entry, &dir, &path, name, reader)
    }

    /// Counts a member that gives a program other rights, and takes them away unless they are to stay.
    fn without_set_id<'e>(&mut self, entry: &'e Entry) -> Cow<'e, Entry> {
        let capable = entry.xattrs.iter().any(|(name, _)| name == CAPABILITIES);
        let gives = matches!(entry.body, Body::File { .. }) && (entry.permissions & SET_ID != 0 || capable);
        if !gives {
            return Cow::Borrowed(entry);
        }
        self.imported.set_id += 1;
        if self.imported.first_set_id.len() < TOLD {
            self.imported.first_set_id.push(entry.path.escape_ascii().to_string());
        }
        if self.target.set_id {
            return Cow::Borrowed(entry);
        }
        let mut entry = entry.clone();
        entry.permissions &= !SET_ID;
        entry.xattrs.retain(|(name, _)| name != CAPABILITIES);
        Cow::Owned(entry)
    }

    /// Where a name of the archive leads.
    fn place(&self, path: &[u8]) -> Result<Place, Problem> {
        let names = names_of(path)?;
        Ok(match names.strip_prefix(self.source.prefix.as_slice()) {
            Some(inside) => Place::Inside(inside.to_vec()),
            None => Place::Outside,
        })
    }

    fn outside(&mut self, entry: &Entry) -> Result<(), Problem> {
        let names = names_of(&entry.path)?;
        let prefix = &self.source.prefix;
        // The directories that lead to the root of the view, and the archive's own.
        if prefix.starts_with(&names) && entry.body == Body::Directory {
            return Ok(());
        }
        if let Some((last, above)) = names.split_last().filter(|(_, above)| prefix.starts_with(above)) {
            let hidden = last.as_bytes().strip_prefix(WHITEOUT);
            if last.as_bytes() == OPAQUE
                || (hidden.is_some() && hidden == prefix.get(above.len()).map(Name::as_bytes))
            {
                return Err(Problem::refused("it hides the root of the view"));
            }
        }
        if self.source.skip_others {
            self.imported.skipped += 1;
            return Ok(());
        }
        let shown = prefix.iter().map(|name| format!("{name}/")).collect::<String>();
        Err(Problem::refused(format!("it does not lie in {shown}")))
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Problem> {
        if entry.body != Body::Directory {
            return Err(Problem::refused("the root of the view is a directory"));
        }
        let root = self.target.trees.upper.root().tried(ROOT_OF)?;
        self.metadata(&root, entry)?;
        self.plan.change(ROOT, |node| node.mtime = Some(entry.mtime));
        self.imported.entries += 1;
        Ok(())
    }

    /// The directory of the upper at a path; those that are not there are made, like the lower's. `None` if something else is there.
    fn directory(&mut self, path: &[Name]) -> Result<Option<U::Object>, Problem> {
        const LOOK: &str = "look up its directory";
        let upper = self.target.trees.upper;
        let common = self.at.iter().zip(path).take_while(|(one, other)| one == other).count();
        self.at.truncate(common);
        let mut dir = self.way.at(&self.at, |dir, name| upper.lookup(dir, name)).tried(LOOK)?;
        let mut place = None;
        for (index, name) in path.iter().enumerate().skip(common) {
            let next = match upper.presence(&dir, name).tried(LOOK)? {
                Presence::Present(object) => {
                    place = place.map(|above| self.plan.inner(above, name));
                    object
                }
                Presence::Absent | Presence::Whiteout => {
                    let above =
                        place.unwrap_or_else(|| self.plan.place(path.get(..index).unwrap_or_default()));
                    let inner = self.plan.inner(above, name);
                    place = Some(inner);
                    self.implied(&dir, inner, path.get(..=index).unwrap_or_default())?
                }
            };
            if upper.stat(&next).tried(LOOK)?.kind != FileKind::Directory {
                return Ok(None);
            }
            self.at.push(name.clone());
            self.way.down(self.at.len(), next.clone());
            dir = next;
        }
        Ok(Some(dir))
    }

    /// What the lower has at a path, whose place in the plan is given, if it is a directory.
    fn in_lower(&mut self, place: usize, path: &[Name]) -> Result<Option<L::Object>, Problem> {
        const LOOK: &str = "look up what it lies over";
        let lower = self.target.trees.lower;
        let found = if self.plan.above_is_not_in_lower(place) {
            None
        } else {
            match lower.resolve(path) {
                Ok(object) => {
                    let stat = lower.stat(&object).tried(LOOK)?;
                    (stat.kind == FileKind::Directory).then_some(object)
                }
                Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                    None
                }
                Err(error) => return Err(Problem::Io(LOOK, error)),
            }
        };
        self.plan.change(place, |node| node.not_in_lower = found.is_none());
        Ok(found)
    }

    /// Makes a directory that has no member of its own, the last one of `path`, in `dir`.
    fn implied(&mut self, dir: &U::Object, place: usize, path: &[Name]) -> Result<U::Object, Problem> {
        const MAKE: &str = "make its directory";
        let Trees { lower, upper, owner } = self.target.trees;
        let Some(name) = path.last() else { return Ok(dir.clone()) };
        let below = self.in_lower(place, path)?;
        let stat = below.as_ref().map(|object| lower.stat(object)).transpose().tried(MAKE)?;
        let permissions = stat.map_or(0o755, |stat| stat.permissions);
        let of_lower = stat.map(|stat| (stat.uid, stat.gid));
        let root = upper.root().and_then(|root| upper.stat(&root)).tried(MAKE)?;
        let (uid, gid) = owner.or(of_lower).unwrap_or((root.uid, root.gid));
        let new = NewObject::Directory { opaque: below.is_none() };
        let draft = upper.draft(&new, permissions, uid, gid).tried(MAKE)?;
        let object = upper.draft_object(&draft);
        if let Some(below) = &below {
            for attribute in lower.list_xattr(below).tried(MAKE)? {
                let value = lower.get_xattr(below, &attribute).tried(MAKE)?;
                upper.set_xattr(&object, &attribute, &value, XattrMode::Set).tried(MAKE)?;
            }
        }
        upper.publish(draft, dir, name).tried(MAKE)?;
        let mtime = stat.map_or(Timespec { seconds: 1, nanoseconds: 0 }, |stat| stat.mtime);
        self.plan.change(place, |node| node.mtime = Some(mtime));
        Ok(object)
    }

    /// Makes an object, in place of one that came before.
    fn object(
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
        let Place::Inside(names) = self.place(target)? else {
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
    fn metadata(&self, object: &U::Object, entry: &Entry) -> Result<(), Problem> {
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

    /// Hides what is to be hidden, then sets the times of directories.
    fn finish(mut self) -> Result<Imported, ImportError> {
        self.plan.sum_up();
        let done = self.each(Self::hide_in).and_then(|()| self.each(Self::set_time));
        done.map_err(|problem| {
            let name = self.at.iter().map(|name| format!("/{name}")).collect::<String>();
            ImportError { entry: Some(format!("{name}, at the end")), offset: 0, problem }
        })?;
        Ok(self.imported)
    }

    /// Goes through the plan, a directory before what is in it. `visit` does what is to be done in the directory at a place, the
    /// last one of the path, which is in the given one (`None`: the root); it answers whether to go on below.
    fn each(&mut self, visit: Visit<Self, U::Object>) -> Result<(), Problem> {
        let upper = self.target.trees.upper;
        let mut left = vec![(ROOT, 0)];
        while let Some((place, depth)) = left.pop() {
            let mut parent = None;
            let name = self.plan.node(place).and_then(|node| node.name.clone());
            if let Some(name) = name {
                self.at.truncate(depth - 1);
                let lookup = |dir: &U::Object, name: &Name| upper.lookup(dir, name);
                parent = Some(self.way.at(&self.at, lookup).tried("look up a directory")?);
                self.at.push(name);
            } else {
                self.at.clear();
            }
            if visit(self, place, parent.as_ref())? {
                left.extend(self.plan.below(place).map(|place| (place, depth + 1)));
            }
        }
        Ok(())
    }

    /// The directory at a place, the last one of the path, in `parent`; `None` if there is none.
    fn planned(&mut self, parent: Option<&U::Object>) -> Result<Presence<U::Object>, Problem> {
        const LOOK: &str = "look up a directory";
        let upper = self.target.trees.upper;
        let (Some(parent), Some(name)) = (parent, self.at.last()) else {
            return upper.root().tried(LOOK).map(Presence::Present);
        };
        upper.presence(parent, name).tried(LOOK)
    }

    /// Hides names of a directory, and goes on where more is to be hidden.
    fn hide_in(&mut self, place: usize, parent: Option<&U::Object>) -> Result<bool, Problem> {
        const HIDE: &str = "hide a name";
        let upper = self.target.trees.upper;
        let Some(node) = self.plan.node(place).filter(|node| node.opaque || node.hides_below) else {
            return Ok(false);
        };
        let opaque = node.opaque;
        let gone = opaque || node.hidden || self.plan.above_is_not_in_lower(place);
        let dir = match (self.planned(parent)?, parent) {
            // All in it is hidden already.
            (Presence::Whiteout, _) => return Ok(false),
            (Presence::Present(dir), _) => {
                // Below a file or a symlink nothing shows. The link is not followed.
                if upper.stat(&dir).tried(HIDE)?.kind != FileKind::Directory {
                    return Ok(false);
                }
                dir
            }
            (Presence::Absent, Some(parent)) => {
                let path = self.at.clone();
                if self.in_lower(place, &path)?.is_none() {
                    return Ok(false);
                }
                self.implied(parent, place, &path)?
            }
            (Presence::Absent, None) => return Ok(false),
        };
        if gone {
            // Nothing of the lower shows here: no directory is made below only to hide names in it.
            self.plan.change(place, |node| node.not_in_lower = true);
        }
        if !self.at.is_empty() {
            self.way.down(self.at.len(), dir.clone());
        }
        let below: Vec<Name> = self
            .plan
            .below(place)
            .filter_map(|inner| self.plan.node(inner).filter(|node| node.hidden)?.name.clone())
            .collect();
        for name in below {
            match upper.presence(&dir, &name).tried(HIDE)? {
                Presence::Absent => upper.remove(&dir, &name, true).tried(HIDE)?,
                Presence::Present(object) if upper.stat(&object).tried(HIDE)?.kind == FileKind::Directory => {
                    upper.make_opaque(&object).tried(HIDE)?;
                }
                Presence::Present(_) | Presence::Whiteout => {}
            }
            self.imported.whiteouts += 1;
        }
        if opaque {
            upper.make_opaque(&dir).tried("hide what a directory had")?;
            self.imported.opaque += 1;
        }
        Ok(true)
    }

    /// Sets the time of a directory, if it is there.
    fn set_time(&mut self, place: usize, parent: Option<&U::Object>) -> Result<bool, Problem> {
        const SET: &str = "set the time of a directory";
        let upper = self.target.trees.upper;
        let Presence::Present(dir) = self.planned(parent)? else { return Ok(false) };
        if upper.stat(&dir).tried(SET)?.kind != FileKind::Directory {
            return Ok(false);
        }
        if let Some(mtime) = self.plan.node(place).and_then(|node| node.mtime) {
            let changes = SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() };
            upper.set_attr(&dir, &changes).tried(SET)?;
        }
        if !self.at.is_empty() {
            self.way.down(self.at.len(), dir);
        }
        Ok(true)
    }
}

fn not_a_directory(path: &[Name]) -> Problem {
    let shown = path.iter().map(|name| format!("/{name}")).collect::<String>();
    Problem::refused(format!("'{shown}' is no directory in this archive"))
}

/// The names of a path of an archive, without `..`. One that begins with a slash is relative to the root of the archive too, as
/// each program that unpacks layers takes it.
fn names_of(path: &[u8]) -> Result<Vec<Name>, Problem> {
    if path.len() > PATH_MAX {
        let length = path.len();
        return Err(Problem::refused(format!("its path has {length} bytes, and may have {PATH_MAX}")));
    }
    let mut names = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Problem::refused("its path has '..'")),
            _ if names.len() == DEPTH_MAX => {
                return Err(Problem::refused(format!("its path has more than {DEPTH_MAX} names")));
            }
            part => {
                let name = Name::new(part);
                names.push(name.map_err(|errno| {
                    Problem::refused(format!("its path has a name that is none: {errno}"))
                })?);
            }
        }
    }
    Ok(names)
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
