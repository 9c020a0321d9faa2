//! What this machine has of what views by overlayfs need, tried and not guessed.

use std::io;
use std::os::fd::AsFd;

use super::doctor::Check;
use crate::sys::mount;
use crate::sys::names;
use crate::sys::overlay::{self, Layers, OverlayOptions};
use crate::sys::process;

/// What the check is called.
const NAME: &str = "overlay";

/// Mounts a small overlay that no path leads to. Leaves nothing.
///
/// To be called without other threads: a fork mounts.
pub(super) fn overlay(privileged: bool) -> Check {
    let advice = "views have a server (FUSE) instead, also with '--backend auto'";
    if !privileged || !process::is_initial_user_namespace() {
        return Check::limited(NAME, "not without root: there overlayfs follows no redirects", advice);
    }
    let layer = match closure_layer() {
        Ok(how) => how,
        Err(error) => return Check::limited(NAME, error.to_string(), advice),
    };
    match small_overlay() {
        Ok(()) => Check::good(NAME, format!("views without a server can be had; closure layers are {layer}")),
        Err(error) => Check::limited(NAME, error.to_string(), advice),
    }
}

/// How closure layers are mounted here.
fn closure_layer() -> io::Result<&'static str> {
    let empty = rustix::fs::memfd_create("nixview-probe", rustix::fs::MemfdFlags::CLOEXEC)?;
    // It is no image, and on no disk: the question is whether the kernel knows the file system.
    match mount::new_erofs(empty.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok("kept in memory (no EROFS)"),
        _ => Ok("images"),
    }
}

fn small_overlay() -> io::Result<()> {
    let top = mount::new_tmpfs()?;
    names::create_directory(top.as_fd(), b"nix", 0o755)?;
    let bottom = mount::new_tmpfs()?;
    let lower = [top.as_fd(), bottom.as_fd()];
    let layers = Layers { upper: None, lower: &lower, anchor: None };
    overlay::mount(&layers, &OverlayOptions::default(), "nix").map(drop)
}
