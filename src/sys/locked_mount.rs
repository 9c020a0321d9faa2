//! Clones of mounts whose flags a container cannot take off.
//!
//! A process with CAP_SYS_ADMIN in the user namespace that owns its mount namespace may clear `nosuid`, `nodev` and
//! `noexec` of a mount with mount_setattr(2), unless the mount *locks* them (`MNT_LOCK_NOSUID` and its like). The kernel
//! locks the flags of every mount that it copies into a mount namespace of another user namespace (fs/namespace.c,
//! `lock_mnt_tree`; mount_namespaces(7)). move_mount(2) copies nothing and locks nothing. A clone of a locked mount is
//! locked too, wherever it goes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::Signal;

use super::process::{self, EndingChild, Fork};
use super::{mount, namespace, small_namespace, socket};

/// Where the mount stands in the namespace of the process that clones it.
const PLACE: &str = "mount";

/// A detached clone of a mount.
#[derive(Debug)]
pub struct MountClone {
    /// The clone.
    pub mount: OwnedFd,
    /// Why its flags are not locked, if they are not.
    pub not_locked: Option<io::Error>,
    /// The forked process, whose namespaces take a moment to end: to be dropped when that delays nothing.
    pub maker: Option<EndingChild>,
}

/// A detached clone of the detached `mount` whose flags no process can clear, not even one of the host's root.
///
/// Locked are those of `nosuid`, `nodev`, `noexec` and `ro` that `mount` has, and how access times are kept. Flags that
/// are set later are not. The file system is not asked: a FUSE server gets no request. Where the system has no user
/// namespaces, or allows none, the answer is a mount with the same flags, not locked.
///
/// A forked process makes the clone, in a user and a mount namespace that end with it.
///
/// # Errors
/// `EBUSY` if this process has threads; as fork(2) and socketpair(2); `ECHILD` if the forked process was killed.
pub fn lock_flags(mount: OwnedFd) -> io::Result<MountClone> {
    match in_child(|_| clone_locked(mount.as_fd(), None))? {
        Answer::Clone(clone) => Ok(clone),
        Answer::Failed(not_locked) => Ok(MountClone { mount, not_locked: Some(not_locked), maker: None }),
    }
}

/// As [`lock_flags`], of the directory `below` of the mount that `make` makes in the forked process, which has a mount namespace
/// of its own then. The working directory of `make` is an empty tmpfs, also given to it, and the root where the root can be left.
///
/// The directory is opened without following a symbolic link.
///
/// # Errors
/// As [`lock_flags`]; what `make` fails with, with its words; `ENOTDIR` if `below` is no directory.
pub fn make_locked(
    below: &str,
    make: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
) -> io::Result<MountClone> {
    let made = in_child(|root| {
        let mount = make(root)?;
        clone_locked(mount.as_fd(), Some(below))
    })?;
    match made {
        Answer::Clone(clone) => Ok(clone),
        Answer::Failed(error) => Err(error),
    }
}

/// What the forked process answers.
enum Answer {
    Clone(MountClone),
    /// There is no clone, and the mount is as it was.
    Failed(io::Error),
}

/// Makes a clone in a forked process, in a mount namespace of its own whose top is an empty tmpfs.
fn in_child(make: impl FnOnce(BorrowedFd<'_>) -> io::Result<Made>) -> io::Result<Answer> {
    let (here, there) = socket::pair()?;
    let own = rustix::process::getpid();
    let child = match process::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            drop(here);
            let made = process::die_with_parent(own, Signal::KILL)
                .and_then(|()| private_root())
                .and_then(|root| make(root.as_fd()));
            process::end_now(tell(&there, made).is_err().into());
        }
    };
    drop(there);
    let received = socket::receive(&here, LONGEST);
    let maker = EndingChild::new(child);
    let (message, clone) = received?;
    let error = std::str::from_utf8(&message).ok().and_then(told);
    match (error, clone) {
        (Some(not_locked), Some(mount)) => {
            Ok(Answer::Clone(MountClone { mount, not_locked, maker: Some(maker) }))
        }
        (Some(Some(error)), None) => Ok(Answer::Failed(error)),
        // The mount may have had a place and lost it: it cannot get another one.
        (Some(None) | None, _) => {
            let code = maker.wait()?.shell_code();
            Err(io::Error::other(format!("the process that clones the mount ended with code {code}")))
        }
    }
}

/// The longest message of the forked process, in bytes.
const LONGEST: usize = 4096;

/// A clone, and the error that kept its flags from being locked.
type Made = (OwnedFd, Option<io::Error>);

/// Sends an error as its number, 0 for none, and its words; and the clone if there is one: without it the mount is as it was.
fn tell(socket: &OwnedFd, made: io::Result<Made>) -> io::Result<()> {
    let (clone, error) = match made {
        Ok((clone, error)) => (Some(clone), error),
        Err(error) => (None, Some(error)),
    };
    // What the kernel says is ASCII, and much shorter.
    let message = error.map_or_else(|| "0 ".to_owned(), |error| format!("{} {error:.2000}", errno(&error)));
    socket::send(socket, message.as_bytes(), clone.as_ref())
}

/// The number of an error; `EIO` for one that has words instead.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The error that a message tells of, if it tells of one; `None` if it is no message.
fn told(message: &str) -> Option<Option<io::Error>> {
    let (number, words) = message.split_once(' ')?;
    let plain = match number.parse().ok()? {
        0 => return Some(None),
        number => io::Error::from_raw_os_error(number),
    };
    let same = plain.to_string() == words;
    Some(Some(if same { plain } else { io::Error::new(plain.kind(), words.to_owned()) }))
}

/// Enters namespaces in which the mount is a copy, and clones that, or its directory `below`.
///
/// # Errors
/// What failed before the mount got a place; with `below` any.
fn clone_locked(mount: BorrowedFd<'_>, below: Option<&str>) -> io::Result<Made> {
    mkdirat(CWD, PLACE, Mode::from_raw_mode(0o755))?;
    let place = mount::open_target(Path::new(PLACE))?;
    mount::attach(mount, place.as_fd())?;
    // The working directory leads into the copies from here on (fs/namespace.c, `copy_mnt_ns`).
    let entered = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let clone = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut root = openat(CWD, PLACE, flags, Mode::empty())?;
        if let Some(below) = below {
            root = openat(&root, below, flags, Mode::empty())?;
        }
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&root, "", flags)
    };
    match clone() {
        Ok(clone) => Ok((clone, entered.err().map(io::Error::from))),
        Err(error) if below.is_some() => Err(error.into()),
        // The place goes with this process, and the mount with it: there is nothing to go back to.
        Err(_) => process::end_now(1),
    }
}

/// An empty tmpfs, the working directory of this process from here on, in a mount namespace of its own.
fn private_root() -> io::Result<OwnedFd> {
    // What is copied costs time for each mount: where a small namespace is at hand, that, and not the host's.
    let is_small = small_namespace::enter().unwrap_or_else(|error| {
        tracing::debug!(%error, "a small mount namespace cannot be entered");
        false
    });
    namespace::own_mounts()?;
    small_namespace::empty_root(if is_small { small_namespace::PLACE } else { "/proc" })
}
