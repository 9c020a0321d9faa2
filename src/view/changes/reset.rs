//! Taking changes back: one path of a view, with all below it, as the lower has it.

use super::trees::{Through, Trees};
use super::{At, ChangesError, shown};
use crate::layer::{EntryKind, Lower, Presence, Redirect, Restore, Stat};
use crate::vfs::{FileKind, Name, SetAttr, SetTime};

const RESET: &str = "reset";

/// What a reset did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// The upper's object, or its whiteout, is gone.
    Done,
    /// The lower shows there already.
    Unchanged,
}

/// Why a path cannot be reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// What is above it does not show as a directory: it would have to come back first.
    #[error("cannot reset '{}': '{}' is {why} in the view; reset that", shown(.path), shown(.above))]
    Above {
        /// The path.
        path: Vec<Name>,
        /// What is above it.
        above: Vec<Name>,
        /// What has become of that.
        why: &'static str,
    },
    /// The layers failed.
    #[error(transparent)]
    Changes(#[from] ChangesError),
}

/// Makes the view show at `path`, and below it, what the lower has there. `path` has at least one name.
///
/// The upper is held by the caller, and not mounted. The last step, one rename or removal, is the one that the view shows: until
/// then nothing has changed, whatever happens. Directories keep their times; with `durable` they are synced.
///
/// In an opaque directory the names that the lower has and the view does not are first hidden one by one, and then the mark goes:
/// that shows the same.
///
/// # Errors
/// [`ResetError`]; the view shows what it showed, or what was asked for.
pub fn reset<L: Lower, U: Restore>(
    trees: Trees<'_, L, U>,
    path: &[Name],
    durable: bool,
) -> Result<Reset, ResetError> {
    let Some((name, above)) = path.split_last() else { return Ok(Reset::Unchanged) };
    let reset = Resetting { trees, path, durable };
    let Some(place) = reset.walk(above)? else { return Ok(Reset::Unchanged) };
    let presence = trees.upper.presence(&place.upper, name).at(RESET, path)?;
    let below = match &place.lower {
        Some(dir) => trees.below(dir, name).at(RESET, path)?,
        None => None,
    };
    match (&presence, &below) {
        (Presence::Absent, None) => return Ok(Reset::Unchanged),
        (Presence::Absent, Some(_)) if place.covered.is_empty() => return Ok(Reset::Unchanged),
        _ => {}
    }
    if below.is_some() {
        for (depth, upper, lower) in &place.covered {
            reset.uncover(path.get(..*depth).unwrap_or_default(), upper, lower)?;
        }
    }
    // A name that an opaque directory did not have is hidden by a whiteout now.
    reset.keeping_times(above, &place.upper, || trees.upper.discard(&place.upper, name))?;
    Ok(Reset::Done)
}

struct Resetting<'r, L, U> {
    trees: Trees<'r, L, U>,
    path: &'r [Name],
    durable: bool,
}

/// The directory of a path in both layers.
struct Place<UO, LO> {
    upper: UO,
    /// The directory of the lower at the same path, whether it shows through or not.
    lower: Option<LO>,
    /// The directories on the way, itself included, through which the lower does not show though it has one there; and how many names their
    /// paths have.
    covered: Vec<(usize, UO, LO)>,
}

