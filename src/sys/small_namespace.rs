//! A mount namespace with hardly a mount in it.
//!
//! A new mount namespace is a copy of the one of its maker, and costs time for each mount of that: with a thousand views on a host
//! more than all else that a mount does. A process that needs one for a moment therefore enters this one first, and copies that. It
//! is made when the host has many mounts, and lives as long as one of the processes that have it open; a file says where one has:
//!
//! ```text
//! PID DESCRIPTOR ID       ID: the number that no other mount namespace ever gets
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, fstatfs, mkdirat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsmount, fsopen,
};

use super::namespace::own_mounts;
use super::process::{self, Fork};
use super::{mount, open, socket};

/// From how many mounts on a copy is worth avoiding.
const MANY: u32 = 100;

/// The directory in its root that something can be mounted on.
pub(super) const PLACE: &str = "place";

/// The type of the files in /proc/PID/ns in statfs(2) (linux/magic.h, `NSFS_MAGIC`).
const NSFS: rustix::fs::FsWord = 0x6e73_6673;

/// `struct mnt_ns_info` (linux/nsfs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    size: u32,
    mounts: u32,
    id: u64,
}

mod raw {
    nix::ioctl_read!(mount_namespace_info, 0xb7, 10, super::Info);
}

/// The one of this process.
static HELD: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Makes sure that this process has one, if its own namespace has many mounts: that of another process, which the file `note` tells
/// of, or a new one, which it then tells of. Later calls do nothing.
///
/// # Errors
/// `ENOTTY` before Linux 6.12; those of making one, as fork(2); of writing the file. Without one all works, but takes longer.
pub fn provide(note: &Path) -> io::Result<()> {
    if HELD.get().is_some() {
        return Ok(());
    }
    let own = rustix::fs::open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if info(own.as_fd())?.mounts < MANY {
        return Ok(());
    }
    let held = match noted(note) {
        Some(held) => held,
        None => {
            let made = make()?;
            let id = info(made.as_fd())?.id;
            let draft = note.with_extension(format!("{}~", std::process::id()));
            fs::write(&draft, format!("{} {} {id}\n", std::process::id(), open::number(made.as_fd())))?;
            fs::rename(draft, note)?;
            made
        }
    };
    // A second thread may have been faster.
    drop(HELD.set(Some(held)));
    Ok(())
}

/// Enters the one of this process; false if it has none. The root and the working directory are an empty directory then, but for
/// [`PLACE`].
///
/// # Errors
/// As setns(2): `EINVAL` if this process has threads; `EPERM` without CAP_SYS_ADMIN where the namespace was made.
pub(super) fn enter() -> io::Result<bool> {
    let Some(Some(held)) = HELD.get() else { return Ok(false) };
    setns(held, CloneFlags::CLONE_NEWNS)?;
    Ok(true)
}

/// The one that a file tells of, if that is still there.
fn noted(note: &Path) -> Option<OwnedFd> {
    let text = fs::read_to_string(note).ok()?;
    let mut words = text.split_ascii_whitespace();
    let (pid, fd): (u32, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let id: u64 = words.next()?.parse().ok()?;
    // Another process may have that number, and anything open there: that is referred to, and not opened.
    let path = format!("/proc/{pid}/fd/{fd}");
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    if fstatfs(&found).ok()?.f_type != NSFS {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let found = rustix::fs::open(open::proc_path(found.as_fd()), flags, Mode::empty()).ok()?;
    (info(found.as_fd()).ok()?.id == id).then_some(found)
}

/// Makes one, in a process that ends.
fn make() -> io::Result<OwnedFd> {
    let (here, there) = socket::pair()?;
    let child = match process::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            drop(here);
            let made = make_here();
            let error = made.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            let told = socket::send(&there, error.to_string().as_bytes(), made.as_ref().ok());
            process::end_now(told.is_err().into());
        }
    };
    drop(there);
    let received = socket::receive(&here, 16);
    process::wait(child)?;
    match received? {
        (_, Some(made)) => Ok(made),
        (error, None) => {
            let error = std::str::from_utf8(&error).ok().and_then(|text| text.parse().ok());
            Err(io::Error::from_raw_os_error(error.unwrap_or(libc::ECHILD)))
        }
    }
}

fn make_here() -> io::Result<OwnedFd> {
    own_mounts()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty())?;
    let root = empty_root("/proc")?;
    mkdirat(&root, PLACE, Mode::from_raw_mode(0o700))?;
    Ok(own)
}

/// Makes an empty tmpfs, mounted on `anywhere`, the root and the working directory of this process, and takes the mounts of its
/// namespace away. Where the root cannot be left (the initial ramfs) they stay, and it is the working directory alone.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub(super) fn empty_root(anywhere: &str) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Not on "/": a process whose root is covered counts as chrooted, and gets no user namespace.
    let anywhere = mount::open_target(Path::new(anywhere))?;
    mount::attach(root.as_fd(), anywhere.as_fd())?;
    rustix::process::fchdir(&root)?;
    // The other mounts leave this namespace: the next copy would hold them, and cost time.
    if rustix::process::pivot_root(".", ".").is_ok() {
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    }
    Ok(root)
}

fn info(namespace: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = Info { size: u32::try_from(size_of::<Info>()).unwrap_or_default(), ..Info::default() };
    // SAFETY: the kernel writes at most the size that the request's number says, which is that of `info`.
    unsafe { raw::mount_namespace_info(namespace.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}
