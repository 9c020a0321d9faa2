//! What a program inherits from the caller of nixview although nixview itself works otherwise: umask, blocked and
//! ignored signals.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SigHandler, SigSet, Signal};
use rustix::fs::Mode;

use super::limits::set_handler;

/// The permissions that files and directories of nixview's own never give: others do not write them.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// What the caller of this process has set.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    umask: Mode,
    blocked: SigSet,
    ignores_children: bool,
}

/// What the caller's umask takes from the user itself: it counts for output files, and would shut nixview out of its own.
static OWNER_MASK: AtomicU32 = AtomicU32::new(0);

/// The permissions of a user that its umask takes from an output file.
pub(super) fn owner_mask() -> Mode {
    Mode::from_raw_mode(OWNER_MASK.load(Ordering::Relaxed))
}

/// Sets the umask of a service, whatever its caller has: only its user writes what it makes, and all may read it.
pub fn own_umask() {
    rustix::process::umask(Mode::from_raw_mode(WRITABLE_BY_OTHERS));
}

impl Inherited {
    /// Notes what the caller has set, and sets what this process needs: its user, and nobody else, can write what it
    /// makes, and it can wait for its children. To be called once, before there are other threads.
    ///
    /// # Errors
    /// As sigaction(2).
    pub fn take() -> io::Result<Self> {
        let umask = rustix::process::umask(Mode::from_raw_mode(WRITABLE_BY_OTHERS));
        OWNER_MASK.store(umask.intersection(Mode::RWXU).as_raw_mode(), Ordering::Relaxed);
        let others = umask.difference(Mode::RWXU);
        rustix::process::umask(others | Mode::from_raw_mode(WRITABLE_BY_OTHERS));
        let children = set_handler(Signal::SIGCHLD, SigHandler::SigDfl)?;
        let ignores_children = matches!(children, SigHandler::SigIgn);
        Ok(Self { umask, blocked: SigSet::thread_get_mask()?, ignores_children })
    }

    /// Becomes a program, with what the caller has set; comes back only if it could not.
    pub fn execute(self, command: &mut Command) -> io::Error {
        let give_back = move || {
            rustix::process::umask(self.umask);
            if self.ignores_children {
                set_handler(Signal::SIGCHLD, SigHandler::SigIgn)?;
            }
            Ok(self.blocked.thread_set_mask()?)
        };
        // SAFETY: the process has one thread, as every process that forks here, and the closure allocates nothing.
        unsafe { command.pre_exec(give_back) };
        command.exec()
    }
}
