//! What keeper, server and tracer of a view share.
//!
//! The page of control is a row of 64-bit numbers ([`Slot`]). The log is lines of a trace ([`crate::trace`]), without the first and the
//! last. A pipe wakes the server when the page was written.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::pipe::PipeFlags;

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
    /// The descriptors of the keeper, which a server has under the same numbers.
    LogDescriptor,
    WakeDescriptor,
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
        let file = |name| -> io::Result<File> {
            let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
            rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            Ok(file.into())
        };
        let (control, log) = (file(CONTROL)?, file(LOG)?);
        // Each write is one line, wherever the end is.
        rustix::fs::fcntl_setfl(&log, OFlags::APPEND)?;
        let (woken, wake) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let shared = Self { control, log, wake: wake.into() };
        let number = |file: &File| u64::try_from(file.as_raw_fd()).unwrap_or_default();
        shared.set(Slot::LogDescriptor, number(&shared.log))?;
        shared.set(Slot::WakeDescriptor, number(&shared.wake))?;
        shared.set(Slot::Wanted, wanted)?;
        shared.set(Slot::Magic, MAGIC)?;
        Ok((shared, woken.into()))
    }

    /// Of another process.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not; `NotFound` if it has none, or one of another version.
    pub(super) fn of_process(pid: i32) -> io::Result<Self> {
        let dir = format!("/proc/{pid}/fd");
        let open = |number: u64, options: &mut std::fs::OpenOptions| options.open(format!("{dir}/{number}"));
        let mut control = None;
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            // One that was closed meanwhile is not it.
            if std::fs::read_link(&path).is_ok_and(|link| link.as_os_str() == memory_name(CONTROL).as_str()) {
                control = Some(File::options().read(true).write(true).open(path)?);
            }
        }
        let control = control.ok_or(io::ErrorKind::NotFound)?;
        if number(&control, Slot::Magic)? != MAGIC {
            return Err(io::ErrorKind::NotFound.into());
        }
        let log = open(number(&control, Slot::LogDescriptor)?, File::options().read(true).write(true))?;
        let wake = open(
            number(&control, Slot::WakeDescriptor)?,
            File::options().write(true).custom(OFlags::NONBLOCK),
        )?;
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

/// What `/proc/PID/fd` shows of a file in memory.
fn memory_name(name: &str) -> String {
    format!("/memfd:{name} (deleted)")
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

/// Flags of open(2) that the standard library has no name for.
trait Custom {
    fn custom(&mut self, flags: OFlags) -> &mut Self;
}

impl Custom for std::fs::OpenOptions {
    fn custom(&mut self, flags: OFlags) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, flags.bits().cast_signed())
    }
}
