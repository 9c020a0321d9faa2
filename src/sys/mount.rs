//! Mounts: a FUSE superblock of our own, read-only clones, attaching and unmounting.
//!
//! Made with the mount API of Linux 5.2 (fsopen(2), fsmount(2), move_mount(2), open_tree(2)) and mount_setattr(2) of
//! 5.12. New mounts are *detached*: they have no path, so nobody else can reach them, and they go with their
//! descriptor until [`attach`] gives them a place.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::process::{getegid, geteuid};

/// The subtype of our mounts: /proc/mounts shows the type `fuse.nixview`.
pub const SUBTYPE: &str = "nixview";

/// How a FUSE file system is mounted.
///
/// Set-user-id bits and devices never count on our mounts (`nosuid`, `nodev`), and the kernel checks permissions by
/// itself (`default_permissions`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FuseOptions<'s> {
    /// What mountinfo shows as its source; without it, and if it is too long for the kernel, [`SUBTYPE`].
    pub source: Option<&'s Path>,
    /// Makes the *superblock* read-only, not only this mount of it.
    pub read_only: bool,
    /// Lets users other than the one who mounts in.
    pub allow_other: bool,
    /// Forbids executing programs from it.
    pub no_exec: bool,
}

impl FuseOptions<'_> {
    /// The source that is shown.
    pub(super) fn source_bytes(&self) -> &[u8] {
        let source = self.source.map(|path| path.as_os_str().as_bytes());
        source.filter(|source| (1..=MAX_SOURCE).contains(&source.len())).unwrap_or(SUBTYPE.as_bytes())
    }
}

/// The longest value that fsconfig(2) takes, in bytes.
pub(super) const MAX_SOURCE: usize = 255;

/// Opens the FUSE device: a connection that has no file system yet.
///
/// # Errors
/// `ENOENT` or `ENODEV` where the kernel has no FUSE or the device node is missing, `EACCES` or `EPERM` where it may
/// not be opened.
pub fn open_fuse_device() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a FUSE file system on a fresh `device` and answers its detached mount.
///
/// From here on the kernel has put the INIT request into `device` and waits for its answer at the first access.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN in the user namespace that owns the mount namespace, or where a filter forbids it;
/// `EINVAL` if `device` was opened in another user namespace or has a file system already. What the kernel says of a
/// refused option is part of the message.
pub fn new_fuse(device: BorrowedFd<'_>, options: FuseOptions<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error.into());
    let set =
        |key: &str, value: &dyn Display| fsconfig_set_string(&context, key, value.to_string()).map_err(told);
    fsconfig_set_string(&context, "source", options.source_bytes()).map_err(told)?;
    set("subtype", &SUBTYPE)?;
    set("fd", &device.as_raw_fd())?;
    set("rootmode", &"40755")?;
    set("user_id", &geteuid().as_raw())?;
    set("group_id", &getegid().as_raw())?;
    fsconfig_set_flag(&context, "default_permissions").map_err(told)?;
    if options.allow_other {
        fsconfig_set_flag(&context, "allow_other").map_err(told)?;
    }
    if options.read_only {
        fsconfig_set_flag(&context, "ro").map_err(told)?;
    }
    fsconfig_create(&context).map_err(told)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, options.no_exec);
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Mounts the ext4 on a block device, and answers the detached mount: it has no path in any namespace, and goes with the
/// last descriptor of what is on it.
///
/// Devices and set-user-id bits do not count on it. Freed blocks are given back to the device, and a file system that is
/// found to be broken becomes read-only. With `read_only` nothing is changed but that a journal is replayed.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN in the initial user namespace; `EINVAL`, `EUCLEAN` and others if there is no sound ext4
/// on the device. What the kernel says is part of the message.
pub fn new_ext4(device: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error.into());
    fsconfig_set_string(&context, "source", super::open::proc_path(device)).map_err(told)?;
    fsconfig_set_string(&context, "errors", "remount-ro").map_err(told)?;
    for flag in ["discard", "noinit_itable"] {
        fsconfig_set_flag(&context, flag).map_err(told)?;
    }
    if read_only {
        fsconfig_set_flag(&context, "ro").map_err(told)?;
    }
    fsconfig_create(&context).map_err(told)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The same error with the messages that the kernel left in a file system context (read(2) on it, one a call).
pub(super) fn explain(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut said = String::new();
    let mut buffer = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let Some(message) = buffer.get(..length).filter(|m| !m.is_empty()) else { break };
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.push_str(message.escape_ascii().to_string().trim_end_matches("\\n"));
    }
    if said.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {said}")) }
}

/// Mounts the EROFS image in a regular file, and answers the detached mount: read-only, without set-user-id bits, devices and
/// programs.
///
/// # Errors
/// `ENOTBLK` before Linux 6.12 and for a file on tmpfs or overlayfs: then a loop device is what works; `ENODEV` without EROFS in
/// the kernel; `EINVAL`, `EUCLEAN` for what is no image.
pub fn new_erofs(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error.into());
    fsconfig_set_string(&context, "source", super::open::proc_path(file)).map_err(told)?;
    // A block device is opened for reading alone then.
    fsconfig_set_flag(&context, "ro").map_err(told)?;
    fsconfig_create(&context).map_err(told)?;
    inert(&context)
}

