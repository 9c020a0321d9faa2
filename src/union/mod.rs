//! The union of a lower and an upper layer, as a [`Vfs`]. Knows neither FUSE nor Nix.
//!
//! What shows is the rule in `merge` applied to two trees, and nothing else: all that is kept in memory is numbers
//! and names (`inode_table`), and small caches of objects, files and listings that can be lost at any time.
//! docs/semantics.md says what programs see; docs/on-disk.md what is stored.
//!
//! **Locks**, in the order in which they may be taken:
//!
//! 1. the once-lock of a copy-up, one for each inode: a copy that takes long makes nobody wait but those who want
//!    to write to the same file;
//! 2. the topology lock: renames of directories, one at a time;
//! 3. the locks of directories: all that one operation needs, at once. They are held while names are checked and
//!    changed, and stop changes of the same directory only; lookups and listings read without, and look again
//!    if a change was made meanwhile (`Node::changes`);
//! 4. the inode table, the handles, the caches: leaves, never held over I/O.
//!
//! Objects of directories are resolved before their locks are taken: an object means its inode wherever that moves.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::layer::{Lower, Upper};
use crate::vfs::{
    Attr, Caller, DirEntry, Entry, Errno, Error, Flow, Handle, Ino, Name, OpenFlags, Opened, RenameMode,
    Result, SeekTarget, SetAttr, StatFs, Vfs, Whereabouts, XattrMode,
};

mod attr;
mod changing;
mod copy_up;
mod create;
mod handles;
mod inode_table;
mod io_file;
mod link;
mod locks;
mod lookup;
mod lru;
mod merge;
mod node;
mod number;
mod place;
mod readdir;
pub mod record;
mod remove;
mod rename;
mod resume;
mod setattr;
mod xattr;

pub(crate) use merge::{Above, Below, Shows, merge};

use handles::Handles;
use inode_table::{Dropped, Table};
use locks::KeyedLocks;
use node::Source;
use place::Caches;
use readdir::Listings;
use record::Recorder;

/// Who reads and writes the files behind the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Io {
    /// The kernel, by itself, through the descriptors that opens answer. An inode whose lower file is open so does
    /// not change its file: who opens it for writing is told to walk again (`ESTALE`).
    #[default]
    Passthrough,
    /// The caller of [`Vfs::read`] and [`Vfs::write`]. A file that is copied up is one file before and after:
    /// handles opened earlier see what is written later.
    Cached,
}

/// How a view behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// User and group that objects of the lower are shown as, and copied up as. `None`: their own. Default `None`.
    pub owner: Option<(u32, u32)>,
    /// Default [`Io::Passthrough`].
    pub io: Io,
    /// Copies are durable before they get their name, and `fsync` syncs. `false` is for uppers that nobody needs
    /// after a crash. Default `true`.
    pub durable: bool,
    /// Access control lists are kept, inherited and, by the kernel, obeyed, where the upper's file system has them;
    /// `false`: they are refused, and those in the layers count for nothing. Default `false`, since the kernel then asks
    /// for the list of the root at each look-up by others than its owner (docs/decisions).
    pub access_lists: bool,
    /// Device nodes can be made; `false`: only those that lead to no device, of the number 0:0 (others: `EPERM`). Default
    /// `true`.
    pub devices: bool,
    /// How many objects are kept open for each layer, at most. Default 128.
    pub objects: usize,
    /// How many files are kept open for reads and writes without a handle, at most. Default 32.
    pub files: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            owner: None,
            io: Io::default(),
            durable: true,
            access_lists: false,
            devices: true,
            objects: 128,
            files: 32,
        }
    }
}

