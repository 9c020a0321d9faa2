//! The two trees that are compared.

use std::io;
use std::sync::Arc;

use crate::layer::dir::UpperReader;
use crate::layer::{Access, LayerFile, Lower, Presence, Redirect, Stat, Upper};
use crate::union::{Above, Below, Shows, merge};
use crate::vfs::{Errno, Name};

/// What of an upper is needed to read it.
pub trait ReadUpper: Lower {
    /// As [`Upper::presence`].
    fn presence(&self, dir: &Self::Object, name: &Name) -> io::Result<Presence<Self::Object>>;

    /// As [`Upper::is_opaque`].
    fn is_opaque(&self, dir: &Self::Object) -> io::Result<bool>;

    /// As [`Upper::redirect`].
    fn redirect(&self, dir: &Self::Object) -> io::Result<Option<Redirect>>;
}

impl<U: Upper> ReadUpper for U {
    fn presence(&self, dir: &U::Object, name: &Name) -> io::Result<Presence<U::Object>> {
        Upper::presence(self, dir, name)
    }

    fn is_opaque(&self, dir: &U::Object) -> io::Result<bool> {
        Upper::is_opaque(self, dir)
    }

    fn redirect(&self, dir: &U::Object) -> io::Result<Option<Redirect>> {
        Upper::redirect(self, dir)
    }
}

impl ReadUpper for UpperReader {
    fn presence(&self, dir: &Self::Object, name: &Name) -> io::Result<Presence<Self::Object>> {
        Self::presence(self, dir, name)
    }

    fn is_opaque(&self, dir: &Self::Object) -> io::Result<bool> {
        Self::is_opaque(self, dir)
    }

    fn redirect(&self, dir: &Self::Object) -> io::Result<Option<Redirect>> {
        Self::redirect(self, dir)
    }
}

/// A lower, the upper over it, and how the view shows the lower.
#[derive(Debug)]
pub struct Trees<'t, L, U> {
    /// What is changed.
    pub lower: &'t L,
    /// The changes.
    pub upper: &'t U,
    /// User and group that everything of the lower is shown as; `None`: its own.
    pub owner: Option<(u32, u32)>,
}

impl<L, U> Clone for Trees<'_, L, U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L, U> Copy for Trees<'_, L, U> {}

/// What shows under a name: an object of either layer.
#[derive(Clone, Debug)]
pub(in crate::view) enum Shown<UO, LO> {
    Upper(UO),
    Lower(LO),
}

/// What of the lower shows through a directory of the view.
#[derive(Clone, Debug)]
pub(in crate::view) enum Through {
    Nothing,
    /// What the lower has at the same path.
    Same,
    /// What the lower has at another path, since a directory was moved.
    Elsewhere(LowerAt),
}

/// Where in the lower is what shows through a directory of the view: `base`, and the names after the first `from`
/// of the directory's own path.
#[derive(Clone, Debug)]
pub(in crate::view) struct LowerAt {
    base: Arc<[Name]>,
    from: usize,
}

impl LowerAt {
    /// At the path `base` for a directory whose path in the view has `from` names.
    pub(in crate::view) fn new(base: &[Name], from: usize) -> Self {
        Self { base: Arc::from(base), from }
    }

    /// Where a directory whose path has `depth` names was moved from, if it was itself moved and not one above it.
    pub(super) fn moved(&self, depth: usize) -> Option<Vec<Name>> {
        (self.from == depth).then(|| self.base.to_vec())
    }

    /// The path in the lower of `path`, a path of the view below the directory that this was made for.
    pub(in crate::view) fn path(&self, path: &[Name]) -> Vec<Name> {
        self.base.iter().chain(path.get(self.from..).unwrap_or_default()).cloned().collect()
    }
}