/// A new tmpfs, detached, for a directory tree that no process changes later. Mode 0755.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN; `ENOMEM`.
pub fn new_tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error.into());
    fsconfig_set_string(&context, "mode", "0755").map_err(told)?;
    fsconfig_create(&context).map_err(told)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A FUSE file system on a fresh `device` that is never asked anything: it belongs to a user that no process has, so that the kernel
/// answers all by itself (fs/fuse/dir.c, `fuse_allow_current_process`). It tells when it is gone: `device` then fails
/// ([`super::fuse_device::is_gone`]).
///
/// # Errors
/// As [`new_fuse`].
pub fn new_anchor(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error.into());
    let set =
        |key: &str, value: &dyn Display| fsconfig_set_string(&context, key, value.to_string()).map_err(told);
    fsconfig_set_string(&context, "source", SUBTYPE).map_err(told)?;
    set("subtype", &"nixview-anchor")?;
    set("fd", &device.as_raw_fd())?;
    set("rootmode", &"40000")?;
    for key in ["user_id", "group_id"] {
        set(key, &(u32::MAX - 1))?;
    }
    fsconfig_create(&context).map_err(told)?;
    inert(&context)
}

/// The mount of a file system that is only read, and of which nothing is executed.
fn inert(context: &OwnedFd) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Opens a directory as a place to mount on, without looking into it. Symbolic links are not followed at its end.
///
/// # Errors
/// Those of open(2): `ENOENT`, `ENOTDIR` (also for a symbolic link), `EACCES`.
pub fn open_target(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Gives a detached mount its place: on top of `target`, in the mount namespace of the caller.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the mount namespace, `EINVAL` if `mount` is attached already or `target` is in
/// another namespace, `ENOTDIR` if it is no directory.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// A detached clone of the mount at `path`, with the directory `path` as its root, through which nobody can write.
///
/// Whatever is opened beneath it, also by the kernel on behalf of a client (passthrough reopens a file with the
/// client's flags), is read-only: the mount refuses with `EROFS`. It is private: later mounts below `path` do not
/// appear in it. Other mounts below `path` are left out, unless the caller is in a user namespace in which they are
/// locked to their places: then they are part of it, read-only too. Symbolic links in `path` are followed.
///
/// # Errors
/// Those of opening `path`; `EPERM` without CAP_SYS_ADMIN in the user namespace of the mount namespace.
pub fn clone_read_only(path: &Path) -> io::Result<OwnedFd> {
    let directory =
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = match open_tree(&directory, "", flags) {
        Err(rustix::io::Errno::INVAL) => open_tree(&directory, "", flags | OpenTreeFlags::AT_RECURSIVE)?,
        answer => answer?,
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    set_attributes(clone.as_fd(), &attributes, libc::AT_RECURSIVE)?;
    Ok(clone)
}

/// What of a mount is changed; `None` leaves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Nobody can write through it.
    pub read_only: Option<bool>,
    /// No program in it can be executed.
    pub no_exec: Option<bool>,
}

/// Changes a mount, of which `mount` is a descriptor of any file; other mounts of its file system stay as they are.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the mount namespace, or if the attribute is locked in a user namespace; `EBUSY`
/// if it is to become read-only and somebody writes.
pub fn change(mount: BorrowedFd<'_>, change: Change) -> io::Result<()> {
    let mut attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let wanted = [(change.read_only, libc::MOUNT_ATTR_RDONLY), (change.no_exec, libc::MOUNT_ATTR_NOEXEC)];
    for (wanted, attribute) in wanted {
        match wanted {
            Some(true) => attributes.attr_set |= attribute,
            Some(false) => attributes.attr_clr |= attribute,
            None => {}
        }
    }
    set_attributes(mount, &attributes, 0)
}

/// Shows the users and groups of a detached mount as a user namespace maps them.
///
/// # Errors
/// As [`super::idmap::show_as`].
pub(super) fn map_ids(mount: BorrowedFd<'_>, namespace: &OwnedFd) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(|_| rustix::io::Errno::BADF)?;
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(mount, &attributes, 0)
}

/// mount_setattr(2) on a mount, with `AT_RECURSIVE` also on all below it; neither rustix nor nix has it.
fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    recursive: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the path is a NUL-terminated constant, `attributes` is a live structure of exactly the length given,
    // and the kernel only reads both during the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a mount is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Now, or not at all (`EBUSY` while somebody uses it).
    Now,
    /// From its path now, altogether when nobody uses it any more (`MNT_DETACH`).
    Lazy,
    /// Abort the connection to the server first, so that every waiting client gets an error, then as [`Self::Lazy`].
    Abort,
}

impl Unmount {
    /// The flags of umount2(2).
    pub(super) fn flags(self) -> UnmountFlags {
        match self {
            Self::Now => UnmountFlags::empty(),
            Self::Lazy => UnmountFlags::DETACH,
            Self::Abort => UnmountFlags::DETACH | UnmountFlags::FORCE,
        }
    }
}

/// Takes away the topmost mount at `path`. Does not ask the file system of that mount anything.
///
/// For a path that no other user can change; for all others there is [`super::mount_point`].
///
/// # Errors
/// `EINVAL` if nothing is mounted there, `EBUSY`, `EPERM` without privilege (see
/// [`super::fusermount::unmount`]).
pub fn unmount(path: &Path, how: Unmount) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, how.flags() | UnmountFlags::NOFOLLOW)?)
}
