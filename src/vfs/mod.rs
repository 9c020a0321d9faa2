//! The vocabulary of file systems: what is asked, what is answered, and how it fails.
//!
//! Knows nothing of FUSE, of Nix and of disks, and uses no other module. [`Vfs`] is the seam between the
//! kernel's side ([`crate::fuse`]) and the logic ([`crate::union`]): plain values in and out, so that the logic
//! runs, and is tested, without a mount.

pub mod access_list;
mod error;
mod name;
mod types;

pub use error::{Errno, Error, Result};
pub use name::{NAME_MAX, Name};
pub use types::{
    Attr, Caller, DirEntry, Entry, FileKind, Flow, Generation, Handle, Ino, OpenFlags, Opened, RenameMode,
    SeekTarget, SetAttr, SetTime, StatFs, Timespec, Whereabouts, XattrMode,
};

/// A file system: one method per operation of the FUSE protocol, without the protocol.
///
/// The methods are called from several threads at once. None panics; none answers an error that it did not have.
/// Permissions have been checked by the kernel (`default_permissions`); what is left here are the rules of the
/// file system itself. Inode numbers that a method takes are ones it handed out and that were not forgotten since;
/// for any other it answers `ESTALE`.
///
/// **Lookup counts.** [`lookup`](Self::lookup), [`create`](Self::create), [`mknod`](Self::mknod),
/// [`mkdir`](Self::mkdir), [`symlink`](Self::symlink), [`link`](Self::link) and each entry that was taken from
/// [`readdir`](Self::readdir) add one to the count of the inode that they answer; [`forget`](Self::forget) takes
/// away. An inode stays known while its count is above 0, also when its last name is gone.
///
/// **Handles.** Where a `handle` is optional, `None` means that the file was never opened here (the kernel was told
/// that opens need no message): the operation then goes by inode alone.
pub trait Vfs: Send + Sync {
    /// Finds `name` in a directory; `None` if there is no such name (an answer that the kernel may keep).
    fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Entry>>;

    /// Takes `count` from an inode's lookup count; at 0 it may be dropped. Unknown inodes are ignored.
    fn forget(&self, ino: Ino, count: u64);

    /// The metadata of an inode.
    fn getattr(&self, ino: Ino, handle: Option<Handle>) -> Result<Attr>;

    /// Changes metadata and answers all of it. Copies a lower inode up first.
    ///
    /// `handle` is given when the change came through an open file (ftruncate, fchmod, futimens): then, and for
    /// changes that concern metadata alone, it never answers `ESTALE`.
    fn setattr(&self, caller: Caller, ino: Ino, handle: Option<Handle>, changes: &SetAttr) -> Result<Attr>;

    /// The target of a symbolic link, as bytes, unchanged.
    fn readlink(&self, ino: Ino) -> Result<Vec<u8>>;

    /// True if access control lists are kept and inherited: then the kernel is to check access by them.
    ///
    /// If not, the attributes that hold them ([`access_list`]) answer `EOPNOTSUPP`.
    fn keeps_access_lists(&self) -> bool;

    /// Makes a file, device, FIFO or socket. `mode` has type and permission bits, as the caller asked for them: the
    /// caller's umask, or the default list of the directory, is applied here.
    fn mknod(&self, caller: Caller, parent: Ino, name: &Name, mode: u32, rdev: u64) -> Result<Entry>;

    /// Makes a directory. `permissions` are the low 12 bits, as for [`mknod`](Self::mknod).
    fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, permissions: u16) -> Result<Entry>;

    /// Makes a symbolic link.
    fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry>;

    /// Gives an inode a further name.
    fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry>;

    /// Removes a name of anything but a directory.
    fn unlink(&self, parent: Ino, name: &Name) -> Result<()>;

    /// Removes an empty directory.
    fn rmdir(&self, parent: Ino, name: &Name) -> Result<()>;

    /// Moves a name.
    fn rename(&self, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Result<()>;

    /// Makes and opens a regular file, `permissions` as for [`mkdir`](Self::mkdir); an existing one (a race) is opened
    /// unless `O_EXCL` is set.
    fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)>;

    /// Opens a regular file. An open for writing copies a lower inode up first.
    ///
    /// `O_TRUNC` is honoured if set. Answers `ESTALE` where the name must be walked again: the inode is open on the
    /// lower layer at this moment and its copy has a number of its own.
    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened>;

    /// Reads from `offset` into `buffer`, answers how much; less than asked only at the end of the file.
    fn read(&self, ino: Ino, handle: Option<Handle>, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset` (or as much as there was room for), answers how much.
    fn write(&self, ino: Ino, handle: Option<Handle>, offset: u64, data: &[u8]) -> Result<usize>;

    /// True if a handle is open.
    fn is_open(&self, handle: Handle) -> bool;

    /// Ends an open. Unknown handles are ignored.
    fn release(&self, ino: Ino, handle: Handle);

    /// Makes a file durable; with `data_only`, what is needed to read its content back.
    fn fsync(&self, ino: Ino, handle: Option<Handle>, data_only: bool) -> Result<()>;

    /// Makes the names of a directory durable.
    fn fsyncdir(&self, ino: Ino) -> Result<()>;

    /// Lists the names of a directory that follow the one with the cookie `after` (0 lists all) to `sink`, until that is
    /// full. Every entry taken counts as a lookup if `lookups` is set.
    fn readdir(
        &self,
        ino: Ino,
        after: u64,
        lookups: bool,
        sink: &mut dyn FnMut(&DirEntry) -> Flow,
    ) -> Result<()>;

    /// The directory that holds this one; the root's is the root.
    fn parent(&self, ino: Ino) -> Result<Ino>;

    /// Where an inode is, for whoever wants to know what is used; `None` if that cannot be told. No I/O.
    fn whereabouts(&self, ino: Ino) -> Option<Whereabouts> {
        let _ = ino;
        None
    }

    /// Sizes of the file system.
    fn statfs(&self) -> Result<StatFs>;

    /// The value of an extended attribute; `ENODATA` if there is none.
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>>;

    /// The names of all extended attributes.
    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>>;

    /// Sets an extended attribute. Copies a lower inode up first. An access control list sets permission bits too.
    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;

    /// Removes an extended attribute. Copies a lower inode up first.
    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()>;

    /// Allocates or frees space; `mode` as in fallocate(2). `EOPNOTSUPP` for what the layer cannot do.
    fn fallocate(&self, ino: Ino, handle: Option<Handle>, mode: i32, offset: u64, length: u64) -> Result<()>;

    /// Finds data or a hole at or after `offset`; `ENXIO` past the end.
    fn lseek(&self, ino: Ino, handle: Option<Handle>, offset: u64, target: SeekTarget) -> Result<u64>;
}
