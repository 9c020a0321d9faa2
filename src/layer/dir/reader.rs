//! An upper that is looked at, and not changed, by a process that does not hold it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::work::Work;
use super::{DirFile, DirObject, DirUpper, Format, error};
use crate::layer::{Access, LayerEntry, Lower, Presence, Redirect, Stat, Upper};
use crate::sys;
use crate::vfs::{Errno, Name, StatFs};

/// The tree of an upper without its work directory: read as [`DirUpper`] reads it, never changed.
///
/// Somebody else may change it meanwhile: names come and go between two calls.
#[derive(Clone, Debug)]
pub struct UpperReader(DirUpper);

impl UpperReader {
    /// Reads the upper whose top is the directory `data` and whose marks are stored as `format` says.
    ///
    /// # Errors
    /// Those of openat2(2): `ENOTDIR` if it is no directory.
    pub fn new(data: &impl AsFd, format: Format) -> io::Result<Self> {
        let root = DirObject::new(sys::open::open_directory(data.as_fd(), b".")?);
        Ok(Self(DirUpper {
            root,
            work: Arc::new(Work::none()?),
            format,
            access_lists: false,
            copies: Arc::default(),
            ceiling: None,
            base: None,
        }))
    }

    /// As [`DirUpper::with_base`].
    #[must_use]
    pub fn with_base(self, base: Option<Name>) -> Self {
        Self(self.0.with_base(base))
    }

    /// What the upper has under `name`.
    ///
    /// # Errors
    /// As [`Upper::presence`].
    pub fn presence(&self, dir: &DirObject, name: &Name) -> io::Result<Presence<DirObject>> {
        self.0.presence(dir, name)
    }

    /// True if nothing of the lower directory of the same path shows through this directory.
    ///
    /// # Errors
    /// As [`Upper::is_opaque`].
    pub fn is_opaque(&self, dir: &DirObject) -> io::Result<bool> {
        self.0.is_opaque(dir)
    }

    /// Where the lower directory is that shows through this one, if not at its path.
    ///
    /// # Errors
    /// As [`Upper::redirect`].
    pub fn redirect(&self, dir: &DirObject) -> io::Result<Option<Redirect>> {
        self.0.redirect(dir)
    }
}

impl Lower for UpperReader {
    type Object = DirObject;
    type File = DirFile;

    fn root(&self) -> io::Result<DirObject> {
        self.0.root()
    }

    fn lookup(&self, dir: &DirObject, name: &Name) -> io::Result<DirObject> {
        self.0.lookup(dir, name)
    }

    fn resolve(&self, path: &[Name]) -> io::Result<DirObject> {
        self.0.resolve(path)
    }

    fn stat(&self, object: &DirObject) -> io::Result<Stat> {
        self.0.stat(object)
    }

    fn read_dir(&self, dir: &DirObject) -> io::Result<Vec<LayerEntry>> {
        self.0.read_dir(dir)
    }

    fn read_link(&self, object: &DirObject) -> io::Result<Vec<u8>> {
        self.0.read_link(object)
    }

    fn open(&self, object: &DirObject, access: Access) -> io::Result<DirFile> {
        match access {
            Access::Read => self.0.open(object, access),
            Access::ReadWrite => Err(error(Errno::EROFS)),
        }
    }

    fn get_xattr(&self, object: &DirObject, name: &[u8]) -> io::Result<Vec<u8>> {
        self.0.get_xattr(object, name)
    }

    fn list_xattr(&self, object: &DirObject) -> io::Result<Vec<Vec<u8>>> {
        self.0.list_xattr(object)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        self.0.statfs()
    }
}
