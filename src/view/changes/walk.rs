//! The walk over an upper that finds its changes.

use std::io;

use super::trees::{ReadUpper, Shown, Through, Trees, present};
use super::{At, Change, ChangesError, Extent, Facts, What};
use crate::layer::{Descent, EntryKind, Lower, Presence, Stat};
use crate::vfs::{FileKind, Name};

/// How many directories of the lower are held open on the way down; those further up are opened again when it is their
/// turn. No lower is as deep as an upper can be: Nix reaches what is in a store by its paths.
const OPEN: usize = 32;

const READ: &str = "read";

/// Calls `each` with every change at `start` and below it, a directory before what is in it, names in bytewise order.
///
/// No names in `start` are everything. Memory is bounded by the names of the directories on the way down that have
/// others after the next one, not by the tree; the path is one, whatever is below it.
///
/// # Errors
/// What cannot be read, and what `each` answers.
pub fn changes<L: Lower, U: ReadUpper>(
    trees: Trees<'_, L, U>,
    start: &[Name],
    each: &mut dyn FnMut(&Change) -> Result<(), ChangesError>,
) -> Result<(), ChangesError> {
    let upper = Descent::new(trees.upper.root().at(READ, &[])?);
    let mut walk = Walk { trees, path: Vec::new(), frames: Vec::new(), upper, from: None, each };
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

/// A directory of which names are left to be looked at.
struct Frame<LO> {
    /// How many names its path has.
    depth: usize,
    /// The names that are left, the next one last.
    names: Vec<Name>,
    has: Has,
    through: Through,
    /// `None`: to be opened again.
    below: Option<Below<LO>>,
}

/// Where a directory of the view is.
#[derive(Clone, Copy)]
struct Has {
    upper: bool,
    /// The lower has a directory at the same path, whether it shows or not.
    lower: bool,
}

/// The directories behind one of the view.
struct Objects<UO, LO> {
    upper: Option<UO>,
    below: Below<LO>,
}

/// Those of the lower.
#[derive(Clone)]
struct Below<LO> {
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
    frames: Vec<Frame<L::Object>>,
    /// The directories of the upper on the way to the current path.
    upper: Descent<U::Object>,
    /// Where the directory at the current path was moved from, if it was.
    from: Option<Vec<Name>>,
    each: &'w mut dyn FnMut(&Change) -> Result<(), ChangesError>,
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
        let below = Below { lower: Some(lower), elsewhere: None };
        self.enter(Objects { upper: Some(upper), below }, through)
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
        let objects = self.current()?;
        // A directory without further names is left before the next one is entered: a chain of them takes no frames.
        if objects.is_none() || self.frames.last().is_some_and(|frame| frame.names.is_empty()) {
            self.frames.pop();
        }
        let Some(objects) = objects else { return Ok(()) };
        self.path.push(name.clone());
        let wanted = self.path.len() >= start.len();
        let below = match &objects.below.lower {
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
        let Some(dir) = &objects.below.elsewhere else { return Ok(None) };
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
            Through::Same => directory.below.lower.as_ref(),
            Through::Elsewhere(_) => directory.below.elsewhere.as_ref(),
        };
        let part = stat.kind == FileKind::Directory
            && self.trees.is_part(&object, &through, above).at(READ, &self.path)?;
        Ok((!part).then_some(Now { object: Shown::Upper(object), stat, through, elsewhere }))
    }

    /// The objects of the current directory; `None` if it is gone meanwhile.
    fn current(&mut self) -> Result<Option<ObjectsOf<L, U>>, ChangesError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        let upper = if frame.has.upper {
            let lookup = |dir: &U::Object, name: &Name| self.trees.upper.lookup(dir, name);
            match present(self.upper.at(&self.path, lookup)).at(READ, &self.path)? {
                None => return Ok(None),
                found => found,
            }
        } else {
            None
        };
        if frame.below.is_none() {
            let resolve = |path: &[Name]| self.trees.lower.resolve(path).at(READ, path).map(Some);
            let lower = if frame.has.lower { resolve(&self.path)? } else { None };
            let elsewhere = match &frame.through {
                Through::Elsewhere(at) => resolve(&at.path(&self.path))?,
                Through::Nothing | Through::Same => None,
            };
            frame.below = Some(Below { lower, elsewhere });
        }
        Ok(frame.below.clone().map(|below| Objects { upper, below }))
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
        let below = Below { lower: under, elsewhere: now.elsewhere };
        self.enter(Objects { upper, below }, now.through)
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
        // Lent, not copied: a copy for each level of a deep tree is quadratic.
        let change = Change { path: std::mem::take(&mut self.path), what, before, after, from };
        let answer = (self.each)(&change);
        self.path = change.path;
        answer
    }

    /// Makes a directory the current one.
    fn enter(&mut self, objects: ObjectsOf<L, U>, through: Through) -> Result<(), ChangesError> {
        let mut names: Vec<Name> = Vec::new();
        if let Some(upper) = &objects.upper {
            let listed = present(self.trees.upper.read_dir(upper)).at(READ, &self.path)?.unwrap_or_default();
            names.extend(listed.into_iter().map(|entry| entry.name));
        }
        if !matches!(through, Through::Same) {
            for lower in [&objects.below.lower, &objects.below.elsewhere].into_iter().flatten() {
                let listed = self.trees.lower.read_dir(lower).at(READ, &self.path)?;
                names.extend(listed.into_iter().map(|entry| entry.name));
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        if let Some(far) = self.frames.len().checked_sub(OPEN).and_then(|at| self.frames.get_mut(at)) {
            far.below = None;
        }
        let has = Has { upper: objects.upper.is_some(), lower: objects.below.lower.is_some() };
        let depth = self.path.len();
        if let Some(upper) = objects.upper.filter(|_| depth > 0) {
            self.upper.up(depth - 1);
            self.upper.down(depth, upper);
        }
        names.shrink_to_fit();
        self.frames.push(Frame { depth, names, has, through, below: Some(objects.below) });
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
        // One path is shared; of each directory above it are kept the names that are left.
        let mut path = self.path.clone();
        let mut left: Vec<(usize, Vec<Name>)> = Vec::new();
        loop {
            let dir = self.trees.lower.resolve(&path).at(READ, &path)?;
            let mut directories = Vec::new();
            for entry in self.trees.lower.read_dir(&dir).at(READ, &path)? {
                extent.names += 1;
                match entry.kind {
                    EntryKind::Object(FileKind::Directory) => directories.push(entry.name),
                    EntryKind::Object(FileKind::Regular | FileKind::Symlink) => {
                        let found = self.trees.below(&dir, &entry.name).at(READ, &path)?;
                        extent.bytes += found.map_or(0, |(_, stat)| stat.size);
                    }
                    _ => {}
                }
            }
            left.push((path.len(), directories));
            let next = loop {
                let Some((depth, names)) = left.last_mut() else { break None };
                match names.pop() {
                    Some(name) => break Some((*depth, name)),
                    None => drop(left.pop()),
                }
            };
            let Some((depth, name)) = next else { break };
            path.truncate(depth);
            path.push(name);
        }
        Ok(extent)
    }
}
