//! What an import does at its end: it hides names, and sets the times of directories.

use super::super::plan::ROOT;
use super::super::{ImportError, Problem, Tried};
use super::{Apply, Imported};
use crate::layer::{Lower, Presence, Restore};
use crate::vfs::{FileKind, Name, SetAttr, SetTime};

/// What is done in the directory at a place of the plan, given the one that it is in; answers whether to go on below.
type Visit<A, O> = fn(&mut A, usize, Option<&O>) -> Result<bool, Problem>;

impl<L: Lower, U: Restore> Apply<'_, L, U> {
    /// Hides what is to be hidden, then sets the times of directories.
    pub(super) fn finish(mut self) -> Result<Imported, ImportError> {
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
