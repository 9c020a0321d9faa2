//! Descriptors that this process was started with, by their names in /proc.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};

/// The descriptor that `name` in `directory` is a link to, duplicated for writing, if `directory` is the list of this
/// process's descriptors: `/proc/self/fd/1`. `None` for every other directory.
///
/// A duplicate has the offset of the original, and works for sockets, which cannot be opened by their link.
///
/// # Errors
/// `EBADF` if there is none, if it cannot be written to, or if it is one that this process has opened itself: those
/// have close-on-exec, which no descriptor that is handed over has.
pub fn inherited(directory: &OwnedFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
    let (own, here) = (rustix::fs::fstat(&own)?, rustix::fs::fstat(directory)?);
    if (own.st_dev, own.st_ino) != (here.st_dev, here.st_ino) {
        return Ok(None);
    }
    let number: RawFd = name.to_str().ok().and_then(|text| text.parse().ok()).ok_or(Errno::NOENT)?;
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the number is used for three calls, each of which answers EBADF for one that is not open. Nothing is
    // closed by it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    let mode = rustix::fs::fcntl_getfl(descriptor)? & OFlags::RWMODE;
    if mode != OFlags::WRONLY && mode != OFlags::RDWR {
        return Err(Errno::BADF.into());
    }
    Ok(Some(rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::ffi::CString;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_what_was_handed_over_is_found() {
        let list: OwnedFd = File::open("/proc/self/fd").unwrap().into();
        let name = |number: RawFd| CString::new(number.to_string()).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(inherited(&list, &name(file.as_raw_fd())).unwrap_err().raw_os_error(), Some(libc::EBADF));
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        assert!(inherited(&list, &name(file.as_raw_fd())).unwrap().is_some());
        let other: OwnedFd = File::open("/proc/self").unwrap().into();
        assert!(inherited(&other, c"status").unwrap().is_none());
        assert!(inherited(&list, c"-1").is_err() && inherited(&list, c"x").is_err());
        let read_only = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&read_only, FdFlags::empty()).unwrap();
        assert!(inherited(&list, &name(read_only.as_raw_fd())).is_err());
    }
}