impl<L: Lower, U: ReadUpper> Trees<'_, L, U> {
    /// The object of the lower under a name, as the view would show it.
    pub(super) fn below(&self, dir: &L::Object, name: &Name) -> io::Result<Option<(L::Object, Stat)>> {
        match present(self.lower.lookup(dir, name))? {
            Some(object) => {
                let stat = self.lower_stat(&object)?;
                Ok(Some((object, stat)))
            }
            None => Ok(None),
        }
    }

    /// What of the lower shows through a directory that the upper has at `path`, if `parent` does through the one above;
    /// and the directory of the lower, unless it is the one at `path`.
    pub(in crate::view) fn through(
        &self,
        dir: &U::Object,
        path: &[Name],
        parent: &Through,
    ) -> io::Result<(Through, Option<L::Object>)> {
        if self.upper.is_opaque(dir)? {
            return Ok((Through::Nothing, None));
        }
        let (name, above) = path.split_last().ok_or(Errno::EINVAL)?;
        let sibling = |name: &Name| match parent {
            Through::Nothing => None,
            Through::Same => Some([above, std::slice::from_ref(name)].concat()),
            Through::Elsewhere(at) => Some([at.path(above), vec![name.clone()]].concat()),
        };
        let target = match self.upper.redirect(dir)? {
            None => sibling(name),
            Some(Redirect::Sibling(other)) => sibling(&other),
            Some(Redirect::Path(target)) => Some(target),
            Some(Redirect::Nowhere) => None,
        };
        let Some(target) = target else { return Ok((Through::Nothing, None)) };
        let found = match self.lower.resolve(&target) {
            // A symbolic link on the way leads nowhere.
            Err(error) if Errno::of(&error) == Errno::ELOOP => None,
            answer => present(answer)?,
        };
        let Some(object) = found else { return Ok((Through::Nothing, None)) };
        let below = Below::of(self.lower.stat(&object)?.kind);
        if merge(Above::Directory { opaque: false }, below) != Shows::Both {
            return Ok((Through::Nothing, None));
        }
        Ok(match target == path {
            true => (Through::Same, None),
            false => (Through::Elsewhere(LowerAt::new(&target, path.len())), Some(object)),
        })
    }

    /// True for a directory of the upper that does not show, being a part of one that this lower has not; `through` is what
    /// shows through it, `above` the directory of the lower that shows through the one that it is in.
    pub(in crate::view) fn is_part(
        &self,
        dir: &U::Object,
        through: &Through,
        above: Option<&L::Object>,
    ) -> io::Result<bool> {
        let whole = above.is_some_and(|above| self.lower.shows_whole(above));
        Ok(whole && matches!(through, Through::Nothing) && !self.upper.is_opaque(dir)?)
    }

    pub(in crate::view) fn open(
        &self,
        object: &Shown<U::Object, L::Object>,
    ) -> io::Result<Box<dyn LayerFile>> {
        Ok(match object {
            Shown::Upper(object) => Box::new(self.upper.open(object, Access::Read)?),
            Shown::Lower(object) => Box::new(self.lower.open(object, Access::Read)?),
        })
    }

    pub(in crate::view) fn read_link(&self, object: &Shown<U::Object, L::Object>) -> io::Result<Vec<u8>> {
        match object {
            Shown::Upper(object) => self.upper.read_link(object),
            Shown::Lower(object) => self.lower.read_link(object),
        }
    }

    pub(in crate::view) fn list_xattr(
        &self,
        object: &Shown<U::Object, L::Object>,
    ) -> io::Result<Vec<Vec<u8>>> {
        match object {
            Shown::Upper(object) => self.upper.list_xattr(object),
            Shown::Lower(object) => self.lower.list_xattr(object),
        }
    }

    pub(in crate::view) fn get_xattr(
        &self,
        object: &Shown<U::Object, L::Object>,
        name: &[u8],
    ) -> io::Result<Vec<u8>> {
        match object {
            Shown::Upper(object) => self.upper.get_xattr(object, name),
            Shown::Lower(object) => self.lower.get_xattr(object, name),
        }
    }

    /// Metadata of an object of the lower, as the view would show them.
    pub(in crate::view) fn lower_stat(&self, object: &L::Object) -> io::Result<Stat> {
        let mut stat = self.lower.stat(object)?;
        if let Some((uid, gid)) = self.owner {
            (stat.uid, stat.gid) = (uid, gid);
        }
        Ok(stat)
    }
}

/// The answer, or `None` where there is nothing (any more).
pub(super) fn present<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
