//! Signals as something to wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// A set of signals that no longer interrupt the process, but are read from a descriptor (signalfd(2)).
///
/// Threads that are started later inherit that they are blocked; a program that is executed inherits it too, unless
/// [`unblock`](Self::unblock) is called before.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    set: SigSet,
}

/// A signal that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Its number.
    pub signal: i32,
    /// True if the kernel sent it by itself, as a terminal's interrupt key has it do, to the whole foreground group.
    pub from_kernel: bool,
}

impl Signals {
    /// Blocks `signals` in this thread and makes them readable.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        Self::of(set)
    }

    /// Blocks `signals` in this thread, makes them readable, and lets all others through, whatever the caller of this
    /// process has blocked.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn block_only(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_set_mask()?;
        Self::of(set)
    }

    fn of(set: SigSet) -> io::Result<Self> {
        Ok(Self {
            descriptor: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            set,
        })
    }

    /// Lets the signals through again, in this thread.
    ///
    /// # Errors
    /// As pthread_sigmask(3).
    pub fn unblock(&self) -> io::Result<()> {
        Ok(self.set.thread_unblock()?)
    }

    /// The next signal that has arrived, without waiting.
    ///
    /// # Errors
    /// As read(2).
    pub fn next(&self) -> io::Result<Option<Arrived>> {
        Ok(self.descriptor.read_signal()?.map(|info| Arrived {
            signal: i32::try_from(info.ssi_signo).unwrap_or_default(),
            from_kernel: info.ssi_code > 0,
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Waits until one of `descriptors` can be read or was closed by the other side; answers which, in their order. All
/// are `false` after `timeout`.
///
/// # Errors
/// As poll(2); an interrupting signal is none.
pub fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let until = timeout.map(|t| std::time::Instant::now() + t);
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|d| PollFd::from_borrowed_fd(*d, PollFlags::IN)).collect();
    loop {
        let left = until.map(|u| u.saturating_duration_since(std::time::Instant::now()));
        let left = left.map(|l| Timespec {
            tv_sec: i64::try_from(l.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: l.subsec_nanos().into(),
        });
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => return Ok(polled.iter().map(|p| !p.revents().is_empty()).collect()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

    use super::*;

    #[test]
    fn a_blocked_signal_is_read_and_who_sent_it_is_known() {
        let signals = Signals::block(&[Signal::SIGUSR2]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
        let ready = wait_readable(&[signals.as_fd()], Some(Duration::from_secs(5))).unwrap();
        assert!(ready[0]);
        let arrived = signals.next().unwrap().unwrap();
        assert_eq!(arrived, Arrived { signal: libc::SIGUSR2, from_kernel: false });
        signals.unblock().unwrap();
    }

    #[test]
    fn waiting_ends_when_the_other_side_is_closed() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(!wait_readable(&[read.as_fd()], Some(Duration::ZERO)).unwrap()[0]);
        drop(write);
        assert!(wait_readable(&[read.as_fd()], None).unwrap()[0]);
    }
}
