//! `nixview daemon`: serves views to whoever may ask for them, over a socket ([`crate::control`]).
//!
//! One process waits for connections; each gets a worker, a fork that reads what is asked, does it and ends. A view that
//! a worker mounts has a server process of its own, as every view, which needs neither the worker nor the daemon: when
//! the daemon dies, however, views serve on, and the next daemon finds them in the registry. What waits (a client that
//! says nothing, a disk) thus holds up one worker, and what crashes costs one request.
//!
//! At most [`WORKERS`] work at once, [`PER_USER`] for one user and [`FOR_USERS`] for all but root; who comes then is told
//! so, or if it is root waits.
//!
//! **Reconciling**, at the start and every [`INTERVAL`], in a worker too: what dead servers left is taken away, mounts,
//! roots of the collector, temporary uppers.

mod containers;
mod policy;
mod refusals;
mod worker;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::process::Pid;

use super::error::{Attempt, Failure};
use super::keeper::Dirs;
use super::registry::Registry;
use super::{leftovers, old_roots};
use crate::control::{self, Answer, Reply};
use crate::sys::inherited;
use crate::sys::limits;
use crate::sys::lock;
use crate::sys::process::{self, Fork};
use crate::sys::signals::{Signals, wait_readable};
use crate::sys::socket::{self, Peer};
use crate::view::upper_dir;
use refusals::Refusals;

/// How many connections are worked on at once.
pub const WORKERS: usize = 64;

/// How many of one user, but for root.
pub const PER_USER: usize = 8;

/// How many of all users but root, for whom the rest is left.
pub const FOR_USERS: usize = 32;

/// The largest lock that a user other than root may hand over, in bytes: what it takes to read one is the daemon's memory.
pub const USERS_LOCK: u64 = 4 << 20;

/// How often what dead servers left is looked for.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// How long a daemon that ends waits for what is being worked on.
const GRACE: Duration = Duration::from_secs(20);

/// What a daemon allows.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The store that users other than root may have views of: a directory that ends in `nix/store`, or one that
    /// contains it.
    pub store: PathBuf,
    /// How many views each of them may have at once.
    pub views_per_user: usize,
    /// Overlayfs makes views for which no maker is asked for, if it can.
    pub prefer_overlay: bool,
}

/// A daemon that listens.
#[derive(Debug)]
pub struct Service {
    dirs: Dirs,
    allowed: Allowed,
    listener: OwnedFd,
    /// Where the socket is that this daemon made.
    made: Option<PathBuf>,
    /// Held as long as the daemon lives: there is one for a runtime directory.
    _lock: File,
}

impl Service {
    /// Takes the place of the daemon for a runtime directory, and listens on its socket or on `listener`, which somebody
    /// else opened (socket activation).
    ///
    /// A socket that is made here is root's alone (mode 0600).
    ///
    /// # Errors
    /// If a daemon runs already, or it cannot listen.
    pub fn listen(dirs: Dirs, allowed: Allowed, listener: Option<OwnedFd>) -> Result<Self, Failure> {
        prepare()?;
        let runtime = &dirs.runtime;
        let attempt = || format!("cannot listen in {}", runtime.display());
        DirBuilder::new().recursive(true).mode(0o755).create(runtime).attempt(attempt)?;
        let lock = take_place(&runtime.join("daemon.lock"))?;
        let (listener, made) = match listener {
            Some(listener) => {
                rustix::fs::fcntl_setfl(&listener, rustix::fs::OFlags::NONBLOCK).attempt(attempt)?;
                (listener, None)
            }
            None => {
                let path = runtime.join(control::SOCKET);
                (bind(&path).attempt(|| format!("cannot listen on {}", path.display()))?, Some(path))
            }
        };
        Ok(Self { dirs, allowed, listener, made, _lock: lock })
    }

