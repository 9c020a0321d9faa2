//! The walk over an upper that finds its changes.

use std::io;

use super::trees::{LowerAt, ReadUpper, Trees, present};
use super::{At, Change, ChangesError, Extent, Facts, What};
use crate::layer::{EntryKind, Lower, Presence, Stat};
use crate::union::{Above, Below, Shows, merge};
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
    let mut walk = Walk { trees, path: Vec::new(), frames: Vec::new(), each };
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
    upper: Option<UO>,
    /// The directory of the lower at its path: what shows through, or in an opaque one, what it hides.
    lower: Option<LO>,
    /// Where that is; `None` if there is none.
    lower_at: Option<LowerAt>,
    opaque: bool,
}

struct Walk<'w, L: Lower, U: ReadUpper> {
    trees: Trees<'w, L, U>,
    path: Vec<Name>,
    frames: Vec<Frame<U::Object, L::Object>>,
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
        if start.is_empty() {
            self.same_kind((&upper, &above), (&lower, &below), false)?;
        }
        self.enter(upper, Some((lower, LowerAt::same())), opaque)
    }

    /// Goes on with this name of the current directory alone.
    fn only(&mut self, name: &Name) {
        if let Some(frame) = self.frames.last_mut() {
            frame.names.retain(|other| other == name);
        }
    }

    /// Looks at the next name of the current directory.
    fn step(&mut self, start: &[Name]) -> Result<(), ChangesError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        self.path.truncate(frame.depth);
        let Some(name) = frame.names.pop() else {
            self.frames.pop();
            return Ok(());
        };
        let Some((upper, lower, opaque, lower_at)) = self.current()? else {
            self.frames.pop();
            return Ok(());
        };
        self.path.push(name.clone());
        let wanted = self.path.len() >= start.len();
        let presence = match present(self.trees.upper.presence(&upper, &name)).at(READ, &self.path)? {
            Some(presence) => presence,
            None => Presence::Absent,
        };
        let below = match &lower {
            Some(dir) => self.trees.below(dir, &name).at(READ, &self.path)?,
            None => None,
        };
        let at = lower_at.filter(|_| below.is_some());
        match (presence, below) {
            (Presence::Absent, Some((_, stat))) if opaque && wanted => self.deleted(&stat, at),
            (Presence::Whiteout, Some((_, stat))) if wanted => self.deleted(&stat, at),
            (Presence::Present(object), below) => self.object(object, below.zip(at), opaque, wanted),
            _ => Ok(()),
        }
    }

    /// The objects of the current directory; `None` if it is gone meanwhile.
    #[allow(clippy::type_complexity, reason = "the parts of one frame")]
    fn current(
        &mut self,
    ) -> Result<Option<(U::Object, Option<L::Object>, bool, Option<LowerAt>)>, ChangesError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        if frame.upper.is_none() {
            let found = present(self.trees.upper.resolve(&self.path)).at(READ, &self.path)?;
            let Some(upper) = found else { return Ok(None) };
            frame.upper = Some(upper);
            if let Some(at) = &frame.lower_at {
                frame.lower = Some(self.trees.lower.resolve(&at.path(&self.path)).at(READ, &self.path)?);
            }
        }
        let Some(upper) = frame.upper.clone() else { return Ok(None) };
        Ok(Some((upper, frame.lower.clone(), frame.opaque, frame.lower_at.clone())))
    }

    /// An object of the upper, over what the lower has at its path.
    fn object(
        &mut self,
        object: U::Object,
        below: Option<((L::Object, Stat), LowerAt)>,
        hidden: bool,
        wanted: bool,
    ) -> Result<(), ChangesError> {
        let stat = self.trees.upper.stat(&object).at(READ, &self.path)?;
        let is_directory = stat.kind == FileKind::Directory;
        let opaque = is_directory && (hidden || self.trees.upper.is_opaque(&object).at(READ, &self.path)?);
        let above = if is_directory { Above::Directory { opaque } } else { Above::Other };
        match below {
            None => {
                if wanted {
                    self.emit(What::Added, None, Some(Facts::of(&stat)))?;
                }
                if is_directory { self.enter(object, None, true) } else { Ok(()) }
            }
            Some(((_, below), at)) if below.kind != stat.kind => {
                if wanted {
                    let extent = self.extent(&below, &at)?;
                    self.emit(What::TypeChanged(extent), Some(Facts::of(&below)), Some(Facts::of(&stat)))?;
                }
                if is_directory { self.enter(object, None, true) } else { Ok(()) }
            }
            Some(((lower, mut below), at)) => {
                let merged = merge(above, Below::of(below.kind)) == Shows::Both;
                if is_directory
                    && below.mtime != stat.mtime
                    && self.names_changed(&object, &lower, !merged)?
                {
                    below.mtime = stat.mtime;
                }
                if wanted {
                    self.same_kind((&object, &stat), (&lower, &below), !is_directory)?;
                }
                if is_directory { self.enter(object, Some((lower, at)), !merged) } else { Ok(()) }
            }
        }
    }

    /// Emits what differs between two objects of one kind, if anything does.
    fn same_kind(
        &mut self,
        upper: (&U::Object, &Stat),
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

    fn deleted(&mut self, stat: &Stat, at: Option<LowerAt>) -> Result<(), ChangesError> {
        let extent = match at {
            Some(at) => self.extent(stat, &at)?,
            None => Extent::default(),
        };
        self.emit(What::Deleted(extent), Some(Facts::of(stat)), None)
    }

    fn emit(&mut self, what: What, before: Option<Facts>, after: Option<Facts>) -> Result<(), ChangesError> {
        (self.each)(Change { path: self.path.clone(), what, before, after })
    }

    /// Makes a directory the current one.
    fn enter(
        &mut self,
        upper: U::Object,
        lower: Option<(L::Object, LowerAt)>,
        opaque: bool,
    ) -> Result<(), ChangesError> {
        let listed = present(self.trees.upper.read_dir(&upper)).at(READ, &self.path)?.unwrap_or_default();
        let mut names: Vec<Name> = listed.into_iter().map(|entry| entry.name).collect();
        let (lower, lower_at) = lower.unzip();
        if let Some(lower) = lower.as_ref().filter(|_| opaque) {
            let hidden = self.trees.lower.read_dir(lower).at(READ, &self.path)?;
            names.extend(hidden.into_iter().map(|entry| entry.name));
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        if let Some(far) = self.frames.len().checked_sub(OPEN).and_then(|at| self.frames.get_mut(at)) {
            (far.upper, far.lower) = (None, None);
        }
        let frame = Frame { depth: self.path.len(), names, upper: Some(upper), lower, lower_at, opaque };
        self.frames.push(frame);
        Ok(())
    }

    /// True if what is in a directory explains another mtime: a name came or went, or something in it was replaced.
    fn names_changed(
        &self,
        upper: &U::Object,
        lower: &L::Object,
        opaque: bool,
    ) -> Result<bool, ChangesError> {
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

    /// How much the lower has at the current path, which is below the directory that `at` was made for.
    fn extent(&self, stat: &Stat, at: &LowerAt) -> Result<Extent, ChangesError> {
        let mut extent = Extent { names: 1, bytes: Facts::of(stat).size };
        if stat.kind != FileKind::Directory {
            return Ok(extent);
        }
        let mut pending = vec![at.path(&self.path)];
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