/// A lower and an upper as one tree. Without an upper it is read-only: changes answer `EROFS`.
pub struct UnionFs<L: Lower, U: Upper> {
    lower: L,
    upper: Option<U>,
    lower_root: L::Object,
    upper_root: Option<U::Object>,
    options: Options,
    access_lists: bool,
    table: Mutex<Table<L::Object, U::Object>>,
    copies: KeyedLocks,
    topology: Mutex<()>,
    directories: KeyedLocks,
    caches: Caches<L::Object, U::Object>,
    handles: Handles,
    listings: Listings,
    recorder: Option<Arc<dyn Recorder>>,
}

/// What the parts of the union answer: the error number, to which [`Vfs`] adds operation, inode and name.
type Outcome<T> = std::result::Result<T, Errno>;

impl<L: Lower, U: Upper> UnionFs<L, U> {
    /// Joins two layers. Reads their roots, and nothing else.
    ///
    /// # Errors
    /// Those of reading the two roots.
    pub fn new(lower: L, upper: Option<U>, options: Options) -> io::Result<Self> {
        let lower_root = lower.root()?;
        let upper_root = upper.as_ref().map(U::root).transpose()?;
        let source = match (&upper, &upper_root) {
            (Some(upper), Some(root)) => {
                let ino = upper.stat(root)?.ino;
                if upper.is_opaque(root)? { Source::Upper(ino) } else { Source::Both(ino) }
            }
            _ => Source::Lower,
        };
        Ok(Self {
            access_lists: options.access_lists && upper.as_ref().is_some_and(U::keeps_access_lists),
            lower,
            upper,
            lower_root,
            upper_root,
            options,
            table: Mutex::new(Table::new(source)),
            copies: KeyedLocks::default(),
            topology: Mutex::new(()),
            directories: KeyedLocks::default(),
            caches: Caches::new(options.objects, options.files),
            handles: Handles::default(),
            listings: Listings::default(),
            recorder: None,
        })
    }

    /// How many inodes are known at this moment, the root included.
    pub fn known_inodes(&self) -> usize {
        self.table.lock().len()
    }

    /// How many handles are open.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    fn upper(&self) -> Outcome<&U> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    fn purge(&self, dropped: Dropped) {
        for ino in dropped.0 {
            self.caches.purge(ino);
            self.listings.purge(ino);
            if let Some(recorder) = &self.recorder {
                recorder.let_go(ino);
            }
        }
    }
}

/// Adds operation and inode to an error number.
fn of(operation: &'static str, ino: Ino) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::new(operation, ino, errno)
}

/// Adds operation, inode and name to an error number.
fn of_name<'a>(operation: &'static str, ino: Ino, name: &'a Name) -> impl FnOnce(Errno) -> Error + 'a {
    move |errno| Error::new(operation, ino, errno).at(name)
}

impl<L: Lower, U: Upper> Vfs for UnionFs<L, U> {
    fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Entry>> {
        self.find_entry(parent, name).map_err(of_name("lookup", parent, name))
    }

    fn forget(&self, ino: Ino, count: u64) {
        let dropped = self.table.lock().forget(ino, count);
        self.purge(dropped);
    }

    fn getattr(&self, ino: Ino, handle: Option<Handle>) -> Result<Attr> {
        self.attributes(ino, handle).map_err(of("getattr", ino))
    }

    fn keeps_access_lists(&self) -> bool {
        self.access_lists
    }

    fn setattr(&self, _: Caller, ino: Ino, handle: Option<Handle>, changes: &SetAttr) -> Result<Attr> {
        self.set_attributes(ino, handle, changes).map_err(of("setattr", ino))
    }

    fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        self.read_link(ino).map_err(of("readlink", ino))
    }

    fn mknod(&self, caller: Caller, parent: Ino, name: &Name, mode: u32, rdev: u64) -> Result<Entry> {
        self.make_node(caller, parent, name, mode, rdev).map_err(of_name("mknod", parent, name))
    }

    fn mkdir(&self, caller: Caller, parent: Ino, name: &Name, permissions: u16) -> Result<Entry> {
        self.make_directory(caller, parent, name, permissions).map_err(of_name("mkdir", parent, name))
    }

    fn symlink(&self, caller: Caller, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry> {
        self.make_symlink(caller, parent, name, target).map_err(of_name("symlink", parent, name))
    }

    fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry> {
        self.make_link(ino, parent, name).map_err(of_name("link", parent, name))
    }

    fn unlink(&self, parent: Ino, name: &Name) -> Result<()> {
        self.remove(parent, name, remove::Kind::Other).map_err(of_name("unlink", parent, name))
    }

    fn rmdir(&self, parent: Ino, name: &Name) -> Result<()> {
        self.remove(parent, name, remove::Kind::Directory).map_err(of_name("rmdir", parent, name))
    }

    fn rename(&self, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Result<()> {
        self.move_name(from, to, mode).map_err(of_name("rename", from.0, from.1))
    }

    fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        permissions: u16,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened)> {
        self.create_file(caller, parent, name, permissions, flags).map_err(of_name("create", parent, name))
    }

    fn open(&self, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        self.open_file(ino, flags).map_err(of("open", ino))
    }

    fn read(&self, ino: Ino, handle: Option<Handle>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.read_file(ino, handle, offset, buffer).map_err(of("read", ino))
    }

    fn write(&self, ino: Ino, handle: Option<Handle>, offset: u64, data: &[u8]) -> Result<usize> {
        self.write_file(ino, handle, offset, data).map_err(of("write", ino))
    }

    fn is_open(&self, handle: Handle) -> bool {
        self.handles.knows(handle)
    }

    fn release(&self, ino: Ino, handle: Handle) {
        self.close(ino, handle);
    }

    fn fsync(&self, ino: Ino, handle: Option<Handle>, data_only: bool) -> Result<()> {
        self.sync_file(ino, handle, data_only).map_err(of("fsync", ino))
    }

    fn fsyncdir(&self, ino: Ino) -> Result<()> {
        self.sync_directory(ino).map_err(of("fsyncdir", ino))
    }

    fn readdir(
        &self,
        ino: Ino,
        after: u64,
        lookups: bool,
        sink: &mut dyn FnMut(&DirEntry) -> Flow,
    ) -> Result<()> {
        self.list(ino, after, lookups, sink).map_err(of("readdir", ino))
    }

    fn parent(&self, ino: Ino) -> Result<Ino> {
        self.parent_of(ino).map_err(of("parent", ino))
    }

    fn whereabouts(&self, ino: Ino) -> Option<Whereabouts> {
        self.table.lock().whereabouts(ino)
    }

    fn statfs(&self) -> Result<StatFs> {
        let sizes = match &self.upper {
            Some(upper) => upper.statfs(),
            None => self.lower.statfs(),
        };
        sizes.map_err(|e| Error::new("statfs", Ino::ROOT, e.into()))
    }

    fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.get_xattr(ino, name).map_err(of("getxattr", ino))
    }

    fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.list_xattr(ino).map_err(of("listxattr", ino))
    }

    fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.set_xattr(ino, name, value, mode).map_err(of("setxattr", ino))
    }

    fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.remove_xattr(ino, name).map_err(of("removexattr", ino))
    }

    fn fallocate(&self, ino: Ino, handle: Option<Handle>, mode: i32, offset: u64, length: u64) -> Result<()> {
        self.allocate(ino, handle, mode, offset, length).map_err(of("fallocate", ino))
    }

    fn lseek(&self, ino: Ino, handle: Option<Handle>, offset: u64, target: SeekTarget) -> Result<u64> {
        self.seek(ino, handle, offset, target).map_err(of("lseek", ino))
    }
}

impl<L: Lower, U: Upper> std::fmt::Debug for UnionFs<L, U> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnionFs").field("options", &self.options).finish_non_exhaustive()
    }
}

/// An open file of either layer.
type AnyFile = Arc<dyn crate::layer::LayerFile>;