    /// Serves until SIGTERM, SIGINT or SIGHUP; views stay as they are then. `ready` is told when the first connection
    /// would be answered.
    ///
    /// To be called without other threads.
    ///
    /// # Errors
    /// If it can no longer listen.
    pub fn serve(self, ready: impl FnOnce()) -> Result<(), Failure> {
        let attempt = || "cannot wait for connections".to_owned();
        let all = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD];
        let signals = Signals::block_only(&all).attempt(|| "cannot take signals".to_owned())?;
        rustix::process::chdir("/").attempt(|| "cannot leave the working directory".to_owned())?;
        let mut workers = Workers::default();
        let mut reconciled = None;
        ready();
        loop {
            workers.reap().attempt(attempt)?;
            if workers.reconciling.is_none() && reconciled.is_none_or(|at: Instant| at.elapsed() >= INTERVAL)
            {
                reconciled = Some(Instant::now());
                workers.reconciling = self.reconcile(&signals);
            }
            let mut watched = vec![signals.as_fd()];
            if workers.of.len() < WORKERS {
                watched.push(self.listener.as_fd());
            }
            let ready = wait_readable(&watched, Some(INTERVAL)).attempt(attempt)?;
            if ready.first() == Some(&true) {
                while let Some(arrived) = signals.next().attempt(attempt)? {
                    if arrived.signal != libc::SIGCHLD {
                        tracing::info!(signal = arrived.signal, "ending; views serve on");
                        return self.end(&mut workers, &signals);
                    }
                }
            }
            if ready.get(1) == Some(&true) {
                self.accept(&mut workers, &signals);
            }
        }
    }

    /// Takes the next connection. What goes wrong with it is its own affair.
    fn accept(&self, workers: &mut Workers, signals: &Signals) {
        let taken = socket::accept(self.listener.as_fd()).and_then(|connection| {
            let Some(connection) = connection else { return Ok(()) };
            let peer = socket::peer(connection.as_fd())?;
            if let Some(why) = workers.full_for(peer.uid) {
                if let Some(times) = workers.refusals.count(peer.uid, Instant::now()) {
                    tracing::warn!(uid = peer.uid, pid = peer.pid, times, why, "connections were refused");
                }
                let answer = Answer::Failed { what: why.to_owned(), hints: vec!["try again".to_owned()] };
                return control::send(&connection, &Reply { version: control::VERSION, answer }, &[]);
            }
            let worker = in_worker(signals, &[connection.as_fd()], || {
                worker::serve(connection.as_fd(), peer, &self.dirs, &self.allowed)
            })?;
            workers.of.insert(worker, peer.uid);
            Ok(())
        });
        if let Err(error) = taken {
            if workers.failed.is_none_or(|at| at.elapsed() >= INTERVAL) {
                workers.failed = Some(Instant::now());
                tracing::warn!(%error, "connections cannot be served");
            }
            // Without descriptors or processes the next attempt would fail at once too.
            if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN))
            {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Takes away what dead servers left.
    fn reconcile(&self, signals: &Signals) -> Option<Pid> {
        let started = in_worker(signals, &[], || match reconcile(&self.dirs, &self.allowed) {
            Ok(problems) => problems.iter().for_each(|problem| tracing::warn!(%problem, "cannot clean up")),
            Err(problem) => tracing::warn!(%problem, "cannot clean up"),
        });
        started.map_err(|error| tracing::warn!(%error, "cannot look for what dead servers left")).ok()
    }

    /// Lets workers finish what they began.
    fn end(&self, workers: &mut Workers, signals: &Signals) -> Result<(), Failure> {
        let attempt = || "cannot end".to_owned();
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(Failure::of(&format!("cannot remove {}", path.display()), &error));
        }
        let until = Instant::now() + GRACE;
        while !workers.of.is_empty() && Instant::now() < until {
            wait_readable(&[signals.as_fd()], Some(Duration::from_millis(100))).attempt(attempt)?;
            while signals.next().attempt(attempt)?.is_some() {}
            workers.reap().attempt(attempt)?;
        }
        Ok(())
    }
}

/// Serves the one connection `connection`, as the daemon would for the user that this process runs as.
///
/// To be called without other threads.
///
/// # Errors
/// If it cannot be told who is at the other end.
pub fn serve_one(connection: BorrowedFd<'_>, dirs: &Dirs, allowed: &Allowed) -> Result<(), Failure> {
    prepare()?;
    let peer = socket::peer(connection).attempt(|| "standard input is no connection".to_owned())?;
    worker::serve(connection, peer, dirs, allowed);
    Ok(())
}

/// Takes away what dead servers left; answers what could not be.
///
/// # Errors
/// If the registry cannot be read.
fn reconcile(dirs: &Dirs, allowed: &Allowed) -> Result<Vec<Failure>, Failure> {
    let attempt = || "cannot read the registry of views".to_owned();
    let registry = Registry::open(&dirs.runtime).attempt(attempt)?;
    let (cleaned, mut problems) = leftovers::sweep(&registry).attempt(attempt)?;
    for name in cleaned {
        tracing::info!(view = %name, "the server was dead; what it left was taken away");
    }
    if let Err(error) = upper_dir::remove_stale(&dirs.temporary()) {
        problems.push(Failure::of("cannot remove an old temporary upper", &error));
    }
    // Also of servers that no record names any more, since a reboot.
    let mut stores = old_roots::stores(&registry).attempt(attempt)?;
    stores.insert(allowed.store.clone());
    let (leases, left) = old_roots::sweep(&stores, false);
    if leases > 0 {
        tracing::info!(leases, "roots of the collector that dead servers left were taken away");
    }
    problems.extend(left.into_iter().map(Failure::new));
    Ok(problems)
}

