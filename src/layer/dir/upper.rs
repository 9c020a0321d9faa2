//! The upper: a tree on a disk that is changed, and its work directory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::work::Work;
use super::{
    CopyCounts, DirDraft, DirFile, DirObject, Format, draft, error, fill, marks, probe, publish, read,
    unless, whiteout, write,
};
use crate::layer::{Access, LayerEntry, LayerFile, Lower, NewObject, Presence, Redirect, Stat, Upper};
use crate::sys;
use crate::vfs::{Errno, FileKind, Name, SetAttr, StatFs, XattrMode};

/// What a file system offers at most, whatever it says: it was made so that it ends there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling {
    /// Blocks of the file system.
    pub blocks: u64,
    /// Inodes; all that there are if it is absent.
    pub files: Option<u64>,
}

impl Ceiling {
    /// Puts it in place of what statfs(2) says of the whole; what is free is free.
    fn apply(self, sizes: StatFs) -> StatFs {
        let available = sizes.blocks_available.min(self.blocks);
        let files = self.files.unwrap_or(sizes.files);
        let files_free = sizes.files_free.min(files);
        let blocks = self.blocks;
        StatFs { blocks, blocks_free: available, blocks_available: available, files, files_free, ..sizes }
    }
}

/// A directory tree that is read and changed; a clone of it is the same tree.
///
/// Nobody else may change it meanwhile, nor use the work directory; who opens it makes sure of that by a lock of his
/// own. Names from the tree are never trusted: see the head of the module for how they are opened.
#[derive(Clone, Debug)]
pub struct DirUpper {
    pub(super) root: DirObject,
    pub(super) work: Arc<Work>,
    pub(super) format: Format,
    pub(super) access_lists: bool,
    pub(super) copies: Arc<fill::Counters>,
    pub(super) ceiling: Option<Ceiling>,
    pub(super) base: Option<Name>,
}

impl DirUpper {
    /// An upper whose top is the directory `data`, with a work directory of the same file system that is emptied now.
    ///
    /// `format` is the one that the upper has, which a full disk does not disprove; `None` probes for the best that works here, for a new one.
    ///
    /// # Errors
    /// `ENOTDIR`, `EXDEV` if the two are not directories of one mount; `Unsupported`, with a message for people, if
    /// the file system or the privilege does not allow `format`, or any.
    pub fn open(data: &impl AsFd, work: &impl AsFd, format: Option<Format>) -> io::Result<Self> {
        Self::open_with(data, work, |work| match format {
            None => probe::best(work),
            Some(format) if still_works(work, format)? => Ok(format),
            Some(format) => Err(refused(format)),
        })
    }

    /// As [`open`](Self::open) of an upper that was opened before on this very file system, which can do what it could: only what
    /// this process may do is tried again. To make and remove names for a trial takes most of the time.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_again(data: &impl AsFd, work: &impl AsFd, format: Format) -> io::Result<Self> {
        Self::open_with(data, work, |work| match probe::may_mark(work, format)? {
            true => Ok(format),
            false => Err(refused(format)),
        })
    }

    fn open_with(
        data: &impl AsFd,
        work: &impl AsFd,
        choose: impl FnOnce(&Arc<Work>) -> io::Result<Format>,
    ) -> io::Result<Self> {
        let root = DirObject::new(sys::open::open_directory(data.as_fd(), b".")?);
        let work = sys::open::open_directory(work.as_fd(), b".")?;
        let (of_data, of_work) = (sys::stat::stat(root.as_fd())?, sys::stat::stat(work.as_fd())?);
        let device = |s: &rustix::fs::Statx| (s.stx_dev_major, s.stx_dev_minor, s.stx_mnt_id);
        if device(&of_data) != device(&of_work) || of_data.stx_ino == of_work.stx_ino {
            return Err(error(Errno::EXDEV));
        }
        let work = Arc::new(Work::open(work)?);
        let format = choose(&work)?;
        let access_lists = probe::keeps_access_lists(&root, &work)?;
        Ok(Self { root, work, format, access_lists, copies: Arc::default(), ceiling: None, base: None })
    }

    /// How this upper stores its marks.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The same, as a file system that ends at `ceiling`.
    #[must_use]
    pub fn with_ceiling(self, ceiling: Option<Ceiling>) -> Self {
        Self { ceiling, ..self }
    }

    /// The directory at its top.
    #[must_use]
    pub fn top(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The same as the directory `base` of an overlay's root: redirects that are paths begin with that name.
    #[must_use]
    pub fn with_base(self, base: Option<Name>) -> Self {
        Self { base, ..self }
    }

    /// How files were copied into it since it was opened.
    #[must_use]
    pub fn copy_counts(&self) -> CopyCounts {
        self.copies.read()
    }
}

