//! The uppers below a directory.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::error::Tried;
use super::{Meta, UpperError, holder, open_top, remove};

/// An upper as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpperInfo {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub meta: Meta,
    /// True if somebody serves it.
    pub held: bool,
    /// Who, as far as it is known.
    pub pid: Option<u32>,
}

impl UpperInfo {
    /// The upper at `path`; `None` if there is nothing of the kind.
    fn read(path: &Path) -> Result<Option<Self>, UpperError> {
        let dir = open_top(path)?;
        let Some(meta) = Meta::read(dir.as_fd(), path)? else { return Ok(None) };
        let holder = holder::ask(dir.as_fd()).tried("read 'lock'", path)?;
        Ok(Some(Self { path: path.to_owned(), meta, held: holder.is_some(), pid: holder.flatten() }))
    }
}

/// The uppers that lie directly below `parent`, by name; one that cannot be read is an error in its place. None if
/// there is no such directory.
///
/// # Errors
/// [`UpperError::Io`] if `parent` cannot be listed.
pub fn list(parent: &Path) -> Result<Vec<Result<UpperInfo, UpperError>>, UpperError> {
    let names = match fs::read_dir(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        answer => answer.tried("list the uppers", parent)?,
    };
    let mut paths = Vec::new();
    for entry in names {
        let entry = entry.tried("list the uppers", parent)?;
        if entry.file_type().tried("list the uppers", parent)?.is_dir() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths.iter().filter_map(|path| UpperInfo::read(path).transpose()).collect())
}

/// Removes the temporary uppers below `parent` that nobody serves any more: their servers were killed. Answers those
/// that were removed.
///
/// # Errors
/// The first that cannot be removed; the others are removed all the same.
pub fn remove_stale(parent: &Path) -> Result<Vec<PathBuf>, UpperError> {
    let mut removed = Vec::new();
    let mut failed = None;
    for upper in list(parent)?.into_iter().flatten().filter(|upper| upper.meta.temporary && !upper.held) {
        match remove(&upper.path) {
            Ok(()) => removed.push(upper.path),
            // Somebody else was quicker, or took it.
            Err(UpperError::Missing { .. } | UpperError::Busy { .. }) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(removed), Err)
}