/// The processes that work for the daemon.
#[derive(Debug, Default)]
struct Workers {
    /// For which user each works.
    of: HashMap<Pid, u32>,
    reconciling: Option<Pid>,
    refusals: Refusals,
    /// When it was last reported that connections cannot be served.
    failed: Option<Instant>,
}

impl Workers {
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match process::reap() {
                Ok(Some((pid, _))) if self.reconciling == Some(pid) => self.reconciling = None,
                Ok(Some((pid, _))) => drop(self.of.remove(&pid)),
                Ok(None) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Why a user gets no worker now, if so.
    fn full_for(&self, uid: u32) -> Option<&'static str> {
        if uid == 0 {
            return None;
        }
        if self.of.values().filter(|of| **of == uid).count() >= PER_USER {
            return Some("too many requests of this user are being worked on");
        }
        let users = self.of.values().filter(|of| **of != 0).count();
        (users >= FOR_USERS).then_some("too many requests are being worked on")
    }
}

/// Runs `work` in a process of its own, which has the descriptors `kept` and no others.
fn in_worker(signals: &Signals, kept: &[BorrowedFd<'_>], work: impl FnOnce()) -> io::Result<Pid> {
    match process::fork()? {
        Fork::Parent(worker) => Ok(worker),
        Fork::Child => {
            let prepared = process::close_all_but(kept).and_then(|()| signals.unblock());
            if let Err(error) = &prepared {
                tracing::error!(%error, "a worker cannot be had");
            } else {
                work();
            }
            process::end_now(prepared.is_err().into())
        }
    }
}

/// What the caller of a daemon has set does not reach those that it serves: limits, priority, signals, and a umask
/// under which users could not connect.
fn prepare() -> Result<(), Failure> {
    inherited::own_umask();
    limits::prepare_to_serve().map(drop).attempt(|| "cannot set the limits of the daemon".to_owned())
}

/// Takes the lock that says who is the daemon.
fn take_place(path: &Path) -> Result<File, Failure> {
    let attempt = || format!("cannot use {}", path.display());
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .attempt(attempt)?;
    if !lock::try_lock(&file).attempt(attempt)? {
        let pid = fs::read_to_string(path).attempt(attempt)?;
        return Err(Failure::new(format!("a daemon runs already, process {}", pid.trim()))
            .hint("'systemctl status nixview', or --runtime-dir for another one"));
    }
    file.set_len(0).attempt(attempt)?;
    writeln!(file, "{}", rustix::process::getpid().as_raw_nonzero()).attempt(attempt)?;
    Ok(file)
}

/// Listens at `path`, in place of a daemon that is dead.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    socket::listen(path)
}

/// True if a peer may do everything that this process may.
fn is_ours(peer: Peer) -> bool {
    peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn root_is_never_refused_and_users_share_what_is_theirs() {
        let mut workers = Workers::default();
        let fill = |workers: &mut Workers, from: i32, to: i32, uid: u32| {
            for number in from..to {
                workers.of.insert(Pid::from_raw(number).unwrap(), uid);
            }
        };
        fill(&mut workers, 1, 8, 1000);
        assert_eq!(workers.full_for(1000), None);
        fill(&mut workers, 8, 9, 1000);
        assert!(workers.full_for(1000).unwrap().contains("this user"));
        assert_eq!(workers.full_for(1001), None);
        for uid in 1001..1004 {
            let from = i32::try_from(uid).unwrap() * 100;
            fill(&mut workers, from, from + 8, uid);
        }
        assert!(workers.full_for(1009).is_some());
        assert_eq!(workers.full_for(0), None);
    }

    #[test]
    fn there_is_one_daemon_for_a_runtime_directory() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: dir.path().join("state"), runtime: dir.path().join("run") };
        let allowed = Allowed { store: "/nix/store".into(), views_per_user: 1, prefer_overlay: false };
        let first = Service::listen(dirs.clone(), allowed.clone(), None).unwrap();
        let error = Service::listen(dirs.clone(), allowed.clone(), None).unwrap_err();
        assert!(error.what.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        // The socket of one that is dead does not stand in the way.
        assert!(dir.path().join("run/control.sock").exists());
        Service::listen(dirs, allowed, None).unwrap();
    }
}
