//! Changes of metadata, by descriptor, of inodes of any kind: a symbolic link never stands for its target.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timestamps, Uid};

use super::open::{proc_path, retry};

/// Sets the permission bits (the low 12 bits of the mode).
///
/// Through /proc/self/fd: fchmod(2) refuses `O_PATH`, and fchmodat2(2) came with Linux 6.6.
///
/// # Errors
/// Those of chmod(2); `EOPNOTSUPP` for a symbolic link, whose mode Linux does not use.
pub fn set_permissions(fd: BorrowedFd<'_>, permissions: u16) -> io::Result<()> {
    let mode = Mode::from_raw_mode(permissions.into());
    retry(|| rustix::fs::chmodat(CWD, proc_path(fd).as_str(), mode, AtFlags::empty()))
}

/// Sets owner, group, or both. The system clears set-user-id and set-group-id bits and file capabilities by it.
///
/// # Errors
/// Those of fchownat(2); `EINVAL` for the id -1, which would mean no change.
pub fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    retry(|| rustix::fs::chownat(fd, "", uid, gid, flags))
}

/// Sets the times; `UTIME_NOW` and `UTIME_OMIT` in the nanoseconds mean what they mean to utimensat(2).
///
/// # Errors
/// Those of utimensat(2).
pub fn set_times(fd: BorrowedFd<'_>, times: &Timestamps) -> io::Result<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    retry(|| rustix::fs::utimensat(fd, "", times, flags))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use crate::sys::open::open_path;
    use crate::sys::stat::stat;
    use rustix::fs::{Timespec, UTIME_OMIT};
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn times_of_a_link_are_its_own_and_its_mode_cannot_be_set() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("f"), "").unwrap();
        std::os::unix::fs::symlink("f", temp.path().join("l")).unwrap();
        let before = fs::metadata(temp.path().join("f")).unwrap();
        let dir = File::open(temp.path()).unwrap();
        let link = open_path(dir.as_fd(), b"l").unwrap();
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: -5, tv_nsec: 7 },
        };
        set_times(link.as_fd(), &times).unwrap();
        let shown = stat(link.as_fd()).unwrap().stx_mtime;
        assert_eq!((shown.tv_sec, shown.tv_nsec), (-5, 7));
        let error = set_permissions(link.as_fd(), 0o600).unwrap_err();
        assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::OPNOTSUPP));
        set_owner(link.as_fd(), Some(before.uid()), Some(before.gid())).unwrap();
        let after = fs::metadata(temp.path().join("f")).unwrap();
        assert_eq!(
            (before.mtime(), before.mode(), before.ctime_nsec()),
            (after.mtime(), after.mode(), after.ctime_nsec())
        );
        assert!(set_owner(link.as_fd(), Some(u32::MAX), None).is_err());
    }
}
