//! The caller of a command: passes signals on, waits, and ends what is left.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::process::{Pid, Signal as Kill};

use super::isolation;
use super::program::{NotStarted, Program};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::launch::Launched;
use crate::json;
use crate::sys::process::{self, Ended, Fork};
use crate::sys::signals::{Signals, wait_readable};
use crate::sys::{namespace, socket};

/// What is passed on to the command.
const PASSED: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// How long processes that the command left behind have to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// How long the server has to clean up once nobody uses its view.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// How a command ended.
#[derive(Debug)]
pub enum Outcome {
    /// It ran.
    Ended {
        /// The exit code, 128 + n if signal n killed it.
        code: u8,
        /// What should be known: that the server died, or did not clean up.
        warnings: Vec<String>,
    },
    /// It could not be started.
    NotStarted {
        /// Why.
        failure: Failure,
        /// 127 if there is no such program, else 126, as shells have it.
        code: u8,
    },
}

/// Takes hold of the signals and of orphans: to be called before the server is started, so that none is missed.
///
/// # Errors
/// As signalfd(2) and prctl(2).
pub(in crate::daemon) fn take_signals() -> io::Result<Signals> {
    let mut all = PASSED.to_vec();
    all.push(Signal::SIGCHLD);
    process::adopt_orphans()?;
    Signals::block(&all)
}

/// Runs `program` in the view that `server` has handed over, and comes back when nothing is left of it.
///
/// # Errors
/// If the command's process could not be made or waited for. The server is told to end in any case.
pub fn supervise(program: &Program, server: Launched, signals: &Signals) -> Result<Outcome, Failure> {
    let Launched { mount, server: pid, socket, .. } = server;
    let view = mount.ok_or_else(|| Failure::new("the view's server handed over no mount"))?;
    let started = start(program, &view, &socket, signals);
    let mut warnings = Vec::new();
    let answer = match started {
        Ok(Ok(command)) => wait_for(command, pid, signals, &mut warnings).map(Ok),
        Ok(Err(not_started)) => Ok(Err(not_started)),
        Err(failure) => Err(failure),
    };
    let ended_leftovers = end_leftovers(pid);
    // Whoever holds it keeps the view alive. Let go by a process that lives on, the view ends at once; by one that
    // exits, the kernel leaves that for later (fs/namespace.c, `delayed_mntput`).
    drop(view);
    ended_leftovers.attempt(|| "cannot end what the command left running".to_owned())?;
    end_server(pid, socket, signals, &mut warnings)?;
    Ok(match answer? {
        Ok(ended) => Outcome::Ended { code: ended.shell_code(), warnings },
        Err(NotStarted { failure, code }) => Outcome::NotStarted { failure, code },
    })
}

/// Makes the command's process; answers its pid once it has become the program.
fn start(
    program: &Program,
    view: &OwnedFd,
    keeper: &OwnedFd,
    signals: &Signals,
) -> Result<Result<Pid, NotStarted>, Failure> {
    let attempt = || "cannot start the command's process".to_owned();
    let (here, there) = socket::pair().attempt(attempt)?;
    let own = rustix::process::getpid();
    if program.isolation.is_some() {
        namespace::own_pids().attempt(|| "cannot have a PID namespace".to_owned())?;
    }
    let child = match process::fork().attempt(attempt)? {
        Fork::Parent(child) => child,
        Fork::Child => {
            drop(here);
            if let Some(isolation) = &program.isolation {
                isolation::init(program, isolation, view, keeper, there, signals);
            }
            let not_started = match signals.unblock() {
                Ok(()) => program.become_it(own, view, keeper),
                Err(error) => {
                    NotStarted { failure: Failure::of("cannot unblock signals", &error), code: 126 }
                }
            };
            let told = serde_json::to_vec(&not_started).is_ok_and(|m| socket::send(&there, &m, None).is_ok());
            process::end_now(if told { not_started.code } else { 126 });
        }
    };
    drop(there);
    let (message, _) = socket::receive(&here, 64 * 1024).attempt(attempt)?;
    if message.is_empty() {
        return Ok(Ok(child)); // The socket was closed by exec.
    }
    process::wait(child).attempt(attempt)?;
    json::from_slice(&message).attempt(attempt).map(Err)
}

fn wait_for(
    command: Pid,
    server: Pid,
    signals: &Signals,
    warnings: &mut Vec<String>,
) -> Result<Ended, Failure> {
    let attempt = || "cannot wait for the command".to_owned();
    loop {
        while let Some((pid, ended)) = process::reap().attempt(attempt)? {
            if pid == command {
                return Ok(ended);
            }
            // One that ended well was left by the command, or told to end: it can be seen before the command's own end.
            if pid == server && ended != Ended::Exited(0) {
                let how = told(ended);
                warnings.push(format!(
                    "the view's keeper died ({how}): a server that died after it was not started again, and the command saw errors then"
                ));
            }
        }
        wait_readable(&[signals.as_fd()], None).attempt(attempt)?;
        pass_on(command, signals).attempt(attempt)?;
    }
}

/// Sends the command the signals that have arrived, but those that it has already.
pub(super) fn pass_on(command: Pid, signals: &Signals) -> io::Result<()> {
    while let Some(arrived) = signals.next()? {
        // What a key of the terminal caused has gone to the command already, as to the whole foreground group.
        if arrived.signal != libc::SIGCHLD
            && !arrived.from_kernel
            && let Some(signal) = Kill::from_named_raw(arrived.signal)
        {
            process::send_signal(command, signal)?;
        }
    }
    Ok(())
}

fn told(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exit code {code}"),
        Ended::Killed(signal) => format!("signal {signal}"),
    }
}

/// Ends every child but the server: what the command left behind, all of which are children of this process by now.
pub(super) fn end_leftovers(server: Pid) -> io::Result<()> {
    let until = Instant::now() + GRACE;
    let mut first = true;
    loop {
        let left: Vec<Pid> = process::children()?.into_iter().filter(|pid| *pid != server).collect();
        if left.is_empty() {
            return Ok(());
        }
        let signal = if Instant::now() < until { Kill::TERM } else { Kill::KILL };
        for pid in left {
            if first || signal == Kill::KILL {
                process::send_signal(pid, signal)?;
            }
            process::reap_one(pid)?;
        }
        first = false;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the server, which ends when nobody has the view any more; makes it if it does not.
fn end_server(
    server: Pid,
    socket: OwnedFd,
    signals: &Signals,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let attempt = || "cannot wait for the view's server".to_owned();
    drop(socket);
    let until = Instant::now() + CLEAN_UP;
    while Instant::now() < until {
        if process::reap_one(server).attempt(attempt)? {
            return Ok(());
        }
        wait_readable(&[signals.as_fd()], Some(Duration::from_millis(20))).attempt(attempt)?;
        while signals.next().attempt(attempt)?.is_some() {}
    }
    warnings.push(format!("the view's server (process {server}) did not end in time, and was killed"));
    process::send_signal(server, Kill::KILL).attempt(attempt)?;
    process::wait(server).attempt(attempt)?;
    // What answered for it is a child of this process by now.
    end_leftovers(server).attempt(attempt)
}