impl<L: Lower, U: Restore> Resetting<'_, L, U> {
    /// The directory that the upper has at `above`; `None` if the lower shows there.
    #[allow(clippy::type_complexity, reason = "a place in two layers, if there is one")]
    fn walk(&self, above: &[Name]) -> Result<Option<Place<U::Object, L::Object>>, ResetError> {
        let upper = self.trees.upper.root().at(RESET, &[])?;
        let lower = self.trees.lower.root().at(RESET, &[])?;
        let mut opaque = self.trees.upper.is_opaque(&upper).at(RESET, &[])?;
        let mut place = Place { upper, lower: Some(lower), covered: Vec::new() };
        place.cover(0, opaque);
        for (index, name) in above.iter().enumerate() {
            let here = above.get(..=index).unwrap_or_default();
            let refuse = |why| Err(ResetError::Above { path: self.path.to_vec(), above: here.to_vec(), why });
            let object = match self.trees.upper.presence(&place.upper, name).at(RESET, here)? {
                Presence::Absent if opaque => return refuse("deleted"),
                Presence::Absent => return Ok(None),
                Presence::Whiteout => return refuse("deleted"),
                Presence::Present(object) => object,
            };
            if self.trees.upper.stat(&object).at(RESET, here)?.kind != FileKind::Directory {
                return refuse("no directory");
            }
            let marked = self.trees.upper.is_opaque(&object).at(RESET, here)?;
            if !marked && self.is_moved(&object, here, opaque).at(RESET, here)? {
                return refuse("moved there");
            }
            opaque |= marked;
            let below = match &place.lower {
                Some(dir) => self.trees.below(dir, name).at(RESET, here)?,
                None => None,
            };
            place.lower = below.filter(|(_, stat)| stat.kind == FileKind::Directory).map(|(dir, _)| dir);
            place.upper = object;
            place.cover(index + 1, opaque);
        }
        Ok(Some(place))
    }

    /// True for a directory that was moved to where it is: what the lower has at its path cannot show in it too.
    fn is_moved(&self, dir: &U::Object, path: &[Name], in_opaque: bool) -> std::io::Result<bool> {
        let parent = if in_opaque { Through::Nothing } else { Through::Same };
        let moved = self.trees.upper.redirect(dir)?.is_some();
        Ok(moved && !matches!(self.trees.through(dir, path, &parent)?.0, Through::Same))
    }

    /// Makes an opaque directory one that merges with the lower's, and shows the same. So does each step.
    fn uncover(&self, path: &[Name], upper: &U::Object, lower: &L::Object) -> Result<(), ResetError> {
        let layer = self.trees.upper;
        self.keeping_times(path, upper, || {
            for entry in self.trees.lower.read_dir(lower)? {
                match layer.presence(upper, &entry.name)? {
                    Presence::Absent => layer.remove(upper, &entry.name, true)?,
                    Presence::Whiteout => {}
                    Presence::Present(object) => {
                        let both = layer.stat(&object)?.kind == FileKind::Directory
                            && entry.kind == EntryKind::Object(FileKind::Directory);
                        let rooted = matches!(layer.redirect(&object)?, Some(Redirect::Path(_)));
                        if both && !rooted && !layer.is_opaque(&object)? {
                            layer.make_opaque(&object)?;
                        }
                    }
                }
            }
            // What was moved within an opaque directory shows nothing of the lower: nor should it afterwards.
            for entry in layer.read_dir(upper)? {
                if entry.kind == EntryKind::Object(FileKind::Directory) {
                    let object = layer.lookup(upper, &entry.name)?;
                    let moved = matches!(layer.redirect(&object)?, Some(Redirect::Sibling(_)));
                    if moved && !layer.is_opaque(&object)? {
                        layer.make_opaque(&object)?;
                    }
                }
            }
            layer.make_transparent(upper)
        })
    }

    /// Changes the names of a directory, and gives it back the times that it had.
    fn keeping_times(
        &self,
        path: &[Name],
        dir: &U::Object,
        change: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), ResetError> {
        let before = self.trees.upper.stat(dir).at(RESET, path)?;
        change().at(RESET, self.path)?;
        self.trees.upper.set_attr(dir, &times_of(&before)).at(RESET, path)?;
        if self.durable {
            self.trees.upper.sync_dir(dir).at(RESET, path)?;
        }
        Ok(())
    }
}

impl<UO: Clone, LO: Clone> Place<UO, LO> {
    fn cover(&mut self, depth: usize, opaque: bool) {
        if let Some(lower) = self.lower.clone().filter(|_| opaque) {
            self.covered.push((depth, self.upper.clone(), lower));
        }
    }
}

fn times_of(stat: &Stat) -> SetAttr {
    let (atime, mtime) = (Some(SetTime::At(stat.atime)), Some(SetTime::At(stat.mtime)));
    SetAttr { atime, mtime, ..SetAttr::default() }
}
