//! The two trees that a view is made of, and the operations that the union needs of them.
//!
//! A [`Lower`] is read and never written. An [`Upper`] is a `Lower` that can be changed, in the on-disk terms of the
//! kernel's overlayfs (Documentation/filesystems/overlayfs.rst): a *whiteout* in place of a name hides that name in
//! the lower; an *opaque* directory hides all names of the lower directory of the same path; one with a *redirect* shows
//! a lower directory of another path. Layers know nothing of each other, of inode numbers of views, and of Nix.
//!
//! **Objects.** An [`Lower::Object`] stands for an inode of the layer, not for a name: it stays valid, and means the
//! same inode, when its name or a directory above it is moved or removed. Symbolic links are never followed, mount
//! points never crossed, devices, FIFOs and sockets never opened.
//!
//! **Errors** are `io::Error`s with the errno that the system gave. Missing names are `ENOENT`, missing attributes
//! `ENODATA`, names in what is no directory `ENOTDIR`.
//!
//! **Drafts.** Everything that an upper gains is first a [`Upper::Draft`] in the work directory, complete with owner,
//! mode, times and attributes, and becomes visible by one rename ([`Upper::publish`]). What a crash leaves in the work
//! directory is removed at the next start.
//!
//! `dir` is the layer on a disk. `mem` (a tree in memory) and `fault` (any upper that fails at the n-th change) are
//! for tests alone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::vfs::{FileKind, Name, SeekTarget, SetAttr, StatFs, Timespec, XattrMode};

mod descent;
pub mod dir;
#[cfg(any(test, feature = "test-layers"))]
pub mod fault;
#[cfg(any(test, feature = "test-layers"))]
pub mod mem;
mod redirect;
mod restore;

pub use descent::Descent;
pub use redirect::{REDIRECT_MAX, Redirect};
pub use restore::Restore;

/// The metadata of an object, as the layer has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Inode number within the layer; unique among the objects that exist at one time.
    pub ino: u64,
    /// File, directory, … A whiteout shows as what it is on disk, usually a character device 0:0; so use
    /// [`Upper::presence`] to tell it from a device that a program made.
    pub kind: FileKind,
    /// Low 12 bits of the mode.
    pub permissions: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub block_size: u32,
    /// Last access.
    pub atime: Timespec,
    /// Last change of the content.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
}

/// What a name in a directory listing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// An object of this kind; a character device 0:0 of an upper may be listed as a regular file.
    Object(FileKind),
    /// A mark that hides this name in the lower layer. Only uppers have these.
    Whiteout,
}

/// One name of a directory listing; `.` and `..` are not listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerEntry {
    /// The name.
    pub name: Name,
    /// What it is.
    pub kind: EntryKind,
    /// Inode number within the layer, as in [`Stat::ino`].
    pub ino: u64,
}

/// What an upper has under a name.
#[derive(Clone, Debug)]
pub enum Presence<O> {
    /// Nothing: what the lower has shows.
    Absent,
    /// A mark that hides what the lower has.
    Whiteout,
    /// An object.
    Present(O),
}

/// For what a file of a layer is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// An open regular file of a layer. Dropping it closes it. Safe to share between threads.
pub trait LayerFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes at `offset`, answers how much.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize>;

    /// Current metadata of the open file, also after its last name is gone.
    fn stat(&self) -> io::Result<Stat>;

    /// Changes metadata or length through the open file.
    fn set_attr(&self, changes: &SetAttr) -> io::Result<()>;

    /// Makes content (and, unless `data_only`, metadata) durable.
    fn sync(&self, data_only: bool) -> io::Result<()>;

    /// fallocate(2).
    fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()>;

    /// lseek(2) for data or a hole.
    fn seek(&self, offset: u64, target: SeekTarget) -> io::Result<u64>;

    /// The descriptor behind it, if it has one: for passthrough, and for copies within the kernel.
    fn descriptor(&self) -> Option<Arc<OwnedFd>>;
}

