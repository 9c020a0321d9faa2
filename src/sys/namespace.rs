//! Namespaces: mounts that nobody else sees, and a user namespace for those without privilege.

use std::fs;
use std::io;

use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

/// Gives this process mounts of its own. What the host mounts and unmounts later still shows; nothing goes back.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn own_mounts() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", slave)?)
}

/// Enters a user namespace in which this process has every capability and the ids that it had before.
///
/// Other ids do not exist in it (they show as 65534). Capabilities end with the next exec, unless the user is 0.
///
/// # Errors
/// `EPERM` or `ENOSPC` where the system forbids user namespaces, `EINVAL` if the process has threads.
pub fn own_user_namespace() -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    // Without this, an unprivileged process may not map its group (user_namespaces(7)).
    match fs::write("/proc/self/setgroups", "deny") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Makes the working directory, which is the root of a mount, the root of all. The old root is gone afterwards.
///
/// # Errors
/// As pivot_root(2): `EINVAL` where the root is the initial ramfs.
pub fn pivot_to_working_directory() -> io::Result<()> {
    // The second "." stacks the old root over the new one, where it can be taken away (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}
