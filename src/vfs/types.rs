//! The values that file system operations take and answer.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::name::Name;

/// The number of an inode within one view; it is also the FUSE node id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the view (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Tells apart two inodes that had the same number one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u64);

/// An open file of a view; never 0, so that 0 can mean "no open was asked for".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Handle(pub u64);

/// A point in time: seconds since 1970 and nanoseconds (0 to 999,999,999) after that second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timespec {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

/// What kind of object an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl FileKind {
    /// The kind in the file type bits (`S_IFMT`) of a mode; `None` for a value that Linux does not know.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::Regular,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }

    /// The file type bits (`S_IFMT`) of this kind.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
        }
    }
}

/// The metadata of an inode, as `stat` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The inode number within the view.
    pub ino: Ino,
    /// File, directory, …
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: the low 12 bits of the mode.
    pub permissions: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node (`dev_t` as Linux encodes it in user space), else 0.
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

/// What a lookup finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The metadata, with the number.
    pub attr: Attr,
    /// Of that number.
    pub generation: Generation,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The current time of the server.
    Now,
    /// This time.
    At(Timespec),
}

/// The changes that one `setattr` asks for; `None` leaves a field alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (the low 12 bits of the mode).
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}

/// Who asks: the ids that new files get, and the process for logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// File system user id; `u32::MAX` if it is not known, for operations that make nothing.
    pub uid: u32,
    /// File system group id likewise.
    pub gid: u32,
    /// Process id in the server's namespace; 0 if it is not visible there.
    pub pid: u32,
    /// Permission bits that what is made must not have, unless a default access control list says what it has; 0 where
    /// they are gone already, and for operations that make nothing.
    pub umask: u16,
}

/// How a file is opened: the flags of open(2) that concern a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags(pub i32);

impl OpenFlags {
    /// True if the file can be written through this open.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self.0 & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
    }

    /// True if the file can be read through this open.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self.0 & libc::O_ACCMODE, libc::O_RDONLY | libc::O_RDWR)
    }

    /// True if all of `flags` are set.
    #[must_use]
    pub fn has(self, flags: i32) -> bool {
        self.0 & flags == flags
    }
}

/// An open file, and the file of a layer behind it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Names this open in later calls.
    pub handle: Handle,
    /// The layer's own file, where it has a descriptor: what the kernel may read and write by itself
    /// (passthrough). All handles open at one time on one inode stand for the same file of a layer.
    pub backing: Option<Arc<OwnedFd>>,
    /// The content is that of each other open of the inode that says so, before and after: what the kernel has kept of it is true.
    pub settled: bool,
}

/// How two names are exchanged or replaced (renameat2(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replace what the new name holds.
    Replace,
    /// Fail with `EEXIST` if the new name exists (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// Whether `setxattr` may create or replace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Either.
    Set,
    /// Fail with `EEXIST` if it exists (`XATTR_CREATE`).
    Create,
    /// Fail with `ENODATA` if it does not (`XATTR_REPLACE`).
    Replace,
}

/// What lseek(2) looks for in a sparse file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTarget {
    /// The next byte that holds data (`SEEK_DATA`).
    Data,
    /// The next hole, or the end (`SEEK_HOLE`).
    Hole,
}

/// One name in a directory listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name; `.` and `..` are not listed by a [`Vfs`](super::Vfs), the rim adds them.
    pub name: Name,
    /// Where the listing continues after this entry: greater than 2, and of no other name in the listing. It leads to the
    /// same place in every listing of the directory, also by another server and while other names come and go.
    pub cookie: u64,
    /// What the name stands for.
    pub entry: Entry,
}

/// What a listing's consumer says to each entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It was taken; go on.
    Continue,
    /// It was not taken (no room); stop.
    Full,
}

/// Where an inode is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Whereabouts {
    /// Its path from the root, without a slash in front; that of the root is empty. Of what the lower layer has the path there.
    pub path: Vec<u8>,
    /// Only the upper layer has it: it is new, or was copied up.
    pub upper: bool,
}

/// Sizes of the file system, as statfs(2) shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// Unit of the three block counts, in bytes.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for users other than root.
    pub blocks_available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}
