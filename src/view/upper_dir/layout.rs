//! Where the view's root is in an upper: `tree/nix`, of which `tree` is what overlayfs takes as its upper directory.
//!
//! An overlay's root shows the roots of all its layers, so that a view is the directory `nix` in it. Uppers of before had
//! the view's root at `data`. The next holder moves it by one rename ([`settle`]); who only reads finds it at either
//! place.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;

use super::error::{Tried, UpperError};
use super::limited::has;
use crate::sys;
use crate::vfs::{Errno, Name};

/// What overlayfs takes as its upper directory, and the view's root in it.
pub(super) const TREE: &[u8] = b"tree";
pub(super) const NIX: &[u8] = b"nix";

/// The view's root in uppers of before.
pub(super) const DATA: &[u8] = b"data";

/// Where the view's root is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// `data`; redirects that are paths begin at the view's root.
    Data,
    /// `tree/nix`; redirects that are paths begin at `tree`.
    Tree,
}

impl Layout {
    /// What redirects that are paths begin with.
    pub(super) fn base(self) -> Option<Name> {
        match self {
            Self::Data => None,
            Self::Tree => base(),
        }
    }
}

/// The name of the view's root in `tree`.
pub(super) fn base() -> Option<Name> {
    Name::new(NIX).ok()
}

/// The view's root, as [`settle`] finds it.
pub(super) struct Root {
    pub(super) dir: OwnedFd,
    pub(super) layout: Layout,
    pub(super) before: Before,
}

/// What there was of the view's root before it was settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Before {
    /// Nothing.
    Missing,
    /// The root, at `data`, from where it was moved.
    Data,
    /// The root, where it is.
    There,
}

/// True if the names at the top of an upper tell that it has a tree, of either layout.
pub(super) fn has_tree(names: &[Vec<u8>]) -> bool {
    has(names, TREE) || has(names, DATA)
}

/// Where the root of a view lies that has its upper at `path`; `None` if that has none, or has it in an image.
#[must_use]
pub fn root_path(path: &Path) -> Option<PathBuf> {
    let name = |bytes| OsStr::from_bytes(bytes);
    let places = [path.join(name(TREE)).join(name(NIX)), path.join(name(DATA))];
    places.into_iter().find(|place| place.is_dir())
}

/// Opens the view's root for reading, where it is; `ENOENT` if there is none.
pub(super) fn find(top: BorrowedFd<'_>) -> io::Result<(OwnedFd, Layout)> {
    let tree = || sys::open::open_directory(top, &[TREE, NIX].join(&b'/')).map(|dir| (dir, Layout::Tree));
    match absent(tree())? {
        Some(found) => Ok(found),
        None => match absent(sys::open::open_directory(top, DATA))? {
            Some(dir) => Ok((dir, Layout::Data)),
            // It may have been moved between the two looks.
            None => tree(),
        },
    }
}

/// Opens the view's root, for who holds the upper: makes it with this owner if there is none, and moves that of an upper
/// of before to its place.
///
/// The move is one rename. Whatever ends it, the view's root is at one of the two places, and the next call goes on. Where
/// it cannot be done, since the disk is full or the mode of the root forbids its owner to move it, it stays.
pub(super) fn settle(
    top: BorrowedFd<'_>,
    path: &Path,
    owner: (u32, u32),
    durable: bool,
) -> Result<Root, UpperError> {
    let data = absent(sys::open::open_directory(top, DATA)).tried("open 'data'", path)?;
    if let Some(data) = data {
        if absent(sys::stat::stat_name(top, TREE)).tried("look at 'tree'", path)?.is_some()
            && absent(find_nested(top)).tried("open 'tree'", path)?.is_some()
        {
            let why = "it has both 'data' and 'tree/nix': move one of them away".to_owned();
            return Err(UpperError::NotAnUpper { path: path.to_owned(), why });
        }
        return match migrate(top, data.as_fd(), durable) {
            Ok(()) => Ok(Root { dir: data, layout: Layout::Tree, before: Before::Data }),
            Err(error) if stays(&error) => {
                tracing::warn!(%error, path = %path.display(), "'data' of the upper stays where it is for now");
                absent(sys::names::remove_directory(top, TREE)).tried("remove 'tree'", path)?;
                Ok(Root { dir: data, layout: Layout::Data, before: Before::There })
            }
            Err(error) => Err(error).tried("move 'data' to 'tree/nix'", path),
        };
    }
    let (tree, _) = directory(top, TREE, Some(owner)).tried("make 'tree'", path)?;
    let (dir, made) = directory(tree.as_fd(), NIX, Some(owner)).tried("make 'tree/nix'", path)?;
    let before = if made { Before::Missing } else { Before::There };
    Ok(Root { dir, layout: Layout::Tree, before })
}

fn find_nested(top: BorrowedFd<'_>) -> io::Result<rustix::fs::Statx> {
    let tree = sys::open::open_directory(top, TREE)?;
    sys::stat::stat_name(tree.as_fd(), NIX)
}

/// True for what keeps a root from being moved and not from being used.
fn stays(error: &io::Error) -> bool {
    matches!(Errno::of(error), Errno::ENOSPC | Errno::EDQUOT | Errno::EACCES | Errno::EPERM)
}

/// Moves `data` to `tree/nix`. `tree` is on the disk before the name that leads there, and that before the next step.
fn migrate(top: BorrowedFd<'_>, data: BorrowedFd<'_>, durable: bool) -> io::Result<()> {
    let sync = |dir: BorrowedFd<'_>| -> io::Result<()> {
        if durable { sys::file::sync(sys::open::open_listing(dir)?.as_fd(), false) } else { Ok(()) }
    };
    let found = sys::stat::stat(data)?;
    let (tree, _) = directory(top, TREE, None)?;
    dress(tree.as_fd(), (found.stx_uid, found.stx_gid))?;
    sync(tree.as_fd())?;
    sync(top)?;
    sys::names::rename((top, DATA), (tree.as_fd(), NIX), RenameFlags::empty())?;
    sync(tree.as_fd())?;
    sync(top)
}

/// Opens a directory, and makes it if it is missing: with mode 0755 and this owner, or private without one. True if it
/// was made.
pub(super) fn directory(
    dir: BorrowedFd<'_>,
    name: &[u8],
    owner: Option<(u32, u32)>,
) -> io::Result<(OwnedFd, bool)> {
    let made = match sys::names::create_directory(dir, name, 0o700) {
        Err(error) if Errno::of(&error) == Errno::EEXIST => false,
        answer => answer.map(|()| true)?,
    };
    let opened = sys::open::open_directory(dir, name)?;
    if let Some(owner) = owner.filter(|_| made) {
        dress(opened.as_fd(), owner)?;
    }
    Ok((opened, made))
}

/// Gives a directory that others are to see its owner and mode.
fn dress(dir: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()> {
    let now = sys::stat::stat(dir)?;
    if (now.stx_uid, now.stx_gid) != owner {
        sys::attr::set_owner(dir, Some(owner.0), Some(owner.1))?;
    }
    sys::attr::set_permissions(dir, 0o755)
}

fn absent<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if Errno::of(&error) == Errno::ENOENT => Ok(None),
        answer => answer.map(Some),
    }
}