fn refused(format: Format) -> io::Error {
    let why = format!(
        "its format is {}, which its file system or this process's privilege does not allow here",
        format.as_str()
    );
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// True if an upper's format works; also where the disk is too full to try: it did when the upper was made.
fn still_works(work: &Arc<Work>, format: Format) -> io::Result<bool> {
    let works = unless(probe::works(work, format), &[Errno::ENOSPC, Errno::EDQUOT])?;
    Ok(works.unwrap_or(true))
}

impl Lower for DirUpper {
    type Object = DirObject;
    type File = DirFile;

    fn root(&self) -> io::Result<DirObject> {
        Ok(self.root.clone())
    }

    fn lookup(&self, dir: &DirObject, name: &Name) -> io::Result<DirObject> {
        if whiteout::is_reserved(self.format, name) {
            return Err(error(Errno::ENOENT));
        }
        read::lookup(dir, name)
    }

    fn resolve(&self, path: &[Name]) -> io::Result<DirObject> {
        if path.iter().any(|name| whiteout::is_reserved(self.format, name)) {
            return Err(error(Errno::ENOENT));
        }
        read::resolve(&self.root, path)
    }

    fn stat(&self, object: &DirObject) -> io::Result<Stat> {
        read::stat_upper(object, self.format)
    }

    fn read_dir(&self, dir: &DirObject) -> io::Result<Vec<LayerEntry>> {
        read::read_dir(dir, Some(self.format))
    }

    fn read_link(&self, object: &DirObject) -> io::Result<Vec<u8>> {
        read::read_link(object)
    }

    /// Opens a regular file; `EOPNOTSUPP` for one whose content overlayfs left in its lower (`metacopy`).
    fn open(&self, object: &DirObject, access: Access) -> io::Result<DirFile> {
        marks::read(object.as_fd(), self.format)?;
        if self.stat(object)?.kind == FileKind::CharDevice {
            return Err(error(Errno::ENXIO));
        }
        match access {
            Access::Read => read::open(object, access),
            Access::ReadWrite => marks::owner_may_write(object.as_fd(), || read::open(object, access)),
        }
    }

    fn get_xattr(&self, object: &DirObject, name: &[u8]) -> io::Result<Vec<u8>> {
        read::get_xattr(object, name, self.format)
    }

    fn list_xattr(&self, object: &DirObject) -> io::Result<Vec<Vec<u8>>> {
        read::list_xattr(object, self.format)
    }

    fn statfs(&self) -> io::Result<StatFs> {
        let sizes = read::statfs(&self.root)?;
        Ok(self.ceiling.map_or(sizes, |ceiling| ceiling.apply(sizes)))
    }
}

impl Upper for DirUpper {
    type Draft = DirDraft;

    fn descriptor<'a>(&self, object: &'a DirObject) -> Option<BorrowedFd<'a>> {
        Some(object.as_fd())
    }

    fn adopt(&self, descriptor: OwnedFd) -> io::Result<DirObject> {
        Ok(DirObject::new(descriptor))
    }

    fn clear_drafts(&self) -> io::Result<()> {
        super::clear(self.work.as_fd())
    }

    fn keeps_access_lists(&self) -> bool {
        self.access_lists
    }

    fn presence(&self, dir: &DirObject, name: &Name) -> io::Result<Presence<DirObject>> {
        if whiteout::is_reserved(self.format, name) {
            return Ok(Presence::Absent);
        }
        match unless(read::lookup(dir, name), &[Errno::ENOENT])? {
            Some(object) if whiteout::is_one(&sys::stat::stat(object.as_fd())?) => Ok(Presence::Whiteout),
            Some(object) => Ok(Presence::Present(object)),
            None if self.format == Format::Files && whiteout::has_file(dir, name)? => Ok(Presence::Whiteout),
            None => Ok(Presence::Absent),
        }
    }

    /// As the trait says; `EOPNOTSUPP` for a directory that overlayfs marked with what is not supported here.
    fn is_opaque(&self, dir: &DirObject) -> io::Result<bool> {
        marks::is_opaque(dir.as_fd(), self.format)
    }

    fn make_opaque(&self, dir: &DirObject) -> io::Result<()> {
        marks::set_opaque(dir.as_fd(), self.format)
    }

    fn redirect(&self, dir: &DirObject) -> io::Result<Option<Redirect>> {
        marks::redirect(dir.as_fd(), self.format, self.base.as_ref())
    }

    fn set_redirect(&self, dir: &DirObject, redirect: &Redirect) -> io::Result<()> {
        marks::set_redirect(dir.as_fd(), self.format, self.base.as_ref(), redirect)
    }

    /// As the trait says; `EOPNOTSUPP` for an object that overlayfs marked with what is not supported here.
    fn origin(&self, object: &DirObject) -> io::Result<Option<u64>> {
        Ok(marks::read(object.as_fd(), self.format)?.origin)
    }

    fn set_origin(&self, object: &DirObject, ino: u64) -> io::Result<()> {
        marks::set_origin(object.as_fd(), self.format, ino)
    }

    fn draft(&self, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> io::Result<DirDraft> {
        draft::create(self, new, permissions, uid, gid)
    }

    fn draft_object(&self, draft: &DirDraft) -> DirObject {
        draft.object.clone()
    }

    fn fill(&self, draft: &DirDraft, source: &dyn LayerFile) -> io::Result<()> {
        fill::fill(draft, source, &self.copies)
    }

    fn publish(&self, draft: DirDraft, dir: &DirObject, name: &Name) -> io::Result<()> {
        publish::publish(self, draft, dir, name)
    }

    fn link(&self, object: &DirObject, dir: &DirObject, name: &Name) -> io::Result<()> {
        publish::link(self, object, dir, name)
    }

    fn remove(&self, dir: &DirObject, name: &Name, whiteout: bool) -> io::Result<()> {
        publish::remove(self, dir, name, whiteout)
    }

    fn rename(&self, from: (&DirObject, &Name), to: (&DirObject, &Name), whiteout: bool) -> io::Result<()> {
        publish::rename(self, from, to, whiteout)
    }

    fn exchange(&self, a: (&DirObject, &Name), b: (&DirObject, &Name)) -> io::Result<()> {
        publish::exchange(self, a, b)
    }

    fn set_attr(&self, object: &DirObject, changes: &SetAttr) -> io::Result<()> {
        write::set_attr(object, changes, self.format)
    }

    fn set_xattr(&self, object: &DirObject, name: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()> {
        write::set_xattr(object, name, value, mode, self.format)
    }

    fn remove_xattr(&self, object: &DirObject, name: &[u8]) -> io::Result<()> {
        write::remove_xattr(object, name, self.format)
    }

    fn sync_dir(&self, dir: &DirObject) -> io::Result<()> {
        let listing = sys::open::open_listing(dir.as_fd())?;
        sys::file::sync(listing.as_fd(), false)
    }
}