/// A tree that is read.
pub trait Lower: Send + Sync + 'static {
    /// An inode of this layer.
    type Object: Clone + Send + Sync + 'static;
    /// An open regular file of this layer.
    type File: LayerFile;

    /// The directory at the top.
    fn root(&self) -> io::Result<Self::Object>;

    /// The object under `name` in a directory. Uppers answer whiteouts as they are on disk: use
    /// [`Upper::presence`] there.
    fn lookup(&self, dir: &Self::Object, name: &Name) -> io::Result<Self::Object>;

    /// The object at a path below the root: no name is the root. Symbolic links on the way are `ENOTDIR` or `ELOOP`.
    fn resolve(&self, path: &[Name]) -> io::Result<Self::Object>;

    /// The metadata of an object.
    fn stat(&self, object: &Self::Object) -> io::Result<Stat>;

    /// All names of a directory, in any order.
    fn read_dir(&self, dir: &Self::Object) -> io::Result<Vec<LayerEntry>>;

    /// The target of a symbolic link.
    fn read_link(&self, object: &Self::Object) -> io::Result<Vec<u8>>;

    /// Opens a regular file. A lower answers [`Access::ReadWrite`] with `EROFS`.
    fn open(&self, object: &Self::Object, access: Access) -> io::Result<Self::File>;

    /// The value of an extended attribute. The layer's own marks are not shown: names like theirs are stored as others.
    fn get_xattr(&self, object: &Self::Object, name: &[u8]) -> io::Result<Vec<u8>>;

    /// The names of all extended attributes; without the layer's own marks.
    fn list_xattr(&self, object: &Self::Object) -> io::Result<Vec<Vec<u8>>>;

    /// Sizes of the file system that holds the layer.
    fn statfs(&self) -> io::Result<StatFs>;

    /// True for a directory whose directories show only whole: one of an upper that is not opaque is a part of one
    /// that another lower had, and shows only if this lower has that, too.
    fn shows_whole(&self, _dir: &Self::Object) -> bool {
        false
    }
}

/// What a draft is made as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewObject<'a> {
    /// An empty regular file.
    File,
    /// An empty directory; `opaque` if nothing of a lower directory may show through it.
    Directory {
        /// See [`Upper::is_opaque`].
        opaque: bool,
    },
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A device, FIFO or socket. A character device 0:0 becomes an object that is no whiteout; `EPERM` where the layer
    /// cannot tell the two apart.
    Node {
        /// Which.
        kind: FileKind,
        /// Device number; 0 for FIFOs and sockets.
        rdev: u64,
    },
}

/// A tree that is read and changed.
///
/// Changes of one directory's names are not serialised here: the caller holds the lock of the directory.
pub trait Upper: Lower {
    /// A new object that has no name yet; dropped without [`publish`](Self::publish), it is removed.
    type Draft: Send;

