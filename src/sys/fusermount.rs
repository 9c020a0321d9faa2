//! Mounting FUSE without privilege, through the set-user-id program `fusermount3`.
//!
//! It opens the device, mounts, and sends the descriptor through the socket that `_FUSE_COMMFD` names
//! (fusermount3(1); libfuse, util/fusermount.c). The mount is attached from the start, not detached.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use rustix::io::FdFlags;

use super::mount::{FuseOptions, SUBTYPE};

const PROGRAM: &str = "fusermount3";

/// Mounts a FUSE file system at `target` and answers the device. `nosuid` and `nodev` are set by the program.
///
/// # Errors
/// `ENOENT` if the program is not installed. Else, what the program says, in its words and with the kind
/// `PermissionDenied`: it wants `user_allow_other` in /etc/fuse.conf for `allow_other`, and a target that the user owns.
pub fn mount(target: &Path, options: FuseOptions<'_>) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut list = OsString::from(format!("default_permissions,subtype={SUBTYPE},fsname="));
    list.push(OsStr::from_bytes(&escaped(options.source_bytes())));
    list.push(if options.read_only { ",ro" } else { ",rw" });
    if options.allow_other {
        list.push(",allow_other");
    }
    if options.no_exec {
        list.push(",noexec");
    }
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(list).arg("--").arg(target).stdin(Stdio::null());
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    let in_child = move || Ok(rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?);
    // SAFETY: between fork and exec the closure makes one system call, fcntl(2), and allocates nothing.
    unsafe { command.pre_exec(in_child) };
    let output = command.output()?;
    drop(command);
    succeeded(&output)?;
    receive_descriptor(&ours)
}

/// A value of an option: the program takes a comma for its end, unless a backslash precedes it.
fn escaped(value: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| if matches!(byte, b',' | b'\\') { vec![b'\\', *byte] } else { vec![*byte] };
    value.iter().flat_map(escape).collect()
}

/// Takes away a mount of this user's.
///
/// # Errors
/// As for [`mount`].
pub fn unmount(target: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    succeeded(&command.arg("--").arg(target).stdin(Stdio::null()).output()?)
}

/// The version of the program, in its words.
///
/// # Errors
/// `ENOENT` if it is not installed.
pub fn version() -> io::Result<String> {
    let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output()?;
    succeeded(&output)?;
    Ok(String::from_utf8(output.stdout).map_err(io::Error::other)?.trim().to_owned())
}

fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = output.stderr.trim_ascii();
    let said = if said.is_empty() {
        format!("{PROGRAM} failed: {}", output.status)
    } else {
        std::str::from_utf8(said).map_or_else(|_| said.escape_ascii().to_string(), str::to_owned)
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, said))
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let number = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    let Some(number) = number else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{PROGRAM} sent no descriptor")));
    };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
