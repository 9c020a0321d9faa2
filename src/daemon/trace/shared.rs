//! What keeper, server and tracer of a view share.
//!
//! The page of control is a row of 64-bit numbers ([`Slot`]). The log is lines of a trace ([`crate::trace`]), without the first and the
//! last. A pipe wakes the server when the page was written.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::pipe::PipeFlags;

use crate::sys::memory_file::{self, Wanted};

/// The names of the files, as `/proc/PID/fd` shows them.
const CONTROL: &str = "nixview-trace";
const LOG: &str = "nixview-trace-log";

/// What the page of control begins with; other versions have another.
const MAGIC: u64 = u64::from_le_bytes(*b"nvtrace1");

/// No trace is wanted.
pub(super) const NONE: u64 = 0;

/// A trace from the beginning of the view to its end.
pub(super) const WHOLE: u64 = u64::MAX;

/// The numbers of the page of control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// [`MAGIC`].
    Magic,
    /// The trace that is wanted: [`NONE`], [`WHOLE`], or the number of a tracer's.
    Wanted,
    /// The one that the server records.
    Recorded,
    /// Not 0 if there was no memory for all of it.
    Lost,
    /// The number of the pipe.
    Pipe,
}

/// The page, the log and the pipe.
#[derive(Debug)]
pub(in crate::daemon) struct Shared {
    pub(super) control: File,
    pub(super) log: File,
    pub(super) wake: File,
}

impl Shared {
    /// For a new view. The other end of the pipe is the server's.
    ///
    /// # Errors
    /// As memfd_create(2) and pipe(2).
    pub(super) fn new(wanted: u64) -> io::Result<(Self, File)> {
        let (control, log) = (memory_file::new(CONTROL)?, memory_file::new(LOG)?);
        memory_file::append(&log)?;
        let (woken, wake) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let shared = Self { control, log, wake: wake.into() };
        shared.set(Slot::Pipe, memory_file::pipe_number(&shared.wake)?)?;
        shared.set(Slot::Wanted, wanted)?;
        shared.set(Slot::Magic, MAGIC)?;
        Ok((shared, woken.into()))
    }

    /// Of another process.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not; `NotFound` if it has none, or one of another version.
    pub(super) fn of_process(pid: i32) -> io::Result<Self> {
        let open = |wanted| {
            memory_file::of_process(pid, wanted)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let control: File = open(Wanted::Memory(CONTROL))?;
        if number(&control, Slot::Magic)? != MAGIC {
            return Err(io::ErrorKind::NotFound.into());
        }
        let log = open(Wanted::Memory(LOG))?;
        let wake = open(Wanted::Pipe(number(&control, Slot::Pipe)?))?;
        Ok(Self { control, log, wake })
    }

    /// The same for another owner in this process.
    ///
    /// # Errors
    /// As dup(2).
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            control: self.control.try_clone()?,
            log: self.log.try_clone()?,
            wake: self.wake.try_clone()?,
        })
    }

    /// A number of the page; one that is not there is 0.
    ///
    /// # Errors
    /// As read(2).
    pub(super) fn get(&self, slot: Slot) -> io::Result<u64> {
        number(&self.control, slot)
    }

    /// Writes a number.
    ///
    /// # Errors
    /// As write(2).
    pub(super) fn set(&self, slot: Slot, value: u64) -> io::Result<()> {
        self.control.write_all_at(&value.to_ne_bytes(), offset(slot))
    }

    /// Has the server look at the page.
    ///
    /// # Errors
    /// As write(2).
    pub(super) fn wake(&self) -> io::Result<()> {
        match rustix::io::write(&self.wake, b".") {
            // It has enough to wake up for.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// True if somebody holds the page: a tracer does as long as it lives.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn is_held(&self) -> io::Result<bool> {
        crate::sys::lock::is_locked(self.control.as_fd())
    }
}

fn offset(slot: Slot) -> u64 {
    slot as u64 * 8
}

fn number(control: &File, slot: Slot) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match control.read_exact_at(&mut bytes, offset(slot)) {
        Ok(()) => Ok(u64::from_ne_bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}
