//! The kernel's control files of a FUSE connection, below /sys/fs/fuse/connections
//! (Documentation/filesystems/fuse/fuse.rst). They work whatever state the server is in.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags, statx};

/// The number of a connection: the device number of the file systems that are mounted on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FuseConnection(u64);

impl FuseConnection {
    /// The connection behind the device number of a mount ([`super::mountinfo::MountInfo::device`]).
    #[must_use]
    pub fn of_device((major, minor): (u32, u32)) -> Self {
        // The kernel prints its own dev_t: 12 bits of major above 20 bits of minor (include/linux/kdev_t.h).
        Self((u64::from(major) << 20) | u64::from(minor))
    }

    /// The connection of a mount, attached or not, given any descriptor into it. Sends no request to the server:
    /// a statx(2) that asks for nothing is answered by the kernel alone (fs/fuse/dir.c, `fuse_getattr`).
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn of_mount(mount: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(mount, "", flags, StatxFlags::empty())?;
        Ok(Self::of_device((stat.stx_dev_major, stat.stx_dev_minor)))
    }

    /// The connection of this number.
    #[must_use]
    pub fn of_number(number: u64) -> Self {
        Self(number)
    }

    /// The number, which is the name of its directory.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// True if the kernel shows the connection: its file system is mounted somewhere, or used. False also where fusectl is not
    /// mounted.
    #[must_use]
    pub fn is_shown(self) -> bool {
        self.file("").is_dir()
    }

    /// How many requests wait for the server or for its answer.
    ///
    /// # Errors
    /// `ENOENT` if the connection is gone or fusectl is not mounted.
    pub fn waiting(self) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.file("waiting"))?;
        text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Ends the connection: every waiting and every later request fails with `ENOTCONN` or `ECONNABORTED`.
    ///
    /// # Errors
    /// As for [`waiting`](Self::waiting).
    pub fn abort(self) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.file("abort"))?.write_all(b"1")
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/fuse/connections/{}/{name}", self.0))
    }
}
