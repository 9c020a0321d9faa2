//! What an upper that was used with another closure has of its store paths.

use super::trees::{ReadUpper, Through, Trees, present};
use super::{At, ChangesError};
use crate::layer::{Lower, Presence};
use crate::vfs::{FileKind, Name};

const READ: &str = "read";

/// The names of an upper in directories whose directories show only whole ([`Lower::shows_whole`]).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    /// Paths of directories that do not show: parts of what this lower has not.
    pub hidden: Vec<Vec<Name>>,
    /// How many objects of the upper stand in place of what the lower has.
    pub replacing: u64,
}

impl Parts {
    /// Of the directories at the root of a view.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn of<L: Lower, U: ReadUpper>(trees: Trees<'_, L, U>) -> Result<Self, ChangesError> {
        let mut parts = Self::default();
        let upper = trees.upper.root().at(READ, &[])?;
        let lower = trees.lower.root().at(READ, &[])?;
        if trees.upper.is_opaque(&upper).at(READ, &[])? {
            return Ok(parts);
        }
        for entry in trees.upper.read_dir(&upper).at(READ, &[])? {
            let path = [entry.name];
            let [name] = &path;
            let Some((above, _)) = trees.below(&lower, name).at(READ, &path)? else { continue };
            if !trees.lower.shows_whole(&above) {
                continue;
            }
            if let Presence::Present(dir) = trees.upper.presence(&upper, name).at(READ, &path)?
                && trees.upper.stat(&dir).at(READ, &path)?.kind == FileKind::Directory
                && matches!(trees.through(&dir, &path, &Through::Same).at(READ, &path)?.0, Through::Same)
            {
                parts.add(trees, &path, &dir, &above)?;
            }
        }
        parts.hidden.sort_unstable();
        Ok(parts)
    }

    fn add<L: Lower, U: ReadUpper>(
        &mut self,
        trees: Trees<'_, L, U>,
        at: &[Name],
        dir: &U::Object,
        above: &L::Object,
    ) -> Result<(), ChangesError> {
        for entry in trees.upper.read_dir(dir).at(READ, at)? {
            let path = [at, std::slice::from_ref(&entry.name)].concat();
            let found = present(trees.upper.presence(dir, &entry.name)).at(READ, &path)?;
            let Some(Presence::Present(object)) = found else { continue };
            let directory = trees.upper.stat(&object).at(READ, &path)?.kind == FileKind::Directory;
            let through = match directory {
                true => trees.through(&object, &path, &Through::Same).at(READ, &path)?.0,
                false => Through::Nothing,
            };
            if directory && trees.is_part(&object, &through, Some(above)).at(READ, &path)? {
                self.hidden.push(path);
            } else if matches!(through, Through::Nothing)
                && trees.below(above, &entry.name).at(READ, &path)?.is_some()
            {
                self.replacing += 1;
            }
        }
        Ok(())
    }
}
