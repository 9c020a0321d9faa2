//! Descriptors of names: opened without ever following a symbolic link or leaving the tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How every name is resolved: inside the directory, through no symbolic link, across no mount point.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// How often an `EAGAIN` of openat2(2) (a rename somewhere raced with the walk) is tried again.
const RETRIES: u32 = 128;

/// Opens `path` below `dir` with `flags` and, for a new file, `permissions`.
///
/// By openat2(2) with `RESOLVE_BENEATH`, `NO_SYMLINKS`, `NO_MAGICLINKS` and `NO_XDEV`; close-on-exec always. A symbolic
/// link on the way is `ELOOP`, a mount point `EXDEV`. The last component may be a symbolic link only with
/// `O_PATH | O_NOFOLLOW`, and is then opened itself.
///
/// # Errors
/// Those of openat2(2).
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    permissions: u16,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(permissions.into());
    for _ in 0..RETRIES {
        match rustix::fs::openat2(dir, path, flags, mode, RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return Ok(answer?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens `path` below `dir` as a reference to an inode (`O_PATH`): nothing of any kind is really opened by it.
///
/// # Errors
/// As [`open_beneath`].
pub fn open_path(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open_beneath(dir, path, OFlags::PATH, 0)
}

/// Opens `path` below `dir` as a reference to a directory.
///
/// # Errors
/// As [`open_beneath`]; `ENOTDIR` for anything else than a directory.
pub fn open_directory(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open_beneath(dir, path, OFlags::PATH | OFlags::DIRECTORY, 0)
}

/// Opens the directory behind an `O_PATH` descriptor for reading its names or syncing it.
///
/// # Errors
/// Those of openat(2); `ENOTDIR` for anything else than a directory.
pub fn open_listing(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    retry(|| {
        rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    })
}

/// Opens the regular file behind an `O_PATH` descriptor, by its link in /proc/self/fd.
///
/// The caller has made sure that it is a regular file (the descriptor pins the inode, so that this stays true).
///
/// # Errors
/// Those of open(2), with the rights of the mount that the descriptor was opened on: `EROFS` if that is read-only.
pub fn reopen(file: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    retry(|| rustix::fs::openat(CWD, proc_path(file).as_str(), flags, Mode::empty()))
}

/// Opens a file that a user names as an input: a regular file, or a pipe whose other end a program holds (`<(command)`,
/// `/dev/stdin`). Never waits: not for the writer of a FIFO, nor for a device.
///
/// # Errors
/// Those of open(2); `InvalidInput` for everything else.
pub fn open_input(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = retry(|| rustix::fs::open(path, flags, Mode::empty()))?;
    let kind = match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => return Ok(file.into()),
        FileType::Fifo if rustix::fs::fstatfs(&file)?.f_type == PIPE_FS => {
            rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
            return Ok(file.into());
        }
        FileType::Fifo => "a FIFO",
        FileType::Directory => "a directory",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "a socket",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, and no regular file")))
}

/// The file system of pipes without a name (`PIPEFS_MAGIC` of linux/magic.h).
const PIPE_FS: rustix::fs::FsWord = 0x5049_5045;

/// Opens the directory behind a descriptor of another process.
///
/// # Errors
/// `ENOENT` if there is no such process or descriptor, `EACCES` if it is another user's; `ENOTDIR`.
pub fn open_directory_of(pid: u32, descriptor: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry(|| rustix::fs::open(format!("/proc/{pid}/fd/{descriptor}"), flags, Mode::empty()))
}

/// The path of what a path leads to, without symbolic links. Asks a file system nothing whose root it leads to: a mounted view
/// may not answer.
///
/// # Errors
/// Those of open(2).
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let opened = retry(|| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))?;
    std::fs::read_link(proc_path(opened.as_fd()))
}

/// The number of a descriptor, by which other processes find it in /proc/PID/fd.
#[must_use]
pub fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// The name of a descriptor for system calls that take paths and must reach an `O_PATH` descriptor's inode.
///
/// The link is a magic one: it leads to the inode itself, also to a symbolic link, which is not followed further.
/// (The *at calls with an empty path do not help: `fgetxattr`, and `getxattrat` up to Linux 6.18 at least, answer
/// `EBADF` to `O_PATH` descriptors.)
#[must_use]
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Calls again as long as a signal interrupts.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return Ok(answer?),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;

    fn errno<T: std::fmt::Debug>(answer: io::Result<T>) -> Option<Errno> {
        Errno::from_io_error(&answer.unwrap_err())
    }

    #[test]
    fn no_link_is_followed_and_nothing_is_left() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("d")).unwrap();
        fs::write(temp.path().join("d/f"), "text").unwrap();
        std::os::unix::fs::symlink("d", temp.path().join("l")).unwrap();
        let dir = File::open(temp.path()).unwrap();
        let dir = dir.as_fd();

        let file = open_path(dir, b"d/f").unwrap();
        let mut text = String::new();
        File::from(reopen(file.as_fd(), OFlags::RDONLY).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");

        assert_eq!(errno(open_path(dir, b"l/f")), Some(Errno::LOOP));
        assert_eq!(errno(open_directory(dir, b"l")), Some(Errno::NOTDIR));
        assert_eq!(errno(open_beneath(dir, b"l", OFlags::RDONLY, 0)), Some(Errno::LOOP));
        assert_eq!(errno(open_path(dir, b"../x")), Some(Errno::XDEV));
        assert_eq!(errno(open_path(dir, b"/etc")), Some(Errno::XDEV));
        assert!(open_path(dir, b"l").is_ok(), "the link itself can be referred to");
        assert_eq!(errno(open_listing(file.as_fd())), Some(Errno::NOTDIR));
    }

    #[test]
    fn mount_points_are_not_crossed() {
        let root = File::open("/").unwrap();
        assert_eq!(errno(open_path(root.as_fd(), b"proc/self/status")), Some(Errno::XDEV));
    }
}
