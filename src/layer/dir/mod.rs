//! A layer on a disk: a directory of any file system, reached by descriptor alone.
//!
//! [`DirLower`] reads a tree; [`DirUpper`] changes one, in the format of the kernel's overlayfs ([`Format`]). Both know
//! nothing of views and of Nix. Every name is opened by openat2(2) as a reference to an inode (`O_PATH`), through no
//! symbolic link and across no mount point; only what was found to be a regular file or a directory is opened for
//! real. No descriptors are kept here: an object is one descriptor, and who holds objects decides how many there are.
//!
//! One operation family a file: `read` and `file` serve both layers; `names` the lower; `marks` (what is noted in extended attributes), `escape` (what programs call
//! by the same names), `whiteout`, `work` (the work directory), `clear`, `probe` (which format a file system can), `draft`, `fill`,
//! `publish` (the changes of names) and `write` (of metadata) serve the upper; `survey` reads what others wrote, and `overlay`
//! judges it before the kernel's overlayfs does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::layer::{Access, LayerEntry, Lower, Stat};
use crate::vfs::{Errno, Name, StatFs};

mod clear;
mod draft;
mod escape;
mod file;
mod fill;
mod marks;
mod names;
mod overlay;
mod probe;
mod publish;
mod read;
mod reader;
mod restore;
mod survey;
mod upper;
mod walk;
mod whiteout;
mod work;
mod write;

pub use clear::clear;
pub use draft::DirDraft;
pub use file::DirFile;
pub use fill::CopyCounts;
pub use marks::Format;
use names::Names;
pub use overlay::{Objection, Objections, check, check_top, rebase};
pub use reader::UpperReader;
pub use survey::{Survey, survey};
pub use upper::{Ceiling, DirUpper};

/// An inode of a directory layer: a shared `O_PATH` descriptor. It pins the inode, whatever happens to its names.
#[derive(Clone, Debug)]
pub struct DirObject(Arc<Inode>);

#[derive(Debug)]
struct Inode {
    descriptor: OwnedFd,
    names: Names,
}

impl DirObject {
    fn new(descriptor: OwnedFd) -> Self {
        Self(Arc::new(Inode { descriptor, names: Names::default() }))
    }
}

impl AsFd for DirObject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}

/// A directory tree that is read and never written.
///
/// Nobody else may change it below its top either: an object of a directory in which names were missing remembers which names there are.
/// At the top, names may come and go, as paths of a store do.
///
/// Extended attributes are shown as overlayfs shows those of a lower: its marks of the trusted kind are not.
///
/// That nothing can be written through it, also not by a bug, is the job of the mount that its descriptor was opened
/// on: for a shared store, a detached read-only clone.
#[derive(Clone, Debug)]
pub struct DirLower {
    root: DirObject,
}

impl DirLower {
    /// A layer whose top is the directory behind `root` (`O_PATH` or opened for reading).
    ///
    /// # Errors
    /// `ENOTDIR` if it is no directory; those of openat2(2).
    pub fn new(root: &impl AsFd) -> io::Result<Self> {
        let root = crate::sys::open::open_directory(root.as_fd(), b".")?;
        Ok(Self { root: DirObject::new(root) })
    }
}

impl Lower for DirLower {
    type Object = DirObject;
    type File = DirFile;

    fn root(&self) -> io::Result<DirObject> {
        Ok(self.root.clone())
    }

    fn lookup(&self, dir: &DirObject, name: &Name) -> io::Result<DirObject> {
        if dir.0.names.lack(name) {
            return Err(error(Errno::ENOENT));
        }
        let answer = read::lookup(dir, name);
        let missing = |error: &io::Error| Errno::of(error) == Errno::ENOENT;
        if answer.as_ref().is_err_and(missing) && !Arc::ptr_eq(&dir.0, &self.root.0) {
            dir.0.names.missed(dir.as_fd());
        }
        answer
    }

    fn resolve(&self, path: &[Name]) -> io::Result<DirObject> {
        read::resolve(&self.root, path)
    }

    fn stat(&self, object: &DirObject) -> io::Result<Stat> {
        read::stat(object)
    }

    fn read_dir(&self, dir: &DirObject) -> io::Result<Vec<LayerEntry>> {
        read::read_dir(dir, None)
    }

    fn read_link(&self, object: &DirObject) -> io::Result<Vec<u8>> {
        read::read_link(object)
    }

    fn open(&self, object: &DirObject, access: Access) -> io::Result<DirFile> {
        match access {
            Access::Read => read::open(object, access),
            Access::ReadWrite => Err(error(Errno::EROFS)),
        }
    }

    fn get_xattr(&self, object: &DirObject, name: &[u8]) -> io::Result<Vec<u8>> {
        read::get_xattr(object, name, Format::Trusted)
    }

    fn list_xattr(&self, object: &DirObject) -> io::Result<Vec<Vec<u8>>> {
        read::list_xattr(object, Format::Trusted)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        read::statfs(&self.root)
    }
}

/// The `io::Error` of an errno.
fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw())
}

/// The answer, or `None` for an error with one of these numbers.
fn unless<T>(answer: io::Result<T>, errnos: &[Errno]) -> io::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if errnos.contains(&Errno::of(&error)) => Ok(None),
        Err(error) => Err(error),
    }
}
