//! Mounts of the kernel's own union file system, overlayfs, whose table entry names nothing of the host.
//!
//! overlayfs shows in mountinfo what its layers were called when it was mounted. Here they are names in a directory that goes with the
//! process that mounts: it attaches the layers, which are detached mounts, in a mount namespace of its own, in an empty tmpfs, and
//! names them relative to that. This works on every kernel since 5.12, where descriptors as layers need 6.15
//! (Documentation/filesystems/overlayfs.rst; fs/overlayfs/params.c).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::pipe::PipeFlags;

use super::locked_mount::{MountClone, make_locked};
use super::mount::{MAX_SOURCE, SUBTYPE, attach, explain, open_target};
use super::mountinfo::MountInfo;

/// The first lower layer of each of our mounts: tells them from other overlays in a mount table.
const FIRST: &str = "nixview";

/// The layers of an overlay, each a detached mount. The first shadows the second, and so on.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// A directory with the directories [`UPPER`] and [`WORK`], where changes go; `None`: nothing can be changed.
    pub upper: Option<BorrowedFd<'a>>,
    /// What is read, from top to bottom. At least one.
    pub lower: &'a [BorrowedFd<'a>],
    /// A layer of data only, which no look-up reaches: its file system ends with the overlay.
    pub anchor: Option<BorrowedFd<'a>>,
}

/// The top of the changes, in the directory of an upper.
pub const UPPER: &str = "tree";

/// The work directory of overlayfs, beside it.
pub const WORK: &str = "work";

/// How an overlay is mounted. Set-user-id bits and devices never count (`nosuid`, `nodev`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OverlayOptions<'s> {
    /// What mountinfo shows as its source; without it, and if it is too long for the kernel, [`SUBTYPE`].
    pub source: Option<&'s Path>,
    /// Nothing of the upper is ever synced: it is lost with the next crash.
    pub volatile: bool,
    /// The first lower layer has files without contents, whose contents lie further below.
    pub metacopy: bool,
    /// Forbids executing programs from it.
    pub no_exec: bool,
}

/// An overlay that was mounted.
#[derive(Debug)]
pub struct OverlayMount {
    /// A detached mount of the directory that is shown, with locked flags. Nothing else of the overlay is reachable.
    pub shown: MountClone,
    /// The anchor is a layer of it.
    pub anchored: bool,
}

/// Mounts an overlay, and answers its directory `shown`. Where the kernel refuses the anchor as a layer (before Linux 6.16 it takes one
/// with `metacopy` alone), it is made without.
///
/// The layers cannot be used again, also after an error: their mounts have had a place.
///
/// # Errors
/// As [`make_locked`]; what the kernel says of the layers, in its words: `EINVAL` also for an option that it does not know.
pub fn mount(layers: &Layers<'_>, options: &OverlayOptions<'_>, shown: &str) -> io::Result<OverlayMount> {
    // The process that mounts says with a byte that there is no anchor.
    let (told, tells) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let shown = make_locked(shown, |_| {
        let (mount, anchored) = make(layers, options)?;
        if !anchored {
            rustix::io::write(&tells, b"-")?;
        }
        Ok(mount)
    })?;
    let anchored =
        layers.anchor.is_some() && rustix::io::read(&told, &mut [0; 1]) == Err(rustix::io::Errno::AGAIN);
    Ok(OverlayMount { shown, anchored })
}

/// True if a line of a mount table is an overlay of ours.
#[must_use]
pub fn is_ours(mount: &MountInfo) -> bool {
    let layers =
        mount.super_options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(b"lowerdir="));
    let first = layers.and_then(|layers| layers.split(|byte| *byte == b':').next());
    mount.file_system == b"overlay" && first == Some(FIRST.as_bytes())
}

/// A detached clone of the mount that shows a directory, with the directory as its root. Later mounts below it do not appear.
///
/// # Errors
/// `EINVAL` if the directory is on a detached mount, before Linux 6.15; `EPERM` without CAP_SYS_ADMIN.
pub fn clone_directory(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(directory, "", flags)?)
}

/// Mounts the overlay in the working directory, where its layers get a place; answers whether the anchor is one.
fn make(layers: &Layers<'_>, options: &OverlayOptions<'_>) -> io::Result<(OwnedFd, bool)> {
    let mut lower = String::new();
    for (number, layer) in layers.lower.iter().enumerate() {
        let name = if number == 0 { FIRST.to_owned() } else { format!("{FIRST}{number}") };
        place(*layer, &name)?;
        if number > 0 {
            lower.push(':');
        }
        lower.push_str(&name);
    }
    if let Some(upper) = layers.upper {
        place(upper, "upper")?;
    }
    if let Some(anchor) = layers.anchor {
        place(anchor, "anchor")?;
        match make_of(&format!("{lower}::anchor"), layers.upper.is_some(), options) {
            Ok(made) => return Ok((made, true)),
            Err(error) => tracing::debug!(%error, "an overlay without an anchor is tried"),
        }
    }
    Ok((make_of(&lower, layers.upper.is_some(), options)?, false))
}

/// Mounts the overlay of layers that have their places.
fn make_of(lower: &str, has_upper: bool, options: &OverlayOptions<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let told = |error: rustix::io::Errno| explain(&context, error.into());
    let source = options.source.map(|path| path.as_os_str().as_bytes());
    let source = source.filter(|source| (1..=MAX_SOURCE).contains(&source.len()));
    fsconfig_set_string(&context, "source", source.unwrap_or(SUBTYPE.as_bytes())).map_err(told)?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value).map_err(told);
    set("lowerdir", lower)?;
    if has_upper {
        set("upperdir", &format!("upper/{UPPER}"))?;
        set("workdir", &format!("upper/{WORK}"))?;
    }
    // A distribution may have other defaults (modprobe.d): all that matters is said.
    for (key, value) in [
        ("redirect_dir", "on"),
        ("index", "off"),
        ("nfs_export", "off"),
        ("metacopy", if options.metacopy { "on" } else { "off" }),
        // Numbers of files stay below 2^53, which programs that keep them as doubles need.
        ("xino", "off"),
    ] {
        set(key, value)?;
    }
    // Linux 6.6: no UUID is written to the upper, or shown.
    if let Err(error) = fsconfig_set_string(&context, "uuid", "null")
        && error != rustix::io::Errno::INVAL
    {
        return Err(told(error));
    }
    if options.volatile {
        fsconfig_set_flag(&context, "volatile").map_err(told)?;
    }
    fsconfig_create(&context).map_err(told)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, options.no_exec);
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, !has_upper);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a detached mount to a new directory of the working directory.
fn place(mount: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    mkdirat(CWD, name, Mode::from_raw_mode(0o700))?;
    attach(mount, open_target(Path::new(name))?.as_fd())
}
