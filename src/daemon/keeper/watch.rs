//! Keeping a view: waits for its end, and starts its server again when that dies.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use super::connection::{Connection, told};
use super::link::{self, Word};
use super::server::{self, Part};
use super::setup::Serving;
use super::{Caller, GRACE, Held, SETTLING, take_away};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::record::Record;
use crate::daemon::trace::Recording;
use crate::sys::fuse_device;
use crate::sys::process::{self, Ended};
use crate::sys::signals::wait_readable;
use crate::vfs::Ino;
use crate::view::build::ViewLower;

/// A server that dies sooner than that after it began may die of what it is asked.
const SOON: Duration = Duration::from_millis(100);

/// So many such deaths in a row cost no time; each further one twice that of the one before, from [`PAUSE`] to [`LONGEST_PAUSE`].
const FREE: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// After so many in a row, which take about ten seconds, the view ends.
const MOST: u32 = 20;

/// A view that is kept.
pub(super) struct Watch<'a> {
    pub(super) serving: &'a Serving<'a>,
    pub(super) connection: Connection,
    pub(super) lower: &'a ViewLower,
    pub(super) record: Record,
    pub(super) deaths: Deaths,
}

/// Why a wait has ended.
enum Event {
    /// The view is gone.
    Over,
    /// The server has ended otherwise.
    Died(Ended),
    /// This process is told to end, or the caller is gone.
    Told,
}

/// How servers have died lately.
#[derive(Debug)]
pub(super) struct Deaths {
    began: Instant,
    soon: u32,
}

impl Default for Deaths {
    /// None yet, of a server that has just begun.
    fn default() -> Self {
        Self { began: Instant::now(), soon: 0 }
    }
}

impl Deaths {
    /// A server has begun.
    fn begins(&mut self) {
        self.began = Instant::now();
    }

    /// It has died: how long to wait before another is started; `None` if there were too many.
    fn dies(&mut self) -> Option<Duration> {
        self.soon = if self.began.elapsed() < SOON { self.soon + 1 } else { 0 };
        match self.soon {
            0..=FREE => Some(Duration::ZERO),
            n if n < MOST => Some((PAUSE * 2u32.pow(n - FREE - 1)).min(LONGEST_PAUSE)),
            _ => None,
        }
    }
}

impl Watch<'_> {
    /// Until the view is unmounted for good, or this process is told to end.
    ///
    /// # Errors
    /// If the view cannot be kept: its server dies again and again, or cannot be followed.
    pub(super) fn until_the_end(mut self, held: &mut Held, caller: &mut dyn Caller) -> Result<(), Failure> {
        let mut namespace = None;
        loop {
            match self.wait(caller, &mut namespace)? {
                Event::Over => {
                    tracing::info!("the view is unmounted everywhere");
                    held.mounted = None;
                    return Ok(());
                }
                // First its path, then, after a while, its server.
                Event::Told => {
                    tracing::info!("told to end");
                    let server = &self.connection.process.socket;
                    return self.serving.take_from_users(held, namespace, server);
                }
                Event::Died(ended) => {
                    let name = &self.serving.spec.name;
                    let reason = told(ended);
                    let what = format!("the server of the view '{name}' {reason}");
                    if !self.connection.can_be_followed {
                        let end = "it cannot be started again on this kernel, or is not to be";
                        return Err(Failure::new(format!("{what}; {end}")));
                    }
                    let Some(pause) = self.deaths.dies() else {
                        return Err(Failure::new(format!(
                            "{what}, as {MOST} before it within {} ms of their start; it is not started again",
                            SOON.as_millis()
                        )));
                    };
                    tracing::warn!("{what}; it is started again");
                    if !pause.is_zero() {
                        std::thread::sleep(pause);
                    }
                    self.deaths.begins();
                    self.start_again(reason, held, caller)?;
                }
            }
        }
    }

    /// Waits for something to do, and keeps open meanwhile what the server asks for.
    fn wait(&mut self, caller: &mut dyn Caller, namespace: &mut Option<u64>) -> Result<Event, Failure> {
        let attempt = || "cannot wait for the end of the view".to_owned();
        loop {
            let socket = caller.socket();
            let mut watched = vec![self.connection.process.socket.as_fd(), self.serving.signals.as_fd()];
            watched.extend(socket.map(AsFd::as_fd));
            let ready = wait_readable(&watched, None).attempt(attempt)?;
            if ready.first() == Some(&true) {
                match link::hear(&self.connection.process.socket).attempt(attempt)? {
                    Some((word, descriptor)) => self.heed(word, descriptor),
                    None => return self.ended(),
                }
            }
            if ready.get(1) == Some(&true) && self.serving.signals.next().attempt(attempt)?.is_some() {
                return Ok(Event::Told);
            }
            if let (Some(true), Some(socket)) = (ready.get(2), socket) {
                let (message, _) = crate::sys::socket::receive(socket, 64).attempt(attempt)?;
                match <[u8; 8]>::try_from(message.as_slice()) {
                    Ok(number) => *namespace = Some(u64::from_ne_bytes(number)),
                    Err(_) => return Ok(Event::Told),
                }
            }
        }
    }

    fn heed(&mut self, word: Word, descriptor: Option<OwnedFd>) {
        let connection = &mut self.connection;
        match (word, descriptor) {
            (Word::Hold { ino }, Some(open)) => drop(connection.held_open.insert(Ino(ino), open)),
            (Word::LetGo { ino }, _) => drop(connection.held_open.remove(&Ino(ino))),
            (Word::CannotBeFollowed, _) => connection.can_be_followed = false,
            (Word::Serving { .. }, _) => self.deaths.begins(),
            // Its end, which follows, counts as a death.
            (Word::Failed(failure), _) => tracing::error!(%failure, "the view's server"),
            (Word::Hold { .. } | Word::NoPassthrough { .. }, _) => {}
        }
    }

    /// The server has closed its end: because the view is gone, or otherwise.
    fn ended(&mut self) -> Result<Event, Failure> {
        let ended = self.connection.process.wait().attempt(|| "the view's server is lost".to_owned())?;
        let gone = fuse_device::is_gone(self.connection.device.as_fd())
            .attempt(|| "cannot ask the device".to_owned())?;
        Ok(if ended == Ended::Exited(0) || gone { Event::Over } else { Event::Died(ended) })
    }

    /// Starts a server that goes on where the last one died for `reason`; what it says is heard later.
    fn start_again(
        &mut self,
        reason: String,
        held: &mut Held,
        caller: &mut dyn Caller,
    ) -> Result<(), Failure> {
        let Connection { io, device, greeting, memory, held_open, process, .. } = &mut self.connection;
        let part = Part {
            serving: self.serving,
            lower: self.lower,
            io: *io,
            device,
            greeting,
            memory,
            before: Some(held_open),
        };
        *process = server::start(&part, held, caller)?;
        self.record.server = self.connection.process.number();
        tracing::info!(
            server = self.record.server,
            restarts = self.record.restarts + 1,
            "another server is started"
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.record.note_restart(now.as_secs(), reason);
        // Nothing depends on it but what people see.
        if let Err(failure) = held.publish(&self.record) {
            tracing::warn!(%failure, "the view's server was started again");
        }
        Ok(())
    }
}

