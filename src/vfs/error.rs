//! What an operation answers when it fails.

use std::fmt;
use std::io;

use super::name::Name;
use super::types::Ino;

/// A Linux error number, never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        #[allow(missing_docs, reason = "the names are those of errno(3)")]
        impl Errno {
            $(pub const $name: Self = Self(libc::$name);)*

            /// The symbolic name, as in errno(3), if it is one that this crate uses.
            #[must_use]
            pub fn symbol(self) -> Option<&'static str> {
                match self.0 { $(libc::$name => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

errnos! {
    EPERM, ENOENT, EINTR, EIO, ENXIO, E2BIG, EBADF, EAGAIN, ENOMEM, EACCES, EBUSY, EEXIST, EXDEV, ENODEV, ENOTDIR,
    EISDIR, EINVAL, ENFILE, EMFILE, ENOTTY, ETXTBSY, EFBIG, ENOSPC, ESPIPE, EROFS, EMLINK, ERANGE, ENAMETOOLONG,
    ENOSYS, ENOTEMPTY, ELOOP, ENODATA, EOVERFLOW, EOPNOTSUPP, ENOTCONN, ESTALE, EDQUOT,
}

impl Errno {
    /// The error number of an I/O error; `EIO` for one that did not come from the system.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        error.raw_os_error().filter(|n| *n > 0).map_or(Self::EIO, Self)
    }

    /// The number itself, positive.
    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self::of(&error)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.raw())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.symbol() {
            Some(symbol) => f.write_str(symbol),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.0))
    }
}

/// A failed operation: which one, on what, and the error number that the caller gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} on inode {ino}{}: {errno}", .name.as_ref().map(|n| format!(", name {n:?}")).unwrap_or_default())]
pub struct Error {
    /// The operation, as the kernel's FUSE documentation names it, in lower case.
    pub operation: &'static str,
    /// The inode that it was asked of.
    pub ino: Ino,
    /// The name within that directory, if the operation takes one.
    pub name: Option<Name>,
    /// What the caller gets.
    pub errno: Errno,
}

impl Error {
    /// An error of `operation` on `ino`.
    #[must_use]
    pub fn new(operation: &'static str, ino: Ino, errno: Errno) -> Self {
        Self { operation, ino, name: None, errno }
    }

    /// The same error, about `name` in that directory.
    #[must_use]
    pub fn at(mut self, name: &Name) -> Self {
        self.name = Some(name.clone());
        self
    }

    /// The error number for the kernel.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// True for answers that programs ask for all the time (a missing name, a missing attribute…):
    /// worth a debug line, not a warning.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        !matches!(
            self.errno,
            Errno::EIO | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EBADF | Errno::ENOTCONN
        )
    }
}

/// What a file system operation answers.
pub type Result<T> = std::result::Result<T, Error>;
