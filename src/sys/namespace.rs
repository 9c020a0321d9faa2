//! Namespaces: mounts that nobody else sees, and a user namespace for those without privilege.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, open_tree,
};

/// Gives this process mounts of its own. What the host mounts and unmounts later still shows; nothing goes back.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn own_mounts() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", slave)?)
}

/// Gives the next children of this process a PID namespace of their own, of which the first is the init: it adopts what is
/// left in it, and all in it end with it. This process can make no thread afterwards.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `ENOSPC` where the system forbids more.
pub fn own_pids() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWPID)?)
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

/// A thing at the top of the old root, to be shown by the new one.
enum Top {
    Link(PathBuf),
    Tree { mount: OwnedFd, directory: bool },
}

/// Makes a new root in this process's mount namespace: an empty file system in memory, with everything that the old
/// root has at its top mounted in it, and an empty directory for each of `directories`, which are left out of the old.
///
/// # Errors
/// As mount_setattr(2) and pivot_root(2): `EINVAL` where the root is the initial ramfs, `EPERM` without CAP_SYS_ADMIN.
pub fn replace_root_with(directories: &[&str]) -> io::Result<()> {
    let tops = tops(directories)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0755")?;
    fsconfig_set_string(&context, "size", "1m")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let place = super::mount::open_target(Path::new("/"))?;
    super::mount::attach(root.as_fd(), place.as_fd())?;
    for name in directories {
        mkdirat(&root, *name, Mode::from_raw_mode(0o755))?;
    }
    for (name, top) in tops {
        match top {
            Top::Link(target) => symlinkat(target, &root, &name)?,
            Top::Tree { mount, directory } => {
                if directory {
                    mkdirat(&root, &name, Mode::from_raw_mode(0o755))?;
                } else {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    drop(openat(&root, &name, flags, Mode::from_raw_mode(0o644))?);
                }
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = openat(&root, &name, flags, Mode::empty())?;
                super::mount::attach(mount.as_fd(), target.as_fd())?;
            }
        }
    }
    change_root(&root)
}

/// Makes a mount that lies over the root of this process its root, and takes the old one away.
///
/// # Errors
/// As pivot_root(2): `EINVAL` where the root is the initial ramfs, `EPERM` without CAP_SYS_ADMIN.
pub(super) fn change_root(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The second "." stacks the old root over the new one, where it can be taken away (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Detached copies of all that is at the top of the root, but for `without`.
fn tops(without: &[&str]) -> io::Result<Vec<(OsString, Top)>> {
    let mut tops = Vec::new();
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let name = entry.file_name();
        if without.iter().any(|w| name == *w) {
            continue;
        }
        let kind = entry.file_type()?;
        let top = if kind.is_symlink() {
            Top::Link(fs::read_link(entry.path())?)
        } else {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE
                | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
            Top::Tree { mount: open_tree(CWD, entry.path(), flags)?, directory: kind.is_dir() }
        };
        tops.push((name, top));
    }
    Ok(tops)
}
