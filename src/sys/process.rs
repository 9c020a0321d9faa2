//! Processes: fork, detach from a terminal, live and die with others.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::unistd::ForkResult;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, set_child_subreaper,
    set_parent_process_death_signal,
};

/// On which side of a [`fork`] this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fork {
    /// The process that forked, with the pid of its child.
    Parent(Pid),
    /// The new process.
    Child,
}

/// How long a thread may take to exit after its work is done: the end of a scope does not wait for that.
const THREAD_EXIT: Duration = Duration::from_secs(2);

/// Makes a copy of this process. Waits a moment for threads that are about to exit.
///
/// # Errors
/// `EBUSY` if the process has more than one thread: the copy would hold their locks for ever. Else as fork(2).
pub fn fork() -> io::Result<Fork> {
    wait_until_alone(|| Ok(fs::read_dir("/proc/self/task")?.count()))?;
    // SAFETY: this is the only thread, so that no lock is held by another one in the copy.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Pid::from_raw(child.as_raw())
            .map(Fork::Parent)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Waits until `threads` counts one.
fn wait_until_alone(mut threads: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    let deadline = Instant::now() + THREAD_EXIT;
    while threads()? != 1 {
        if Instant::now() >= deadline {
            return Err(io::Error::from(rustix::io::Errno::BUSY));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It exited with this code.
    Exited(u8),
    /// It was killed by this signal.
    Killed(i32),
}

impl Ended {
    /// The code that a shell answers for it: 128 + n for signal n.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// Waits for a child to end.
///
/// # Errors
/// As waitpid(2); `ECHILD` if it is no child or was waited for already.
pub fn wait(child: Pid) -> io::Result<Ended> {
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(ended) = ended(status) {
                    return Ok(ended);
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A child that ends by itself and soon. It is waited for when this is dropped.
#[derive(Debug)]
pub struct EndingChild(Option<Pid>);

impl EndingChild {
    /// One that nothing else waits for.
    #[must_use]
    pub fn new(child: Pid) -> Self {
        Self(Some(child))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As [`wait`].
    pub fn wait(mut self) -> io::Result<Ended> {
        self.0.take().map_or_else(|| Err(rustix::io::Errno::CHILD.into()), wait)
    }
}

impl Drop for EndingChild {
    fn drop(&mut self) {
        if let Some(child) = self.0.take()
            && let Err(error) = wait(child)
        {
            tracing::debug!(%error, "a child cannot be waited for");
        }
    }
}

/// Takes the next child that has ended, without waiting; `None` if all live on.
///
/// # Errors
/// As waitpid(2); `ECHILD` if there is no child at all.
pub fn reap() -> io::Result<Option<(Pid, Ended)>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if let Some(ended) = ended(status) {
                    return Ok(Some((pid, ended)));
                }
            }
            Ok(None) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes one child if it has ended, without waiting; `true` if it has, now or before.
///
/// # Errors
/// As waitpid(2).
pub fn reap_one(child: Pid) -> io::Result<bool> {
    match rustix::process::waitpid(Some(child), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => Ok(ended(status).is_some()),
        Ok(None) | Err(rustix::io::Errno::INTR) => Ok(false),
        Err(rustix::io::Errno::CHILD) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Sends a signal; `false` if the process has ended.
///
/// # Errors
/// `EPERM` for a process of another user.
pub fn send_signal(pid: Pid, signal: Signal) -> io::Result<bool> {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Ends this process at once: no destructor runs, nothing is flushed. For a forked process whose memory still holds
/// what its parent is to clean up.
pub fn end_now(code: u8) -> ! {
    // SAFETY: _exit takes a number and does not come back.
    unsafe { libc::_exit(code.into()) }
}

/// The number of the mount namespace that a process is in; `None` if the process is gone or may not be asked.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn mount_namespace_of(pid: Pid) -> io::Result<Option<u64>> {
    match fs::metadata(format!("/proc/{}/ns/mnt", pid.as_raw_nonzero())) {
        Ok(found) => Ok(Some(found.ino())),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The mount namespace of this process. By /proc/self: in a PID namespace whose /proc is not mounted yet, its own pid is
/// that of another process there.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn own_mount_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/mnt")?.ino())
}

/// Sends a signal to all processes in a mount namespace, and to no other that gets the number of one that ends meanwhile.
///
/// # Errors
/// If `/proc` cannot be read; `EPERM` for a process of another user.
pub fn signal_mount_namespace(namespace: u64, signal: Signal) -> io::Result<()> {
    for pid in all()? {
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => continue,
            answer => answer?,
        };
        // If the process ended since it was opened, the signal reaches none.
        if mount_namespace_of(pid)? != Some(namespace) {
            continue;
        }
        match pidfd_send_signal(&process, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// All processes that can be seen.
///
/// # Errors
/// Those of reading /proc.
pub(super) fn all() -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|n| n.parse::<i32>().ok()).and_then(Pid::from_raw));
    }
    Ok(found)
}

fn ended(status: rustix::process::WaitStatus) -> Option<Ended> {
    if let Some(code) = status.exit_status() {
        return Some(Ended::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
    }
    status.terminating_signal().map(Ended::Killed)
}

/// Leaves the terminal, the working directory and standard input of the caller: a session of its own, `/`, `/dev/null`.
///
/// # Errors
/// If one of these cannot be had.
pub fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    nix::unistd::dup2_stdin(null()?)?;
    Ok(())
}

/// Sends standard output to `file` from now on.
///
/// # Errors
/// As dup2(2).
pub fn redirect_output(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::dup2_stdout(file)?)
}

/// Sends standard error to `file` from now on.
///
/// # Errors
/// As dup2(2).
pub fn redirect_errors(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::dup2_stderr(file)?)
}

/// Opens `/dev/null`.
///
/// # Errors
/// As open(2).
pub fn null() -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?)
}

/// Closes every descriptor but the standard three and `kept`.
///
/// For a process that has just been forked: whoever owns another descriptor in it must not use it any more.
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().filter_map(|d| u32::try_from(d.as_raw_fd()).ok()).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no memory is touched; that nobody uses what is closed is the contract of the caller.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel send `signal` to this process when its parent, which must be `parent`, dies.
///
/// # Errors
/// `ESRCH` if the parent is dead already.
pub fn die_with_parent(parent: Pid, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Has the kernel send `signal` to this process when its parent dies, which is in another PID namespace and so has no pid
/// here. A parent that was dead before is not noticed.
///
/// # Errors
/// As prctl(2).
pub fn die_with_parent_outside(signal: Signal) -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(signal))?)
}

/// Makes orphans among the descendants of this process its own children.
///
/// # Errors
/// As prctl(2).
pub fn adopt_orphans() -> io::Result<()> {
    // Any pid switches it on (PR_SET_CHILD_SUBREAPER takes a flag).
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// The children of this process.
///
/// Asks the kernel's own list where it has one (`CONFIG_PROC_CHILDREN`, proc_pid_children(5)) and nobody else is a
/// thread here; else every process is asked for its parent.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn children() -> io::Result<Vec<Pid>> {
    let own = rustix::process::getpid().as_raw_nonzero();
    let alone = fs::read_dir("/proc/self/task")?.count() == 1;
    match fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        // That list is of the children that this thread made or was given.
        Ok(list) if alone => Ok(list
            .split_ascii_whitespace()
            .filter_map(|n| n.parse().ok())
            .filter_map(Pid::from_raw)
            .collect()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => children_by_parent(),
    }
}

/// The children of this process, found among all processes.
fn children_by_parent() -> io::Result<Vec<Pid>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    Ok(all()?.into_iter().filter(|pid| parent_of(*pid) == Some(own)).collect())
}

