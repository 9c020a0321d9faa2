//! Mounts that show what belongs to root as another user's and group's (`MOUNT_ATTR_IDMAP` of mount_setattr(2), Linux 5.12; as layers
//! of overlayfs 5.19).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};

use super::process::{self, Fork};
use super::{mount, socket};

/// Shows user 0 and group 0 of a detached mount, which has not been used yet, as `owner`. All others are no user's there.
///
/// # Errors
/// `EINVAL` where the file system cannot; `EPERM` without CAP_SYS_ADMIN, or where user namespaces are forbidden; those of fork(2).
pub fn show_as(mount: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()> {
    let namespace = user_namespace(owner)?;
    mount::map_ids(mount, &namespace)
}

/// A user namespace in which user and group 0 are those of `owner`, held by its descriptor alone.
fn user_namespace((uid, gid): (u32, u32)) -> io::Result<OwnedFd> {
    let (here, there) = socket::pair()?;
    let child = match process::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            drop(here);
            let entered = nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from);
            let number = entered.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            // The namespace lives until this process ends: the other end says when.
            let told = socket::send(&there, number.to_string().as_bytes(), None)
                .and_then(|()| socket::receive(&there, 16));
            process::end_now(told.is_err().into());
        }
    };
    drop(there);
    let made = socket::receive(&here, 16).and_then(|(message, _)| {
        match std::str::from_utf8(&message).ok().and_then(|text| text.parse().ok()) {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Err(io::Error::from_raw_os_error(libc::ECHILD)),
        }
    });
    let namespace = made.and_then(|()| {
        let of = format!("/proc/{}", child.as_raw_nonzero());
        std::fs::write(format!("{of}/uid_map"), format!("0 {uid} 1"))?;
        std::fs::write(format!("{of}/gid_map"), format!("0 {gid} 1"))?;
        Ok(rustix::fs::open(format!("{of}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    });
    drop(here);
    process::wait(child)?;
    namespace
}
