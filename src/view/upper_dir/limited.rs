//! Which limit an upper is to have, and the image that keeps it.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::Meta;
use super::error::{Tried, UpperError};
use super::image::{self, Image};
use super::layout::{self, has_tree};
use super::limit::{Limit, LimitChoice};
use crate::vfs::Errno;

/// The limit that an upper is to have: what is asked for, else what it has.
pub(super) fn limit(
    path: &Path,
    names: &[Vec<u8>],
    found: Option<&Meta>,
    asked: LimitChoice,
) -> Result<Option<Limit>, UpperError> {
    let refuse = |why: String| UpperError::Limit { path: path.to_owned(), why };
    let now = found.and_then(|meta| meta.limit);
    if found.is_none() && has(names, image::FILE) {
        let why = "there is no 'meta.json' beside it, which says what its limit is".to_owned();
        return Err(UpperError::Image { path: path.to_owned(), why });
    }
    if asked.is_any() && now.is_none() && (found.is_some() || has_tree(names)) {
        return Err(refuse("it was made without one: make a new upper".to_owned()));
    }
    asked.apply(now).map_err(refuse)
}

/// True if a name is among those of the directory of an upper.
pub(super) fn has(names: &[Vec<u8>], wanted: &[u8]) -> bool {
    names.iter().any(|name| name == wanted)
}

/// Opens the image of an upper that has a limit, or makes the first.
pub(super) fn open_image(
    path: &Path,
    dir: BorrowedFd<'_>,
    names: &[Vec<u8>],
    found: Option<&Meta>,
    limit: Limit,
    journal: bool,
) -> Result<Image, UpperError> {
    let unfinished = has(names, image::NEW_FILE) && !has(names, image::FILE);
    if found.is_none() || unfinished {
        return Image::make(dir, path, limit, journal);
    }
    let image = Image::open(dir, path, limit)?;
    // Nothing but a repair takes it away: an empty one in its place would hide that.
    match layout::find(image.top()) {
        Err(error) if Errno::of(&error) == Errno::ENOENT => {
            let why = "it has no directory 'tree/nix'".to_owned();
            Err(UpperError::Image { path: path.to_owned(), why })
        }
        answer => answer.map(|_| image).tried("open 'tree/nix'", path),
    }
}
