//! The kernel's control files of a FUSE connection, below /sys/fs/fuse/connections
//! (Documentation/filesystems/fuse/fuse.rst). They work whatever state the server is in.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstat, fstatfs, statat, statx};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::mount_id::MountId;

/// Where fusectl is mounted, if it is.
const CONTROL: &str = "/sys/fs/fuse/connections";

/// The type of fusectl in statfs(2) (fs/fuse/control.c, `FUSE_CTL_SUPER_MAGIC`).
const CONTROL_TYPE: rustix::fs::FsWord = 0x6573_5543;

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

    /// What tells this connection from a later one of the same number.
    ///
    /// # Errors
    /// `ENOENT` if the connection is gone; those of mounting fusectl, where it is not mounted: `EPERM` without CAP_SYS_ADMIN.
    pub fn sign(self) -> io::Result<Sign> {
        if let Some((top, since)) = mounted_control()? {
            return Ok(Sign(Some((self.inode_in(&top)?, since))));
        }
        self.inode_in(&new_control()?)?;
        Ok(Sign(None))
    }

    /// As [`sign`](Self::sign), of a connection that is there. Where fusectl is not mounted, it is not mounted for this: that
    /// takes time for each connection of the system.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn sign_of_existing(self) -> io::Result<Sign> {
        match mounted_control()? {
            Some((top, since)) => Ok(Sign(Some((self.inode_in(&top)?, since)))),
            None => Ok(Sign(None)),
        }
    }

    fn inode_in(self, top: &OwnedFd) -> io::Result<u64> {
        Ok(statat(top, self.0.to_string(), AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("{CONTROL}/{}/{name}", self.0))
    }
}

/// What tells a connection from a later one of the same number: the inode number of its directory, which stays as long as fusectl is
/// mounted and which the kernel gives no other file before 2^32 are made, and what tells that mount of fusectl from others. Nothing
/// where fusectl is mounted nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sign(Option<(u64, i128)>);

impl Sign {
    /// True if both are of one connection; `None`: they do not tell.
    #[must_use]
    pub fn is_of_one(self, other: Self) -> Option<bool> {
        match (self.0, other.0) {
            (Some((one, _)), Some((other, _))) if one == other => Some(true),
            (Some((_, since)), Some((_, then))) if since == then => Some(false),
            _ => None,
        }
    }

    /// The sign as text without spaces.
    #[must_use]
    pub fn text(self) -> String {
        self.0.map_or_else(String::new, |(sign, since)| format!("{sign}:{since}"))
    }

    /// Reads what [`text`](Self::text) has written.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let parts = text.split_once(':');
        Self(parts.and_then(|(sign, since)| Some((sign.parse().ok()?, since.parse().ok()?))))
    }
}

/// The directory of all connections, and what tells its mount from others; `None` where fusectl is not mounted.
fn mounted_control() -> io::Result<Option<(OwnedFd, i128)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(top) = rustix::fs::open(CONTROL, flags, Mode::empty()) else { return Ok(None) };
    if fstatfs(&top)?.f_type != CONTROL_TYPE {
        return Ok(None);
    }
    let mount = MountId::of(top.as_fd())?;
    if mount.is_unique() {
        return Ok(Some((top, mount.number().into())));
    }
    let found = fstat(&top)?;
    // Before Linux 6.8, which has numbers of mounts, nothing changes this time later (fs/libfs.c, `simple_fill_super`). Linux 6.18
    // changes it when a connection goes.
    let since = i128::from(found.st_ctime) * 1_000_000_000 + i128::from(found.st_ctime_nsec);
    Ok(Some((top, since)))
}

/// The directory of all connections, of fusectl that is mounted for one look.
fn new_control() -> io::Result<OwnedFd> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}