impl Serving<'_> {
    /// Takes the view away from those who use it; `server` becomes readable when the last one is gone.
    pub(super) fn take_from_users(
        &self,
        held: &mut Held,
        namespace: Option<u64>,
        server: &OwnedFd,
    ) -> Result<(), Failure> {
        if let Some(mounted) = held.mounted.take() {
            take_away(&mounted, self.registry)?;
        }
        // Usually the command has ended, and the view with it: then there is nobody to look for.
        let over = |patience| closed(server, patience).attempt(|| "cannot wait".to_owned());
        let ending = over(SETTLING)?;
        if let Some(namespace) = namespace.filter(|_| !ending) {
            process::signal_mount_namespace(namespace, rustix::process::Signal::KILL)
                .attempt(|| "cannot end the command".to_owned())?;
        }
        if !over(GRACE)? {
            tracing::warn!(view = %self.spec.name, "still in use somewhere; ended all the same");
        }
        Ok(())
    }

    /// What a server does whose keeper is dead, until the view is unmounted for good, or this process is told to end.
    pub(super) fn wait_alone(
        &self,
        held: &mut Held,
        ended: &OwnedFd,
        recording: &mut Recording,
    ) -> Result<(), Failure> {
        let attempt = || "cannot wait for the end of the view".to_owned();
        loop {
            let watched = [ended.as_fd(), self.signals.as_fd(), recording.woken()];
            let ready = wait_readable(&watched, recording.patience()).attempt(attempt)?;
            if ready.first() == Some(&true) {
                held.mounted = None;
                return Ok(());
            }
            if self.signals.next().attempt(attempt)?.is_some() {
                return self.take_from_users(held, None, ended);
            }
            if matches!(ready.as_slice(), [_, false, _]) {
                recording.heed();
            }
        }
    }
}

/// True once a server has closed its end, or has ended; what it says until then is not heard any more.
fn closed(server: &OwnedFd, patience: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if wait_readable(&[server.as_fd()], Some(left))? != [true] {
            return Ok(false);
        }
        let mut byte = [0; 1];
        match rustix::io::read(server, &mut byte) {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Ok(true),
            // The end of a session is one byte in a pipe.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_server_that_dies_at_once_is_started_more_and_more_slowly_and_then_no_more() {
        let mut deaths = Deaths::default();
        let pauses: Vec<_> = std::iter::from_fn(|| {
            deaths.begins();
            deaths.dies()
        })
        .collect();
        assert_eq!(pauses.len(), MOST as usize - 1);
        assert!(pauses.iter().take(FREE as usize).all(Duration::is_zero));
        assert!(pauses.windows(2).all(|w| w.first().unwrap() <= w.last().unwrap()));
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        let whole: Duration = pauses.iter().sum();
        assert!(whole > Duration::from_secs(5) && whole < Duration::from_secs(15), "{whole:?}");
    }

    #[test]
    fn one_that_has_served_a_while_is_started_again_at_once() {
        let began = Instant::now().checked_sub(SOON).unwrap();
        let mut deaths = Deaths { began, soon: MOST - 1 };
        assert_eq!(deaths.dies(), Some(Duration::ZERO));
        assert_eq!(deaths.soon, 0);
    }
}
