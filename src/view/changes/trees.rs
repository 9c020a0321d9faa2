//! The two trees that are compared.

use std::io;
use std::sync::Arc;

use crate::layer::dir::UpperReader;
use crate::layer::{Lower, Presence, Stat, Upper};
use crate::vfs::{Errno, Name};

/// What of an upper is needed to read it.
pub trait ReadUpper: Lower {
    /// As [`Upper::presence`].
    fn presence(&self, dir: &Self::Object, name: &Name) -> io::Result<Presence<Self::Object>>;

    /// As [`Upper::is_opaque`].
    fn is_opaque(&self, dir: &Self::Object) -> io::Result<bool>;
}

impl<U: Upper> ReadUpper for U {
    fn presence(&self, dir: &U::Object, name: &Name) -> io::Result<Presence<U::Object>> {
        Upper::presence(self, dir, name)
    }

    fn is_opaque(&self, dir: &U::Object) -> io::Result<bool> {
        Upper::is_opaque(self, dir)
    }
}

impl ReadUpper for UpperReader {
    fn presence(&self, dir: &Self::Object, name: &Name) -> io::Result<Presence<Self::Object>> {
        Self::presence(self, dir, name)
    }

    fn is_opaque(&self, dir: &Self::Object) -> io::Result<bool> {
        Self::is_opaque(self, dir)
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

/// Where in the lower is what shows through a directory of the view: `base`, and the names after the first `from`
/// of the directory's own path.
#[derive(Clone, Debug)]
pub(super) struct LowerAt {
    base: Arc<[Name]>,
    from: usize,
}

impl LowerAt {
    /// At the same path.
    pub(super) fn same() -> Self {
        Self { base: Arc::from([]), from: 0 }
    }

    /// The path in the lower of `path`, a path of the view below the directory that this was made for.
    pub(super) fn path(&self, path: &[Name]) -> Vec<Name> {
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

    /// Metadata of an object of the lower, as the view would show them.
    pub(super) fn lower_stat(&self, object: &L::Object) -> io::Result<Stat> {
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
