//! Where the name of a member, or the target of a hard link, leads.

use super::Problem;
use crate::vfs::Name;

/// The longest path of a member, or target of a hard link, in bytes.
const PATH_MAX: usize = 1 << 16;

/// The most names that such a path may have.
const DEPTH_MAX: usize = 1 << 14;

/// What the name of a member stands for.
pub(super) enum Place {
    /// A path of the view.
    Inside(Vec<Name>),
    /// Something above or beside it.
    Outside,
}

impl Place {
    /// Where a name of an archive leads, of which the root of the view is the directory `prefix`.
    pub(super) fn of(path: &[u8], prefix: &[Name]) -> Result<Self, Problem> {
        let mut names = names_of(path)?;
        if !names.starts_with(prefix) {
            return Ok(Self::Outside);
        }
        names.drain(..prefix.len());
        Ok(Self::Inside(names))
    }
}

/// The names of a path of an archive, without `..`. One that begins with a slash is relative to the root of the archive too, as
/// each program that unpacks layers takes it.
pub(super) fn names_of(path: &[u8]) -> Result<Vec<Name>, Problem> {
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
