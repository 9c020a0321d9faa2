//! What a server must not have from the process that starts it: resource limits, priority, ignored and blocked signals.
//!
//! A limit is for the program that the caller runs, and a server works for others. With CAP_SYS_RESOURCE a process
//! raises its hard limits; without, it uses them in full and [`Limits::refuse_or_warn`] says whether they allow to serve.

use std::fs;
use std::io;

use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The descriptors that a view needs: some thirty, what is kept open for speed, and a hundred open files.
const FILES: u64 = 256;

/// The address space that a view needs: about 110 MiB with the default of threads, and as much as that for a large listing.
const ADDRESSES: u64 = 512 << 20;

/// The stack that the main thread gets, as Linux sets it by default.
const STACK: u64 = 8 << 20;

/// The limits that can end a server, or stop it from working.
const UNLIMITED: [Resource; 8] = [
    Resource::As,
    Resource::Cpu,
    Resource::Data,
    Resource::Fsize,
    Resource::Locks,
    Resource::Nproc,
    Resource::Rss,
    Resource::Rttime,
];

/// Hard limits that forbid to serve a view.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the hard limit of {what} is {limit}, and the server of a view needs {needed}")]
pub struct CannotServe {
    what: &'static str,
    limit: u64,
    needed: u64,
    /// How a shell raises the limit.
    pub option: &'static str,
}

/// The limits of this process after [`prepare_to_serve`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    files: Option<u64>,
    addresses: Option<u64>,
    data: Option<u64>,
    cpu_seconds: Option<u64>,
    file_size: Option<u64>,
}

/// Gives this process the limits, the priority and the signals of a server, whatever its caller has.
///
/// Limits are raised as far as this process may. Priority and scheduling policy become the defaults, where it may.
/// Children can be waited for; a file that gets too long is `EFBIG`, and no signal. Which signals are blocked says
/// [`Signals::block_only`](super::signals::Signals::block_only).
///
/// # Errors
/// If the kernel has no such limits or signals.
pub fn prepare_to_serve() -> io::Result<Limits> {
    default_signals()?;
    default_priority();
    for resource in UNLIMITED {
        raise(resource, None)?;
    }
    let stack = getrlimit(Resource::Stack).current;
    if stack.is_some_and(|now| now < STACK) {
        raise(Resource::Stack, Some(STACK))?;
    }
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    raise(Resource::Nofile, most)?;
    let now = |resource| getrlimit(resource).current;
    Ok(Limits {
        files: now(Resource::Nofile),
        addresses: now(Resource::As),
        data: now(Resource::Data),
        cpu_seconds: now(Resource::Cpu),
        file_size: now(Resource::Fsize),
    })
}

impl Limits {
    /// Warnings about limits under which a view can be served, but not as well as without.
    ///
    /// # Errors
    /// [`CannotServe`].
    pub fn refuse_or_warn(&self) -> Result<Vec<String>, CannotServe> {
        let needed = [
            ("open files", self.files, FILES, "-n"),
            ("address space in bytes", self.addresses, ADDRESSES, "-v"),
            ("data in bytes", self.data, ADDRESSES, "-d"),
        ];
        for (what, limit, needed, option) in needed {
            if let Some(limit) = limit.filter(|limit| *limit < needed) {
                return Err(CannotServe { what, limit, needed, option });
            }
        }
        let cpu = self.cpu_seconds.map(|seconds| {
            format!(
                "the hard limit of CPU time is {seconds} s: the kernel ends the view's server when it has used that, \
                 and the view with it where a server is not started again"
            )
        });
        let size = self.file_size.map(|bytes| {
            format!("the hard limit of file sizes is {bytes} bytes: longer files in the view are EFBIG")
        });
        Ok(cpu.into_iter().chain(size).collect())
    }
}

/// How many descriptors this process may have; `None` for as many as it likes.
#[must_use]
pub fn files() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok())
}

/// Raises both limits of a resource to `wanted`, `None` for none, or else the soft one as far as the hard one lets.
fn raise(resource: Resource, wanted: Option<u64>) -> io::Result<()> {
    let now = getrlimit(resource);
    if now.current.is_none() || wanted.is_some() && now.current >= wanted {
        return Ok(());
    }
    // A hard limit above the wanted one stays.
    let maximum = match (wanted, now.maximum) {
        (Some(wanted), Some(maximum)) => Some(wanted.max(maximum)),
        _ => None,
    };
    let all = Rlimit { current: wanted, maximum };
    if setrlimit(resource, all).is_ok() {
        return Ok(());
    }
    let current = match (wanted, now.maximum) {
        (Some(wanted), Some(maximum)) => Some(wanted.min(maximum)),
        (wanted, maximum) => wanted.or(maximum),
    };
    Ok(setrlimit(resource, Rlimit { current, maximum: now.maximum })?)
}

fn default_signals() -> io::Result<()> {
    set_handler(Signal::SIGCHLD, SigHandler::SigDfl)?;
    for ignored in [Signal::SIGXFSZ, Signal::SIGXCPU, Signal::SIGPIPE] {
        set_handler(ignored, SigHandler::SigIgn)?;
    }
    Ok(())
}

/// Sets what a signal does: nothing, or what it does by default.
pub(super) fn set_handler(which: Signal, handler: SigHandler) -> io::Result<SigHandler> {
    // SAFETY: both dispositions run no code of this process; callers pass no function.
    Ok(unsafe { signal(which, handler) }?)
}

/// Takes back what `nice`, `ionice` and `chrt` have set. Who may not stays as it is: it serves, but slowly.
fn default_priority() {
    let policy = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure lives during the call, which only reads it.
    let scheduled = unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const policy) };
    let nice = rustix::process::setpriority_process(None, 0);
    // SAFETY: ioprio_set takes three numbers: a process (1), this one (0), the default (0).
    let io = unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, 0) };
    if scheduled != 0 || io != 0 || nice.is_err_and(|error| error != Errno::ACCESS) {
        tracing::debug!("this process may not have the default priority");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    const ENOUGH: Limits =
        Limits { files: Some(FILES), addresses: None, data: None, cpu_seconds: None, file_size: None };

    #[test]
    fn limits_that_forbid_to_serve_are_named_and_others_are_warned_of() {
        assert_eq!(ENOUGH.refuse_or_warn(), Ok(Vec::new()));
        let few = Limits { files: Some(64), ..ENOUGH }.refuse_or_warn().unwrap_err();
        assert_eq!(few.to_string(), "the hard limit of open files is 64, and the server of a view needs 256");
        assert_eq!(few.option, "-n");
        assert!(Limits { addresses: Some(1 << 20), ..ENOUGH }.refuse_or_warn().is_err());
        assert!(Limits { data: Some(1 << 20), ..ENOUGH }.refuse_or_warn().is_err());
        let limited = Limits { cpu_seconds: Some(10), file_size: Some(102_400), ..ENOUGH };
        assert_eq!(limited.refuse_or_warn().unwrap().len(), 2);
    }
}
