//! Directories of the host that a view shows: through nothing can they be written.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::sys::{mount, process};

/// A directory on a read-only clone of its mount. A process that may not mount gets the directory itself: it
/// has no passthrough either, so that nobody but this program opens anything beneath it, and that for reading alone.
///
/// # Errors
/// Those of [`mount::clone_read_only`] and open(2).
pub fn open_read_only(real: &Path) -> io::Result<OwnedFd> {
    match mount::clone_read_only(real) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && !process::may_mount()? => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(real, flags, Mode::empty())?)
        }
        answer => answer,
    }
}
