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
use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
    open_tree,
};
use rustix::process::Signal;

use super::process::{self, Fork};
use super::{mount, namespace, socket};

/// Where the mount stands in the namespace of the process that clones it.
const PLACE: &str = "mount";

/// A detached clone of a mount.
#[derive(Debug)]
pub struct MountClone {
    /// The clone.
    pub mount: OwnedFd,
    /// Why its flags are not locked, if they are not.
    pub not_locked: Option<io::Error>,
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
    let (here, there) = socket::pair()?;
    let own = rustix::process::getpid();
    let child = match process::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            drop(here);
            let made = process::die_with_parent(own, Signal::KILL).and_then(|()| clone_locked(mount.as_fd()));
            process::end_now(tell(&there, made).is_err().into());
        }
    };
    drop(there);
    let received = socket::receive(&here, 64);
    let ended = process::wait(child)?;
    let (message, clone) = received?;
    let number = std::str::from_utf8(&message).ok().and_then(|text| text.parse().ok());
    match (number, clone) {
        (Some(0), Some(clone)) => Ok(MountClone { mount: clone, not_locked: None }),
        (Some(number), clone) => {
            let not_locked = Some(io::Error::from_raw_os_error(number));
            Ok(MountClone { mount: clone.unwrap_or(mount), not_locked })
        }
        // The mount may have had a place and lost it: it cannot get another one.
        (None, _) => {
            let code = ended.shell_code();
            Err(io::Error::other(format!("the process that clones the mount ended with code {code}")))
        }
    }
}

/// A clone, and the error that kept its flags from being locked.
type Made = (OwnedFd, Option<io::Error>);

/// Sends an error number, 0 for none, and the clone if there is one: without it the mount is as it was.
fn tell(socket: &OwnedFd, made: io::Result<Made>) -> io::Result<()> {
    let (clone, error) = match made {
        Ok((clone, error)) => (Some(clone), error),
        Err(error) => (None, Some(error)),
    };
    let number = error.map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    socket::send(socket, number.to_string().as_bytes(), clone.as_ref())
}

/// Enters namespaces in which the mount is a copy, and clones that.
///
/// # Errors
/// What failed before the mount got a place.
fn clone_locked(mount: BorrowedFd<'_>) -> io::Result<Made> {
    let place = private_place()?;
    mount::attach(mount, place.as_fd())?;
    // The working directory leads into the copies from here on (fs/namespace.c, `copy_mnt_ns`).
    let entered = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match open_tree(CWD, PLACE, flags) {
        Ok(clone) => Ok((clone, entered.err().map(io::Error::from))),
        // The place goes with this process, and the mount with it: there is nothing to go back to.
        Err(_) => process::end_now(1),
    }
}

/// An empty directory [`PLACE`] in the working directory, in a mount namespace of this process's own.
fn private_place() -> io::Result<OwnedFd> {
    namespace::own_mounts()?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Not on "/": a process whose root is covered counts as chrooted, and gets no user namespace.
    let anywhere = mount::open_target(Path::new("/proc"))?;
    mount::attach(root.as_fd(), anywhere.as_fd())?;
    rustix::process::fchdir(&root)?;
    // The host's mounts leave this namespace: the next copy would hold them, and cost time. Where the root cannot be
    // left (the initial ramfs) they stay.
    if rustix::process::pivot_root(".", ".").is_ok() {
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    }
    mkdirat(&root, PLACE, Mode::from_raw_mode(0o755))?;
    mount::open_target(Path::new(PLACE))
}
