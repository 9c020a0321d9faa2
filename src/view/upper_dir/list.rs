//! The uppers below a directory.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::Tried;
use super::limit::{Limit, Usage};
use super::space::{self, Space};
use super::{LastView, Meta, UpperError, holder, image, layout, open_top, remove};
use crate::sys::rounds::{self, Rounds};
use crate::vfs::Errno;

/// How long an upper that is not finished is left to who may be making it, which takes milliseconds.
const LEFT_ALONE: Duration = Duration::from_secs(600);

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
    /// When it was last used; of one that is held, since when.
    pub used: Option<SystemTime>,
    /// How much it holds, if it has a limit and that can be told: not of one whose server was killed, before it is
    /// mounted again.
    pub usage: Option<Usage>,
}

impl UpperInfo {
    /// The upper at `path`; `None` if there is nothing of the kind.
    ///
    /// # Errors
    /// [`UpperError`].
    pub fn read(path: &Path) -> Result<Option<Self>, UpperError> {
        let dir = open_top(path)?;
        let Some(meta) = Meta::read(dir.as_fd(), path)? else { return Ok(None) };
        let holder = holder::ask(dir.as_fd()).tried("read 'lock'", path)?;
        let held = holder.is_some();
        let holder = holder.flatten();
        let usage = match (meta.limit, holder.and_then(|h| Some((h.pid, h.image?)))) {
            (Some(limit), mounted) if mounted.is_some() || !held => usage(dir.as_fd(), limit, mounted, path)?,
            _ => None,
        };
        let used = holder::used(dir.as_fd()).tried("look at 'lock'", path)?;
        Ok(Some(Self { path: path.to_owned(), meta, held, pid: holder.map(|h| h.pid), used, usage }))
    }

    /// What one without a limit takes, counted up to `most` objects; `None` of one that has a limit, whose
    /// [`usage`](Self::usage) tells it.
    ///
    /// # Errors
    /// [`UpperError::Io`].
    pub fn space(&self, most: u64) -> Result<Option<Space>, UpperError> {
        if self.meta.limit.is_some() { Ok(None) } else { space(&self.path, most).map(Some) }
    }

    /// What it lay over when it was last mounted, if that is noted.
    ///
    /// # Errors
    /// [`UpperError::LastView`], [`UpperError::Io`].
    pub fn last_view(&self) -> Result<Option<LastView>, UpperError> {
        LastView::read(open_top(&self.path)?.as_fd(), &self.path)
    }
}

/// What the upper at `path` takes, which has no limit, counted up to `most` objects.
///
/// # Errors
/// [`UpperError::Missing`], [`UpperError::Io`].
pub fn space(path: &Path, most: u64) -> Result<Space, UpperError> {
    const ACTION: &str = "count what is in it";
    let dir = open_top(path)?;
    let (root, _) = layout::find(dir.as_fd()).tried(ACTION, path)?;
    space::count(&root, most).tried(ACTION, path)
}

/// As [`image::usage`]; nothing of an image that is being made or removed, or of another user's server.
fn usage(
    dir: BorrowedFd<'_>,
    limit: Limit,
    mounted: Option<(u32, u32)>,
    path: &Path,
) -> Result<Option<Usage>, UpperError> {
    match image::usage(dir, limit, mounted) {
        Err(error) if matches!(Errno::of(&error), Errno::ENOENT | Errno::EACCES) => Ok(None),
        answer => answer.tried("read 'upper.img'", path),
    }
}

/// The uppers that lie directly below `parent`, by name; one that cannot be read is an error in its place. None if
/// there is no such directory.
///
/// # Errors
/// [`UpperError::Io`] if `parent` cannot be listed.
pub fn list(parent: &Path) -> Result<Vec<Result<UpperInfo, UpperError>>, UpperError> {
    Ok(directories(parent)?.iter().filter_map(|path| UpperInfo::read(path).transpose()).collect())
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>, UpperError> {
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
    Ok(paths)
}

/// The temporary uppers below `parent` that nobody serves any more: their servers were killed. Also what is left of one
/// that was being made; that tells of no holder yet, so it must have been left alone for a while.
///
/// # Errors
/// [`UpperError::Io`] if `parent` cannot be listed.
pub fn stale(parent: &Path) -> Result<Vec<PathBuf>, UpperError> {
    Ok(directories(parent)?.into_iter().filter(|path| is_stale(path)).collect())
}

fn is_stale(path: &Path) -> bool {
    match UpperInfo::read(path) {
        Ok(Some(upper)) => upper.meta.temporary && !upper.held,
        Ok(None) => is_left_alone(path),
        // Those that cannot be read are told where uppers are listed.
        Err(_) => false,
    }
}

fn is_left_alone(path: &Path) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|found| found.modified()).ok();
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|since| since >= LEFT_ALONE)
}

/// Removes the uppers that are [`stale`]. Answers those that were removed.
///
/// # Errors
/// The first that cannot be removed; the others are removed all the same.
pub fn remove_stale(parent: &Path) -> Result<Vec<PathBuf>, UpperError> {
    remove_all(stale(parent)?)
}

/// As [`remove_stale`], of the next [`PART`] uppers: it costs the same however many there are. If one of them is stale, all are
/// looked at.
///
/// # Errors
/// As [`remove_stale`].
pub fn remove_stale_part(parent: &Path, rounds: &Rounds) -> Result<Vec<PathBuf>, UpperError> {
    const ACTION: &str = "list the uppers";
    let dir = match rounds::open_directory(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        answer => answer.tried(ACTION, parent)?,
    };
    let part = rounds.next(dir.as_fd(), PART).tried(ACTION, parent)?;
    let not_held = part.names.iter().filter(|name| !holder::is_held(dir.as_fd(), name));
    let paths = not_held.map(|name| parent.join(OsStr::from_bytes(name)));
    let stale: Vec<_> = paths.filter(|path| path.is_dir() && is_stale(path)).collect();
    if stale.is_empty() || part.whole { remove_all(stale) } else { remove_stale(parent) }
}

/// How many uppers [`remove_stale_part`] looks at.
const PART: usize = 32;

fn remove_all(stale: Vec<PathBuf>) -> Result<Vec<PathBuf>, UpperError> {
    let mut removed = Vec::new();
    let mut failed = None;
    for path in stale {
        match remove(&path) {
            Ok(()) => removed.push(path),
            // Somebody else was quicker, or took it.
            Err(UpperError::Missing { .. } | UpperError::Busy { .. }) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(removed), Err)
}
