//! The walk over an upper that finds its changes.

use std::io;

use super::trees::{ReadUpper, Shown, Through, Trees, present};
use super::{At, Change, ChangesError, Extent, Facts, What};
use crate::layer::{EntryKind, Lower, Presence, Stat};
use crate::vfs::{FileKind, Name};

/// How many directories are held open on the way down; those further up are opened again when it is their turn.
const OPEN: usize = 32;

const READ: &str = "read";

/// Calls `each` with every change at `start` and below it, a directory before what is in it, names in bytewise order.
///
/// No names in `start` are everything. Memory and descriptors are bounded by the names of the directories on the way
/// down, not by the tree.
///
/// # Errors
/// What cannot be read, and what `each` answers.
pub fn changes<L: Lower, U: ReadUpper>(
    trees: Trees<'_, L, U>,
    start: &[Name],
    each: &mut dyn FnMut(Change) -> Result<(), ChangesError>,
) -> Result<(), ChangesError> {
    let mut walk = Walk { trees, path: Vec::new(), frames: Vec::new(), from: None, each };
    walk.root(start)?;
    let mut down = start.iter();
    while !walk.frames.is_empty() {
        // Above `start` one name of each directory counts.
        if let Some(name) = down.next() {
            walk.only(name);
        }
        walk.step(start)?;
    }
    Ok(())
}

/// A directory whose names are being looked at.
struct Frame<UO, LO> {
    /// How many names its path has.
    depth: usize,
    /// The names that are left, the next one last.
    names: Vec<Name>,
    has: Has,
    through: Through,
    /// `None`: to be opened again.
    objects: Option<Objects<UO, LO>>,
}

/// Where a directory of the view is.
#[derive(Clone, Copy)]
struct Has {
    upper: bool,
    /// The lower has a directory at the same path, whether it shows or not.
    lower: bool,
}

/// The directories behind one of the view.
#[derive(Clone)]
struct Objects<UO, LO> {
    upper: Option<UO>,
    /// At the same path.
    lower: Option<LO>,
    /// What shows through, if that is [`Through::Elsewhere`].
    elsewhere: Option<LO>,
}

/// What shows at a path.
struct Now<UO, LO> {
    object: Shown<UO, LO>,
    stat: Stat,
    /// For a directory.
    through: Through,
    elsewhere: Option<LO>,
}

type NowOf<L, U> = Now<<U as Lower>::Object, <L as Lower>::Object>;
type ObjectsOf<L, U> = Objects<<U as Lower>::Object, <L as Lower>::Object>;

struct Walk<'w, L: Lower, U: ReadUpper> {
    trees: Trees<'w, L, U>,
    path: Vec<Name>,
    frames: Vec<Frame<U::Object, L::Object>>,
    /// Where the directory at the current path was moved from, if it was.
    from: Option<Vec<Name>>,
    each: &'w mut dyn FnMut(Change) -> Result<(), ChangesError>,
}

