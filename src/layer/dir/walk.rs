//! A look at every object of a tree that somebody else may have made.

use std::io;
use std::ops::ControlFlow;

use super::{DirObject, read};
use crate::layer::Descent;
use crate::vfs::{FileKind, Name};

/// Shows each object below `root` to `visit`, with its path and its kind, a directory before what is in it.
///
/// Follows no symbolic link and crosses no mount point. Takes memory in proportion to the depth and to the names beside the
/// way down, and a few hundred descriptors whatever the shape.
///
/// # Errors
/// Those of the system calls and of `visit`.
pub(super) fn walk(
    root: DirObject,
    mut visit: impl FnMut(&[Name], &DirObject, FileKind) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let mut descent = Descent::new(root);
    let mut path: Vec<Name> = Vec::new();
    // Directories to be read, the deepest last: how many names lead to each, and the last of these names.
    let mut pending: Vec<(usize, Option<Name>)> = vec![(0, None)];
    while let Some((depth, name)) = pending.pop() {
        path.truncate(depth.saturating_sub(1));
        descent.up(path.len());
        path.extend(name);
        let dir = descent.at(&path, read::lookup)?;
        for entry in read::read_dir(&dir, None)? {
            let object = read::lookup(&dir, &entry.name)?;
            let kind = read::kind(&object)?;
            path.push(entry.name);
            if visit(&path, &object, kind)?.is_break() {
                return Ok(());
            }
            let name = path.pop();
            if kind == FileKind::Directory {
                pending.push((depth + 1, name));
            }
        }
    }
    Ok(())
}

/// A path of a tree, for people.
pub(super) fn shown(path: &[Name]) -> String {
    path.iter().map(|name| format!("/{name}")).collect()
}