    /// What keeps an object's inode, as a descriptor that another process can hold; `None` for a layer that has none.
    fn descriptor<'a>(&self, object: &'a Self::Object) -> Option<BorrowedFd<'a>>;

    /// The object that such a [`descriptor`](Self::descriptor) stands for; `EOPNOTSUPP` for a layer that has none.
    fn adopt(&self, descriptor: OwnedFd) -> io::Result<Self::Object>;

    /// Removes what drafts of a process that is dead have left.
    fn clear_drafts(&self) -> io::Result<()>;

    /// True if the file system keeps access control lists, and permission bits in step with them.
    fn keeps_access_lists(&self) -> bool;

    /// What the upper has under `name`.
    fn presence(&self, dir: &Self::Object, name: &Name) -> io::Result<Presence<Self::Object>>;

    /// True if nothing of the lower directory of the same path shows through this directory.
    fn is_opaque(&self, dir: &Self::Object) -> io::Result<bool>;

    /// Marks a directory so that nothing of a lower directory shows through it, whatever else is noted with it.
    fn make_opaque(&self, dir: &Self::Object) -> io::Result<()>;

    /// Where the lower directory is that shows through this one; `None`: at the path of this one. Means nothing for an
    /// opaque directory. A value that is no path is an error, as [`Redirect::parse`] says.
    fn redirect(&self, dir: &Self::Object) -> io::Result<Option<Redirect>>;

    /// Notes with a directory where its lower directory is. `EXDEV` if that is too long, or if the upper's format has
    /// no place for it; nothing is changed then.
    fn set_redirect(&self, dir: &Self::Object, redirect: &Redirect) -> io::Result<()>;

    /// The inode number of a view that was stored with an object ([`set_origin`](Self::set_origin)).
    fn origin(&self, object: &Self::Object) -> io::Result<Option<u64>>;

    /// Stores with an object the inode number that it has in the view. Survives rename and restart.
    fn set_origin(&self, object: &Self::Object, ino: u64) -> io::Result<()>;

    /// Makes an object that nobody sees yet, with `permissions`, owner and group as given (not the server's).
    fn draft(&self, new: &NewObject<'_>, permissions: u16, uid: u32, gid: u32) -> io::Result<Self::Draft>;

    /// The object that a draft is; it stays the same when the draft is published.
    fn draft_object(&self, draft: &Self::Draft) -> Self::Object;

    /// Fills a drafted regular file with the content of `source`: a clone of its blocks (FICLONE) where the file
    /// system can, else copy_file_range(2), else read and write; holes stay holes. Answers once the length is that
    /// of `source`; on an error the draft is to be dropped.
    fn fill(&self, draft: &Self::Draft, source: &dyn LayerFile) -> io::Result<()>;

    /// Gives a draft its name, in one step, in place of whatever was there: nothing, a whiteout, a file, or a
    /// directory in which only whiteouts are left (else `ENOTEMPTY`, and nothing is changed). What it displaced is removed.
    fn publish(&self, draft: Self::Draft, dir: &Self::Object, name: &Name) -> io::Result<()>;

    /// Gives an object that is not a directory a further name, in place of nothing or of a whiteout.
    fn link(&self, object: &Self::Object, dir: &Self::Object, name: &Name) -> io::Result<()>;

    /// Removes a name in one step; a directory may hold whiteouts and nothing else (`ENOTEMPTY`). With `whiteout`,
    /// a whiteout stands in its place from that same step on, also where there was no name before.
    fn remove(&self, dir: &Self::Object, name: &Name, whiteout: bool) -> io::Result<()>;

    /// Moves a name in one step, in place of nothing, a whiteout, or an object of the fitting kind (a directory in its
    /// place may hold only whiteouts). With `whiteout`, one stands at the old name afterwards. A directory that is
    /// moved must be opaque already, or have a redirect, if anything below its new path could show through.
    fn rename(
        &self,
        from: (&Self::Object, &Name),
        to: (&Self::Object, &Name),
        whiteout: bool,
    ) -> io::Result<()>;

    /// Swaps two names in one step.
    fn exchange(&self, a: (&Self::Object, &Name), b: (&Self::Object, &Name)) -> io::Result<()>;

    /// Changes metadata of an object of any kind, symbolic links too; for a new length it must be a regular file.
    /// Each change that fails is an error.
    fn set_attr(&self, object: &Self::Object, changes: &SetAttr) -> io::Result<()>;

    /// Sets an extended attribute. The layer's own marks cannot be set: names like theirs are stored as others;
    /// `EOPNOTSUPP` if such a name is too long for that.
    fn set_xattr(&self, object: &Self::Object, name: &[u8], value: &[u8], mode: XattrMode) -> io::Result<()>;

    /// Removes an extended attribute. The layer's own marks cannot be removed.
    fn remove_xattr(&self, object: &Self::Object, name: &[u8]) -> io::Result<()>;

    /// Makes the names of a directory durable.
    fn sync_dir(&self, dir: &Self::Object) -> io::Result<()>;
}
