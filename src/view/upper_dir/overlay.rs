//! An upper for the kernel's overlayfs: what must be so before it is mounted over one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;

use super::error::Tried;
use super::layout::{self, Layout, TREE};
use super::meta::TreeId;
use super::{UpperDir, UpperError, WORK};
use crate::layer::dir::{self, Format, Objections};
use crate::sys;
use crate::vfs::Errno;

/// The two directories that overlayfs takes of an upper, opened for reading.
#[derive(Debug)]
pub struct OverlayUpper {
    /// Its upper directory, whose directory `nix` is the view's root.
    pub tree: OwnedFd,
    /// Its work directory: new, and empty.
    pub work: OwnedFd,
    /// The directory that both are in.
    pub directory: OwnedFd,
    /// The detached mount that both are on, for an upper with a limit; without one they are on the host's.
    pub mount: Option<OwnedFd>,
}

impl UpperDir {
    /// Tells why overlayfs cannot be mounted over it, as far as can be told without trying.
    ///
    /// # Errors
    /// [`UpperError::Unsupported`] with the reason; [`UpperError::Io`].
    pub fn may_be_overlay(&self) -> Result<(), UpperError> {
        let refuse = |why: String| UpperError::Unsupported { path: self.path.clone(), why };
        if self.meta.format != Format::Trusted {
            let why = format!("overlayfs as root cannot read its format, {}", self.meta.format.as_str());
            return Err(refuse(why));
        }
        let tree = match self.layout {
            Layout::Tree => self.open_tree()?,
            Layout::Data => {
                return Err(refuse(
                    "its directory 'data' could not be moved to 'tree/nix': make space on its disk"
                        .to_owned(),
                ));
            }
        };
        let kind = rustix::fs::fstatfs(&tree).map_err(std::io::Error::from);
        let kind = kind.tried("look at its file system", &self.path)?.f_type;
        if let Some(name) = unfit(kind) {
            return Err(refuse(format!("its file system is {name}, on which overlayfs has no upper")));
        }
        let mut told = true;
        let listed = sys::dirent::for_each_name(tree.as_fd(), |_, _, kind| {
            told &= kind != FileType::Unknown;
            Ok(())
        });
        listed.tried("list 'tree'", &self.path)?;
        if !told {
            return Err(refuse("its file system tells no types of names (xfs with ftype=0?)".to_owned()));
        }
        Ok(())
    }

    /// Makes it ready for an overlay, and answers what overlayfs takes.
    ///
    /// Redirects of an upper of before are put into the form that begins at `tree`, once. A tree that nixview did not
    /// write alone is read, once: one that could show more than the closure is refused. Then the work directory is
    /// made new. Only reading may be done by [`layer`](Self::layer) afterwards.
    ///
    /// # Errors
    /// As [`may_be_overlay`](Self::may_be_overlay); [`UpperError::Refused`]; [`UpperError::Io`].
    pub fn prepare_for_overlay(&mut self) -> Result<OverlayUpper, UpperError> {
        self.may_be_overlay()?;
        self.for_overlay = true;
        let Some(base) = layout::base() else { return Err(UpperError::Missing { path: self.path.clone() }) };
        let tree = self.open_tree()?;
        self.accept(dir::check_top(tree.as_fd(), &base).tried("check 'tree'", &self.path)?)?;
        if self.meta.old_redirects {
            let root = self.layer.top();
            let changed = dir::rebase(root, &base).tried("rewrite the redirects", &self.path)?;
            if changed > 0 && !self.meta.temporary {
                sys::file::sync_filesystem(tree.as_fd()).tried("write the redirects", &self.path)?;
            }
            self.meta.old_redirects = false;
            self.meta.write(self.dir.as_fd(), &self.path)?;
        }
        let id = self.tree_id()?;
        if self.meta.own.as_ref() != Some(&id) {
            self.accept(dir::check(tree.as_fd(), &base).tried("check 'tree'", &self.path)?)?;
            self.meta.own = Some(id);
            self.meta.write(self.dir.as_fd(), &self.path)?;
        }
        let work = self.new_work()?;
        let mount = self.image.as_ref().map(|image| image.top().try_clone_to_owned()).transpose();
        let directory = self.top().try_clone_to_owned().tried("open the directory", &self.path)?;
        Ok(OverlayUpper { tree, work, directory, mount: mount.tried("open 'upper.img'", &self.path)? })
    }

    /// True once it was made ready for an overlay, whether that was a success or not: it must be opened again to be written by its
    /// layer.
    #[must_use]
    pub fn is_for_overlay(&self) -> bool {
        self.for_overlay
    }

    /// Which directory is the view's root now.
    pub(super) fn tree_id(&self) -> Result<TreeId, UpperError> {
        TreeId::of(self.layer.top(), self.image.as_ref()).tried("look at 'tree/nix'", &self.path)
    }

    fn open_tree(&self) -> Result<OwnedFd, UpperError> {
        let tree = sys::open::open_directory(self.top(), TREE)
            .and_then(|tree| sys::open::open_listing(tree.as_fd()));
        tree.tried("open 'tree'", &self.path)
    }

    fn accept(&self, objections: Objections) -> Result<(), UpperError> {
        if objections.is_empty() {
            return Ok(());
        }
        Err(UpperError::Refused { path: self.path.clone(), objections })
    }

    /// What overlayfs left in the old one, and attributes of it, are gone with it. One that has none is as new once it
    /// is empty: to make a directory is most of what a mount takes on some disks.
    fn new_work(&self) -> Result<OwnedFd, UpperError> {
        let top = self.top();
        let renew = || {
            match sys::open::open_directory(top, WORK) {
                Err(error) if Errno::of(&error) == Errno::ENOENT => {}
                work => {
                    let work = work?;
                    dir::clear(work.as_fd())?;
                    let marked = |name: &Vec<u8>| !name.starts_with(b"security.");
                    if sys::xattr::list(work.as_fd())?.iter().any(marked) {
                        sys::names::remove_directory(top, WORK)?;
                    }
                }
            }
            let (work, _) = layout::directory(top, WORK, None)?;
            sys::open::open_listing(work.as_fd())
        };
        renew().tried("make 'work'", &self.path)
    }
}

/// The name of a kind of file system that overlayfs refuses below its upper directory.
fn unfit(kind: rustix::fs::FsWord) -> Option<&'static str> {
    Some(match kind {
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "FUSE",
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x4d44 => "FAT",
        0x2011_bab0 => "exFAT",
        _ => return None,
    })
}

/// Objections as one text, a line each.
pub(super) fn told(path: &Path, objections: &Objections) -> String {
    let mut text = format!("the upper '{}' could show more than its closure:", path.display());
    for objection in &objections.first {
        text.push_str(&format!("\n  tree{}: {}", objection.path, objection.why));
    }
    let more = objections.count - objections.first.len();
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}
