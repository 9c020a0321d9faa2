//! A process that becomes another program and keeps what it has open, and comes back.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};

/// The program that this process runs, open for [`become_program`]; also one whose file was replaced or removed.
///
/// # Errors
/// As open(2).
pub fn own_program() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a program for [`become_program`].
///
/// # Errors
/// As open(2).
pub fn open_program(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The descriptors that this process was started with, but for the standard three: what the program before passed on.
#[derive(Debug)]
pub struct Started(Vec<RawFd>);

impl Started {
    /// Notes them. To be called first of all: a descriptor that this process opens by itself has close-on-exec.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn note() -> io::Result<Self> {
        let mut numbers = Vec::new();
        each(|number, descriptor| {
            if !rustix::io::fcntl_getfd(descriptor)?.contains(FdFlags::CLOEXEC) && number > 2 {
                numbers.push(number);
            }
            Ok(())
        })?;
        Ok(Self(numbers))
    }

    /// Closes them: what they hold goes, unless another process holds it.
    pub fn close(self) {
        for number in self.0 {
            // SAFETY: nothing here has it: it was open before this program began.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

/// Calls `with` for each descriptor that is open.
fn each(mut with: impl FnMut(RawFd, BorrowedFd<'_>) -> rustix::io::Result<()>) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: the number is used for one call, which answers EBADF for one that is not open.
        match with(number, unsafe { BorrowedFd::borrow_raw(number) }) {
            // That of the list itself may be closed by now.
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes close-on-exec from all descriptors: they outlive [`become_program`].
///
/// # Errors
/// Those of reading /proc.
pub fn keep_descriptors() -> io::Result<()> {
    each(|_, descriptor| rustix::io::fcntl_setfd(descriptor, FdFlags::empty()))
}

/// Takes close-on-exec from one descriptor.
///
/// # Errors
/// As fcntl(2).
pub fn keep_descriptor(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?)
}

/// Becomes a program, without an environment; the arguments begin with its name. Blocked and ignored signals stay so, and
/// the process keeps its number.
///
/// # Errors
/// As execveat(2): then nothing has changed.
pub fn become_program(program: &OwnedFd, arguments: &[CString]) -> io::Result<Infallible> {
    let none: [&CStr; 0] = [];
    Ok(nix::unistd::fexecve(program, arguments, &none)?)
}

/// A copy of a descriptor that this process was started with; the original stays open.
///
/// # Errors
/// `EBADF` if there is none.
pub fn inherited(number: u32) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: the number is used for one call, which answers EBADF for one that is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?)
}
