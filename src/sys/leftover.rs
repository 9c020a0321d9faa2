//! Files that go away with the process, also when a signal ends it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// A file that is removed when this is dropped, or a signal ends the process.
#[derive(Debug)]
pub struct Leftover {
    directory: OwnedFd,
    name: CString,
    slot: Option<&'static Slot>,
    kept: bool,
}

/// What the handler of signals reads: a file of the process `owner`, if `name` is not null.
#[derive(Debug)]
struct Slot {
    owner: AtomicI32,
    directory: AtomicI32,
    name: AtomicPtr<c_char>,
}

/// How many files are known to the handler at once. More are removed by [`Drop`] alone.
const SLOTS: usize = 8;

static KNOWN: [Slot; SLOTS] = [const {
    Slot { owner: AtomicI32::new(0), directory: AtomicI32::new(-1), name: AtomicPtr::new(null_mut()) }
}; SLOTS];

/// The signals that end a process and can be handled.
const ENDING: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGXCPU, Signal::SIGXFSZ];

impl Leftover {
    /// A file `name` in `directory` that is about to be made. To be told before it is there.
    ///
    /// # Errors
    /// As dup(2) and sigaction(2).
    pub fn expect(directory: BorrowedFd<'_>, name: CString) -> io::Result<Self> {
        handle_signals()?;
        let directory = directory.try_clone_to_owned()?;
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let take =
            |slot: &&Slot| slot.owner.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let slot = KNOWN.iter().find(take);
        if let Some(slot) = slot {
            slot.directory.store(directory.as_raw_fd(), Ordering::Relaxed);
            slot.name.store(name.clone().into_raw(), Ordering::Release);
        }
        Ok(Self { directory, name, slot, kept: false })
    }

    /// Its name in the directory.
    #[must_use]
    pub fn name(&self) -> &CStr {
        &self.name
    }

    /// The file has another name now, or was not made: nothing is to be removed.
    pub fn forget(mut self) {
        self.kept = true;
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) =
                rustix::fs::unlinkat(&self.directory, &self.name, rustix::fs::AtFlags::empty())
        {
            tracing::warn!(file = ?self.name, %error, "a draft stays behind");
        }
        if let Some(slot) = self.slot {
            let name = slot.name.swap(null_mut(), Ordering::AcqRel);
            if !name.is_null() {
                // SAFETY: it came from `CString::into_raw`, and taking it out of the slot made it ours alone.
                drop(unsafe { CString::from_raw(name) });
            }
            slot.owner.store(0, Ordering::Release);
        }
    }
}

/// Has the signals that would end this process remove the files first. A signal that is ignored or handled is left so.
fn handle_signals() -> io::Result<()> {
    static DONE: Once = Once::new();
    let mut answer = Ok(());
    DONE.call_once(|| answer = ENDING.into_iter().try_for_each(handle));
    answer
}

fn handle(signal: Signal) -> io::Result<()> {
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_RESTART;
    let ours = SigAction::new(SigHandler::Handler(remove_all), flags, SigSet::empty());
    // SAFETY: the handler makes only calls that are safe in one, and allocates nothing.
    let before = unsafe { sigaction(signal, &ours) }?;
    if !matches!(before.handler(), SigHandler::SigDfl) {
        // SAFETY: what was installed before is installed again.
        unsafe { sigaction(signal, &before) }?;
    }
    Ok(())
}

/// The handler: removes the files of this process, and ends it as the signal would have. `SA_RESETHAND` has set the
/// default action, and the signal that is raised arrives when the handler returns.
extern "C" fn remove_all(signal: c_int) {
    // SAFETY: it is safe in a handler, and cannot fail.
    let own = unsafe { libc::getpid() };
    for slot in &KNOWN {
        // A child that was forked has the files of its parent here.
        if slot.owner.load(Ordering::Acquire) != own {
            continue;
        }
        let name = slot.name.swap(null_mut(), Ordering::AcqRel);
        if !name.is_null() {
            // SAFETY: the name is a string with its end, and is leaked from here on.
            unsafe { libc::unlinkat(slot.directory.load(Ordering::Relaxed), name, 0) };
        }
    }
    // SAFETY: it is safe in a handler.
    unsafe { libc::raise(signal) };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::exit, clippy::disallowed_methods, reason = "a process of the test ends at once")]
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::sys::signal::raise;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    #[test]
    fn a_signal_removes_it_and_ends_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        for (signal, fork_again) in
            [(Signal::SIGTERM, false), (Signal::SIGINT, false), (Signal::SIGTERM, true)]
        {
            // SAFETY: the child makes files, raises a signal, and ends.
            match unsafe { fork() }.unwrap() {
                ForkResult::Child => {
                    // It is ignored where a shell started the tests in the background.
                    // SAFETY: no handler is installed.
                    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
                    handle(signal).unwrap();
                    let all: Vec<Leftover> = (0..3)
                        .map(|at| {
                            let name = CString::new(format!("draft-{at}")).unwrap();
                            File::create(dir.path().join(name.to_str().unwrap())).unwrap();
                            Leftover::expect(directory.as_fd(), name).unwrap()
                        })
                        .collect();
                    if fork_again {
                        // SAFETY: as above.
                        match unsafe { fork() }.unwrap() {
                            ForkResult::Child => assert!(raise(signal).is_err()),
                            ForkResult::Parent { child } => assert!(waitpid(child, None).is_ok()),
                        }
                        if !dir.path().join("draft-0").exists() {
                            std::process::abort();
                        }
                    }
                    let raised = raise(signal);
                    drop(all);
                    std::process::exit(i32::from(raised.is_ok()));
                }
                ForkResult::Parent { child } => {
                    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Signaled(child, signal, false));
                    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
                }
            }
        }
    }

    #[test]
    fn dropped_it_goes_and_forgotten_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let directory = File::open(dir.path()).unwrap();
        for _ in 0..2 * SLOTS {
            let expect = |name: &CStr| Leftover::expect(directory.as_fd(), name.to_owned()).unwrap();
            File::create(dir.path().join("goes")).unwrap();
            File::create(dir.path().join("stays")).unwrap();
            drop(expect(c"goes"));
            expect(c"stays").forget();
        }
        assert!(!dir.path().join("goes").exists() && dir.path().join("stays").exists());
    }
}
