//! Templates that nobody needs any more.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::draft::PREFIX;
use super::error::{NixStateError, Tried};
use super::template::{self, is_at, lock_alone};
use super::{NOTE, held};
use crate::store::stamped;

/// What was, or would be, removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Templates.
    pub templates: u64,
    /// Drafts of makers that were killed.
    pub drafts: u64,
    /// Space of both in bytes.
    pub bytes: u64,
}

/// Removes the templates in `dir` that no view shows and none has begun to show for `age`, and all drafts that nobody is making; with
/// `dry_run` only counts them.
///
/// # Errors
/// The first thing that could not be looked at or removed.
pub fn sweep(dir: &Path, age: Duration, dry_run: bool) -> Result<Swept, NixStateError> {
    let mut swept = Swept::default();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        answer => answer.tried("list", dir)?,
    };
    let held = held::held(dir, dry_run).tried("look for overlays in", dir)?;
    stamped::sweep(dir, NOTE, age, dry_run).tried("remove notes in", dir)?;
    for entry in entries {
        let entry = entry.tried("list", dir)?;
        if !entry.file_type().tried("list", dir)?.is_dir() {
            continue;
        }
        let path = entry.path();
        let is_draft = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let least = if is_draft { Duration::ZERO } else { age };
        let Some(bytes) = one(&path, least, &held, dry_run).tried("remove", &path)? else { continue };
        swept.bytes += bytes;
        if is_draft {
            swept.drafts += 1;
        } else {
            swept.templates += 1;
        }
    }
    Ok(swept)
}

/// Removes one if it may go; answers its space.
fn one(path: &Path, age: Duration, held: &BTreeSet<u64>, dry_run: bool) -> io::Result<Option<u64>> {
    let Some(opened) = template::open(path)? else { return Ok(None) };
    if !lock_alone(&opened)? || !is_at(opened.as_fd(), path)? {
        return Ok(None);
    }
    if held.contains(&rustix::fs::fstat(&opened)?.st_ino) {
        return Ok(None);
    }
    let used = std::fs::metadata(path)?.modified()?;
    if SystemTime::now().duration_since(used).unwrap_or_default() < age {
        return Ok(None);
    }
    let bytes = space(path)?;
    if !dry_run {
        remove(&opened, path)?;
    }
    Ok(Some(bytes))
}

/// Under the name of a draft first: nobody shall find half of a template.
fn remove(opened: &OwnedFd, path: &Path) -> io::Result<()> {
    let name = path.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
    if name.starts_with(PREFIX.as_bytes()) {
        return template::remove(opened, path);
    }
    let gone = path.with_file_name(format!("{PREFIX}{}-old", name.escape_ascii()));
    std::fs::rename(path, &gone)?;
    template::remove(opened, &gone)
}

fn space(path: &Path) -> io::Result<u64> {
    let found = std::fs::symlink_metadata(path)?;
    let mut bytes = found.blocks() * 512;
    if found.is_dir() {
        for entry in std::fs::read_dir(path)? {
            bytes += space(&entry?.path())?;
        }
    }
    Ok(bytes)
}
