//! Between the values of `fuser` and those of [`crate::vfs`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, INodeNo, RenameFlags, Request, TimeOrNow};

use crate::vfs::{
    self, Attr, Caller, Errno, FileKind, Handle, Ino, Name, RenameMode, SeekTarget, SetAttr, SetTime,
    Timespec, XattrMode,
};

/// A time to live that does not end: a hundred years (the kernel counts in jiffies and cuts off what is too large).
pub(super) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The handle in answers to opens that the server does not keep.
pub(super) const NO_HANDLE: FileHandle = FileHandle(0);

pub(super) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(super) fn handle(handle: FileHandle) -> Option<Handle> {
    (handle != NO_HANDLE).then_some(Handle(handle.0))
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask: 0 }
}

/// Who makes something, with a umask that the kernel has not applied.
pub(super) fn maker(request: &Request, umask: u32) -> Caller {
    Caller { umask: (umask & 0o777) as u16, ..caller(request) }
}

/// A name in a request. The kernel lets names of up to 1,024 bytes through.
pub(super) fn name(operation: &'static str, parent: INodeNo, name: &OsStr) -> vfs::Result<Name> {
    Name::new(name.as_bytes()).map_err(|errno| vfs::Error::new(operation, ino(parent), errno))
}

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: attr.permissions,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The protocol has 32 bits: 12 of major, 20 of minor number, which is all that the kernel itself has.
        rdev: (attr.rdev & u64::from(u32::MAX)) as u32,
        blksize: attr.block_size,
        flags: 0,
    }
}

/// The attributes that stand for "there is no such name": inode 0 makes the answer a negative entry.
pub(super) fn negative() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// Times that `SystemTime` cannot hold become the epoch.
fn system_time(time: Timespec) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(time.nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time of a request. fuser 0.18 (`time.rs`, `system_time_from_time`) puts the nanoseconds of a time before the
/// epoch on the wrong side of the second: `-s + n/10⁹` arrives as `-(s + n/10⁹)`. Taking both parts of the distance as
/// they are undoes it.
fn timespec(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: after.subsec_nanos(),
        },
        Err(before) => Timespec {
            seconds: 0i64.saturating_sub_unsigned(before.duration().as_secs()),
            nanoseconds: before.duration().subsec_nanos(),
        },
    }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timespec(time)),
    }
}

/// The changes of a SETATTR. The change time is not among them: it follows from the others.
pub(super) fn changes(
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
) -> SetAttr {
    SetAttr {
        permissions: mode.map(permissions),
        uid,
        gid,
        size,
        atime: atime.map(set_time),
        mtime: mtime.map(set_time),
    }
}

pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// The mode of a rename(2); the kernel's own flag for overlays (`RENAME_WHITEOUT`) is not for callers.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Errno> {
    match flags.bits() {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn seek_target(whence: i32) -> Result<SeekTarget, Errno> {
    match whence {
        libc::SEEK_DATA => Ok(SeekTarget::Data),
        libc::SEEK_HOLE => Ok(SeekTarget::Hole),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_their_nanoseconds() {
        let time = Timespec { seconds: -2, nanoseconds: 750_000_000 };
        let shown = system_time(time);
        assert_eq!(UNIX_EPOCH.duration_since(shown).ok(), Some(Duration::new(1, 250_000_000)));
        // As fuser 0.18 hands over a request's (-2 s, 750,000,000 ns).
        let asked = UNIX_EPOCH - Duration::new(2, 750_000_000);
        assert_eq!(timespec(asked), time);
        assert_eq!(timespec(UNIX_EPOCH + Duration::new(5, 7)), Timespec { seconds: 5, nanoseconds: 7 });
    }

    #[test]
    fn times_out_of_range_do_not_panic() {
        for seconds in [i64::MIN, i64::MAX, 0, -1] {
            let shown = system_time(Timespec { seconds, nanoseconds: 999_999_999 });
            assert!(shown.duration_since(UNIX_EPOCH).is_ok() || seconds < 0);
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert_eq!(rename_mode(RenameFlags::from_bits_retain(3)), Err(Errno::EINVAL));
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), Err(Errno::EINVAL));
        assert_eq!(xattr_mode(3), Err(Errno::EINVAL));
        assert_eq!(seek_target(libc::SEEK_SET), Err(Errno::EINVAL));
    }
}