/// The pid of the parent of a process; `None` if the process is gone.
fn parent_of(pid: Pid) -> Option<i32> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    after_name(&stat)?.nth(1)?.parse().ok()
}

/// The fields of /proc/PID/stat after the second, from the state on (proc_pid_stat(5)).
fn after_name(stat: &[u8]) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    // "PID (COMM) STATE PPID …"; COMM may hold anything, also parentheses.
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    Some(rest.split_ascii_whitespace())
}

/// When a process began, in clock ticks since the machine started; `None` if it has ended, waited for or not.
///
/// # Errors
/// Those of reading /proc; `InvalidData` if it is not of the documented form.
pub fn started(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        answer => answer?,
    };
    let found = || {
        let mut fields = after_name(&stat)?;
        let over = matches!(fields.next()?, "Z" | "X");
        let started: u64 = fields.nth(18)?.parse().ok()?;
        Some((!over).then_some(started))
    };
    found().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// True if this process has CAP_SYS_ADMIN, with which it may mount.
///
/// # Errors
/// As capget(2).
pub fn may_mount() -> io::Result<bool> {
    let held = rustix::thread::capabilities(None)?;
    Ok(held.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// True if this process is in the user namespace that the kernel begins with (`PROC_USER_INIT_INO`, linux/proc_ns.h).
#[must_use]
pub fn is_initial_user_namespace() -> bool {
    const INITIAL: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() == INITIAL)
}

/// As whom a process or thread reaches files, in ids of this process's user namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// As whom a process or thread reaches files.
///
/// # Errors
/// `ENOENT` or `ESRCH` if there is none of this number; `InvalidData` if /proc tells them otherwise than it should.
pub fn identity(pid: u32) -> io::Result<Identity> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let numbers = |field: &str| -> Option<Vec<u32>> {
        let text = status.lines().find_map(|line| line.strip_prefix(field))?;
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()
    };
    // Real, effective, saved, of the file system.
    let last = |field: &str| numbers(field)?.get(3).copied();
    let identity = || Some(Identity { uid: last("Uid:")?, gid: last("Gid:")?, groups: numbers("Groups:")? });
    identity().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(stop);
        thread.join().unwrap().unwrap_err();
    }

    #[test]
    fn a_fork_waits_for_threads_that_exit() {
        let mut counts = [3, 2, 1].into_iter();
        wait_until_alone(|| Ok(counts.next().unwrap())).unwrap();
        assert_eq!(counts.next(), None);
    }

    #[test]
    fn a_child_that_ends_is_waited_for_once_and_at_the_latest_when_it_is_dropped() {
        let shell = |line: &str| {
            Pid::from_child(&std::process::Command::new("sh").args(["-c", line]).spawn().unwrap())
        };
        let child = shell("exit 3");
        assert_eq!(EndingChild::new(child).wait().unwrap(), Ended::Exited(3));
        assert_eq!(wait(child).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        let child = shell("sleep 0.1");
        drop(EndingChild::new(child));
        assert_eq!(wait(child).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn children_are_found_and_only_own_ones() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let found = children().unwrap();
        let slowly = children_by_parent().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid), "{found:?}");
        assert!(slowly.contains(&pid), "{slowly:?}");
        assert!(!found.contains(&rustix::process::getpid()));
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(Ended::Exited(3).shell_code(), 3);
        assert_eq!(Ended::Killed(9).shell_code(), 137);
    }
}