impl<L: Lower, U: ReadUpper> Walk<'_, L, U> {
    /// Opens the root, and compares its metadata if it is where the walk starts.
    fn root(&mut self, start: &[Name]) -> Result<(), ChangesError> {
        let upper = self.trees.upper.root().at(READ, &[])?;
        let lower = self.trees.lower.root().at(READ, &[])?;
        let above = self.trees.upper.stat(&upper).at(READ, &[])?;
        let mut below = self.trees.lower_stat(&lower).at(READ, &[])?;
        below.mtime = above.mtime;
        let opaque = self.trees.upper.is_opaque(&upper).at(READ, &[])?;
        let through = if opaque { Through::Nothing } else { Through::Same };
        if start.is_empty() {
            self.same_kind((&Shown::Upper(upper.clone()), &above), (&lower, &below), false)?;
        }
        self.enter(Objects { upper: Some(upper), lower: Some(lower), elsewhere: None }, through)
    }

    /// Goes on with this name of the current directory alone.
    fn only(&mut self, name: &Name) {
        if let Some(frame) = self.frames.last_mut() {
            frame.names.retain(|other| other == name);
        }
    }

    /// Looks at the next name of the current directory.
    fn step(&mut self, start: &[Name]) -> Result<(), ChangesError> {
        self.from = None;
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        self.path.truncate(frame.depth);
        let Some(name) = frame.names.pop() else {
            self.frames.pop();
            return Ok(());
        };
        let through = frame.through.clone();
        let Some(objects) = self.current()? else {
            self.frames.pop();
            return Ok(());
        };
        self.path.push(name.clone());
        let wanted = self.path.len() >= start.len();
        let below = match &objects.lower {
            Some(dir) => self.trees.below(dir, &name).at(READ, &self.path)?,
            None => None,
        };
        let presence = match &objects.upper {
            Some(dir) => present(self.trees.upper.presence(dir, &name)).at(READ, &self.path)?,
            None => None,
        };
        let now = match (presence.unwrap_or(Presence::Absent), &through) {
            (Presence::Absent, Through::Same) => return Ok(()),
            (Presence::Whiteout, _) | (Presence::Absent, Through::Nothing) => None,
            (Presence::Absent, Through::Elsewhere(_)) => self.moved(&objects, &name, through)?,
            (Presence::Present(object), parent) => self.own(object, &objects, parent)?,
        };
        match (now, below) {
            (None, Some((_, stat))) if wanted => self.deleted(&stat),
            (Some(now), below) => self.object(now, below, wanted),
            (None, _) => Ok(()),
        }
    }

    /// What shows of a directory that was moved, in which the upper has nothing under a name.
    fn moved(
        &self,
        objects: &ObjectsOf<L, U>,
        name: &Name,
        through: Through,
    ) -> Result<Option<NowOf<L, U>>, ChangesError> {
        let Some(dir) = &objects.elsewhere else { return Ok(None) };
        let found = self.trees.below(dir, name).at(READ, &self.path)?;
        Ok(found.map(|(object, stat)| {
            let elsewhere = (stat.kind == FileKind::Directory).then(|| object.clone());
            Now { object: Shown::Lower(object), stat, through, elsewhere }
        }))
    }

    /// What shows of an object of the upper.
    fn own(
        &self,
        object: U::Object,
        directory: &ObjectsOf<L, U>,
        parent: &Through,
    ) -> Result<Option<NowOf<L, U>>, ChangesError> {
        let stat = self.trees.upper.stat(&object).at(READ, &self.path)?;
        let (through, elsewhere) = match stat.kind {
            FileKind::Directory => self.trees.through(&object, &self.path, parent).at(READ, &self.path)?,
            _ => (Through::Nothing, None),
        };
        let above = match parent {
            Through::Nothing => None,
            Through::Same => directory.lower.as_ref(),
            Through::Elsewhere(_) => directory.elsewhere.as_ref(),
        };
        let part = stat.kind == FileKind::Directory
            && self.trees.is_part(&object, &through, above).at(READ, &self.path)?;
        Ok((!part).then_some(Now { object: Shown::Upper(object), stat, through, elsewhere }))
    }

    /// The objects of the current directory; `None` if it is gone meanwhile.
    fn current(&mut self) -> Result<Option<ObjectsOf<L, U>>, ChangesError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        if frame.objects.is_none() {
            let upper = match frame.has.upper {
                true => match present(self.trees.upper.resolve(&self.path)).at(READ, &self.path)? {
                    None => return Ok(None),
                    found => found,
                },
                false => None,
            };
            let resolve = |path: &[Name]| self.trees.lower.resolve(path).at(READ, path).map(Some);
            let lower = if frame.has.lower { resolve(&self.path)? } else { None };
            let elsewhere = match &frame.through {
                Through::Elsewhere(at) => resolve(&at.path(&self.path))?,
                Through::Nothing | Through::Same => None,
            };
            frame.objects = Some(Objects { upper, lower, elsewhere });
        }
        Ok(frame.objects.clone())
    }

    /// What shows at the current path, and what the lower has there.
    fn object(
        &mut self,
        now: NowOf<L, U>,
        below: Option<(L::Object, Stat)>,
        wanted: bool,
    ) -> Result<(), ChangesError> {
        let is_directory = now.stat.kind == FileKind::Directory;
        let mut under = None;
        self.from = match (&now.object, &now.through) {
            (Shown::Upper(_), Through::Elsewhere(at)) => at.moved(self.path.len()),
            _ => None,
        };
        match below {
            None if wanted => self.emit(What::Added, None, Some(Facts::of(&now.stat)))?,
            None => {}
            Some((_, below)) if below.kind != now.stat.kind && !wanted => {}
            Some((_, below)) if below.kind != now.stat.kind => {
                let what = What::TypeChanged(self.extent(&below)?);
                self.emit(what, Some(Facts::of(&below)), Some(Facts::of(&now.stat)))?;
            }
            Some((lower, mut below)) => {
                if is_directory && below.mtime != now.stat.mtime && self.names_changed(&now, &lower)? {
                    below.mtime = now.stat.mtime;
                }
                if wanted {
                    self.same_kind((&now.object, &now.stat), (&lower, &below), !is_directory)?;
                }
                under = Some(lower);
            }
        }
        if !is_directory {
            return Ok(());
        }
        let upper = match now.object {
            Shown::Upper(object) => Some(object),
            Shown::Lower(_) => None,
        };
        self.enter(Objects { upper, lower: under, elsewhere: now.elsewhere }, now.through)
    }

    /// Emits what differs between two objects of one kind, if anything does.
    fn same_kind(
        &mut self,
        upper: (&Shown<U::Object, L::Object>, &Stat),
        lower: (&L::Object, &Stat),
        content: bool,
    ) -> Result<(), ChangesError> {
        let differs = content && self.trees.content_differs(upper, lower).at(READ, &self.path)?;
        let aspects = self.trees.aspects(upper, lower).at(READ, &self.path)?;
        let what = match (differs, aspects.is_empty()) {
            (true, _) => What::Modified(aspects),
            (false, false) => What::Metadata(aspects),
            (false, true) => return Ok(()),
        };
        self.emit(what, Some(Facts::of(lower.1)), Some(Facts::of(upper.1)))
    }

    fn deleted(&mut self, stat: &Stat) -> Result<(), ChangesError> {
        let extent = self.extent(stat)?;
        self.emit(What::Deleted(extent), Some(Facts::of(stat)), None)
    }

    fn emit(&mut self, what: What, before: Option<Facts>, after: Option<Facts>) -> Result<(), ChangesError> {
        let from = self.from.take();
        (self.each)(Change { path: self.path.clone(), what, before, after, from })
    }

    /// Makes a directory the current one.
    fn enter(&mut self, objects: ObjectsOf<L, U>, through: Through) -> Result<(), ChangesError> {
        let mut names: Vec<Name> = Vec::new();
        if let Some(upper) = &objects.upper {
            let listed = present(self.trees.upper.read_dir(upper)).at(READ, &self.path)?.unwrap_or_default();
            names.extend(listed.into_iter().map(|entry| entry.name));
        }
        if !matches!(through, Through::Same) {
            for lower in [&objects.lower, &objects.elsewhere].into_iter().flatten() {
                let listed = self.trees.lower.read_dir(lower).at(READ, &self.path)?;
                names.extend(listed.into_iter().map(|entry| entry.name));
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        if let Some(far) = self.frames.len().checked_sub(OPEN).and_then(|at| self.frames.get_mut(at)) {
            far.objects = None;
        }
        let has = Has { upper: objects.upper.is_some(), lower: objects.lower.is_some() };
        self.frames.push(Frame { depth: self.path.len(), names, has, through, objects: Some(objects) });
        Ok(())
    }

    /// True if what is in a directory explains another mtime than that of the lower's: a name came or went, or
    /// something in it was replaced, or the whole was moved there.
    fn names_changed(&self, now: &NowOf<L, U>, lower: &L::Object) -> Result<bool, ChangesError> {
        let Shown::Upper(upper) = &now.object else { return Ok(true) };
        let opaque = match &now.through {
            Through::Nothing => true,
            Through::Same => false,
            Through::Elsewhere(_) => return Ok(true),
        };
        let answer = || -> io::Result<bool> {
            let mut in_both = 0;
            for entry in present(self.trees.upper.read_dir(upper))?.unwrap_or_default() {
                let below = self.trees.below(lower, &entry.name)?.map(|(_, stat)| stat.kind);
                match (entry.kind, below) {
                    (EntryKind::Object(FileKind::Directory), Some(FileKind::Directory)) => in_both += 1,
                    (EntryKind::Whiteout, None) => {}
                    _ => return Ok(true),
                }
            }
            Ok(opaque && self.trees.lower.read_dir(lower)?.len() != in_both)
        };
        answer().at(READ, &self.path)
    }

    /// How much the lower has at the current path.
    fn extent(&self, stat: &Stat) -> Result<Extent, ChangesError> {
        let mut extent = Extent { names: 1, bytes: Facts::of(stat).size };
        if stat.kind != FileKind::Directory {
            return Ok(extent);
        }
        let mut pending = vec![self.path.clone()];
        while let Some(path) = pending.pop() {
            let dir = self.trees.lower.resolve(&path).at(READ, &path)?;
            for entry in self.trees.lower.read_dir(&dir).at(READ, &path)? {
                let mut inner = path.clone();
                inner.push(entry.name.clone());
                extent.names += 1;
                match entry.kind {
                    EntryKind::Object(FileKind::Directory) => pending.push(inner),
                    EntryKind::Object(FileKind::Regular | FileKind::Symlink) => {
                        let found = self.trees.below(&dir, &entry.name).at(READ, &inner)?;
                        extent.bytes += found.map_or(0, |(_, stat)| stat.size);
                    }
                    _ => {}
                }
            }
        }
        Ok(extent)
    }
}
