//! The tracer's part: has a running view record what is used of it, and reads that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::shared::{NONE, Shared, Slot, WHOLE};
use super::traced::{head, now};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::record::{BACKEND_OVERLAY, Record};
use crate::daemon::registry::{Registry, State};
use crate::daemon::stop::{Which, find};
use crate::lock::EnvLock;
use crate::sys::lock;
use crate::sys::signals::wait_readable;
use crate::trace::{End, Head};
use crate::view::ViewName;

/// How long a server may take to begin or end recording: one that died is started again meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const STEP: Duration = Duration::from_millis(2);

/// How long a server whose keeper was killed may take to say that it goes on alone.
const TAKING_OVER: Duration = Duration::from_secs(5);

/// Whether a view is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// It goes on.
    Served,
    /// It has ended.
    Over,
}

/// A running trace; dropped, it ends.
#[derive(Debug)]
pub struct Tracer {
    head: Head,
    registry: Registry,
    record: Record,
    keeper: OwnedFd,
    shared: Shared,
    /// Where in the log what was not read begins.
    read: u64,
    ended: bool,
}

impl Tracer {
    /// Has a view record from here on what is used of it.
    ///
    /// # Errors
    /// If there is no such view, this user may not trace it, or it is being traced.
    pub fn begin(registry: &Registry, which: &Which<'_>) -> Result<Self, Failure> {
        let (name, state) = find(registry, which)?;
        let what = || format!("cannot trace the view '{name}'");
        let record = match state {
            State::Served(record) if record.usable => *record,
            State::Served(_) | State::Starting => {
                return Err(Failure::new(format!("the view '{name}' is only being started; try again")));
            }
            State::Unkept(_) => return Err(no_server(&name)),
            State::Dead(_) => {
                return Err(Failure::new(format!("the view '{name}' is dead"))
                    .hint("'nixview status' takes away what is left of it"));
            }
        };
        if record.backend == BACKEND_OVERLAY {
            return Err(no_server(&name));
        }
        // If it is found to be served by this number after this was opened, the number was not another's.
        let keeper = opened(record.pid).attempt(what)?;
        let shared = Shared::of_process(record.pid).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::of(&what(), &error).hint("only root and the user that serves a view may trace it")
            }
            io::ErrorKind::NotFound => {
                Failure::new(format!("{}: it is served by a nixview that cannot trace", what()))
                    .hint("mount it again")
            }
            _ => Failure::of(&what(), &error),
        })?;
        match registry.state(&name).attempt(what)? {
            Some(State::Served(now)) if now.pid == record.pid => {}
            _ => return Err(Failure::new(format!("the view '{name}' has just ended"))),
        }
        if shared.get(Slot::Wanted).attempt(what)? == WHOLE {
            return Err(Failure::new(format!("the view '{name}' is traced from its beginning to its end"))
                .hint("the file that was given with --trace is whole when it ends"));
        }
        if !lock::try_lock(&shared.control).attempt(what)? {
            return Err(Failure::new(format!("the view '{name}' is being traced already")));
        }
        let lock = EnvLock::read(&record.lock_file);
        let (environment, store_dir) = match &lock {
            Ok(lock) => (lock.name.clone(), lock.store_dir.to_string()),
            // What is traced does not depend on it.
            Err(_) => (record.name.to_string(), crate::store::StoreDir::default().to_string()),
        };
        let head = head(&record, &environment, &store_dir, false);
        let registry = registry.clone();
        let tracer = Self { head, registry, record, keeper, shared, read: 0, ended: false };
        tracer.start().attempt(what)?;
        if !tracer.settled() {
            return Err(Failure::new(format!("{}: its server does not answer", what())));
        }
        Ok(tracer)
    }

    fn start(&self) -> io::Result<()> {
        self.shared.log.set_len(0)?;
        self.shared.set(Slot::Lost, 0)?;
        // Any other than the last one's.
        let last = self.shared.get(Slot::Recorded)?;
        let number = now().max(1) ^ (u64::from(std::process::id()) << 32);
        let number = if matches!(number, NONE | WHOLE) || number == last { number ^ 2 } else { number };
        self.shared.set(Slot::Wanted, number)?;
        self.shared.wake()
    }

    /// Waits until the server does what the page of control says; false if it does not.
    fn settled(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match (self.shared.get(Slot::Wanted), self.shared.get(Slot::Recorded)) {
                (Ok(wanted), Ok(recorded)) if wanted == recorded => return true,
                (Ok(_), Ok(_)) => std::thread::sleep(STEP),
                _ => return false,
            }
        }
        false
    }

    /// The first line of the trace.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The whole lines that came since the last call.
    ///
    /// # Errors
    /// As read(2).
    pub fn news(&mut self) -> io::Result<Vec<u8>> {
        let length = self.shared.log.metadata()?.len().saturating_sub(self.read);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.shared.log.read_exact_at(&mut bytes, self.read)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        bytes.truncate(whole);
        self.read += whole as u64;
        Ok(bytes)
    }

    /// Readable when the view's keeper has ended: then [`view`](Self::view) knows what that means.
    #[must_use]
    pub fn keeper(&self) -> &OwnedFd {
        &self.keeper
    }

    /// Whether the view is there still: a server whose keeper was killed serves on.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub fn view(&mut self) -> Result<View, Failure> {
        let name = self.record.name.clone();
        let what = || format!("cannot look for the view '{name}'");
        let until = Instant::now() + TAKING_OVER;
        loop {
            let ended = wait_readable(&[self.keeper.as_fd()], Some(Duration::ZERO)).attempt(what)?;
            if ended != [true] {
                return Ok(View::Served);
            }
            match self.registry.state(&name).attempt(what)? {
                Some(State::Served(now)) if now.pid != self.record.pid => match opened(now.pid) {
                    Ok(keeper) => {
                        self.keeper = keeper;
                        self.record = *now;
                    }
                    Err(_) => return Ok(View::Over),
                },
                Some(State::Served(_)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return Ok(View::Over),
            }
        }
    }

    /// Ends the trace; what was used until now can be read still.
    ///
    /// # Errors
    /// As read(2) and write(2).
    pub fn end(&mut self) -> io::Result<End> {
        if !self.ended {
            self.ended = true;
            self.shared.set(Slot::Wanted, NONE)?;
            // Nobody reads the pipe of a view that has ended.
            drop(self.shared.wake());
            if self.view().is_ok_and(|view| view == View::Served) && !self.settled() {
                tracing::warn!("the view's server does not answer; it may go on recording for some seconds");
            }
        }
        Ok(End { until: now(), complete: self.shared.get(Slot::Lost)? == 0 })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let ended = self.end().and_then(|_| self.shared.log.set_len(0));
        if let Err(error) = ended {
            tracing::warn!(%error, "the trace may go on for some seconds");
        }
    }
}

fn opened(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
/// Says that a view cannot be traced, and what can be done.
fn no_server(name: &ViewName) -> Failure {
    Failure::new(format!("the view '{name}' is made by overlayfs alone: no server sees what of it is used"))
        .hint("mount it with '--backend fuse', or with --trace from the beginning")
}
