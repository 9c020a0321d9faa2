//! The server of a view: a copy of the keeper that answers requests until the view ends.
//!
//! It says over its [`Link`] that it serves, and what is to be kept for the next one. It ends with 0 when the file system is
//! gone; however else it ends, the keeper starts another. When its keeper is dead it is on its own: it has all that the keeper had, takes
//! the view back at the end, and nobody follows it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::connection::{ServerProcess, backing_file};
use super::ledger::{Ledger, clone_held};
use super::link::{Link, Word};
use super::memory::Memory;
use super::setup::Serving;
use super::{Caller, Held};
use crate::daemon::error::{Attempt, Failure};
use crate::daemon::log;
use crate::daemon::mounted::Mounted;
use crate::daemon::record::Record;
use crate::daemon::registry::State;
use crate::daemon::trace::Recording;
use crate::fuse::{self, Greeting, Session, Uses};
use crate::sys::mount_point::MountPoint;
use crate::sys::process::{self, Fork};
use crate::sys::signals::wait_readable;
use crate::sys::{memory, socket};
use crate::union::record::HeldOpen;
use crate::view::build::{self, Tree, ViewLower};

/// What a server needs.
pub(super) struct Part<'a> {
    pub(super) serving: &'a Serving<'a>,
    pub(super) lower: &'a ViewLower,
    pub(super) io: fuse::Io,
    pub(super) device: &'a OwnedFd,
    pub(super) greeting: &'a Greeting,
    pub(super) memory: &'a Memory,
    /// What was kept open, if the connection had a server before.
    pub(super) before: Option<&'a HeldOpen>,
}

/// What the keeper of a first server tells it before whoever asked for the view is told of it.
pub(super) const KNOWN: &[u8] = b"known";

/// Why a server does not wait any more.
enum Heard {
    /// The view is over.
    End,
    /// Its keeper says something, or is dead.
    Keeper(Vec<u8>),
    /// A tracer wants something, or may be dead.
    Tracer,
}

/// Why a server could not serve.
enum NotServing {
    /// The kernel takes no passthrough.
    NoPassthrough(io::Error),
    Failed(Failure),
}

/// Starts a server, which will tell how that came out.
///
/// # Errors
/// As fork(2) and socketpair(2).
pub(super) fn start(
    part: &Part<'_>,
    held: &mut Held,
    caller: &mut dyn Caller,
) -> Result<ServerProcess, Failure> {
    let attempt = || "cannot start the view's server".to_owned();
    let (here, there) = socket::pair().attempt(attempt)?;
    match process::fork().attempt(attempt)? {
        Fork::Parent(pid) => Ok(ServerProcess::new(pid, here)),
        Fork::Child => {
            drop(here);
            log::begin_server();
            let link = Arc::new(Link::new(there));
            // Whoever has the mount keeps the view alive.
            drop(held.mount.take());
            if let Err(error) = caller.leave() {
                link.tell(&Word::Failed(Failure::of("cannot leave the caller of the view", &error)), None);
                process::end_now(1);
            }
            process::end_now(part.be_it(&link, held));
        }
    }
}

impl Part<'_> {
    /// Serves; answers the exit code.
    fn be_it(&self, link: &Arc<Link>, held: &mut Held) -> u8 {
        let (session, recording) = match self.recorded_session(link, held) {
            Ok(serving) => serving,
            Err(NotServing::NoPassthrough(error)) => {
                link.tell(&Word::NoPassthrough { why: error.to_string() }, None);
                return 1;
            }
            Err(NotServing::Failed(failure)) => {
                link.tell(&Word::Failed(failure), None);
                return 1;
            }
        };
        let answer = session.answer().to_vec();
        let can_be_followed = session.can_be_followed();
        let ended = match run(session) {
            Ok(ended) => ended,
            Err(failure) => {
                link.tell(&Word::Failed(failure), None);
                return 1;
            }
        };
        link.tell(&Word::Serving { answer, can_be_followed }, None);
        memory::give_back();
        let mut known = self.before.is_some();
        let mut recording = recording;
        loop {
            let watched = [ended.as_fd(), link.as_fd(), recording.woken()];
            let heard = wait_readable(&watched, recording.patience()).and_then(|ready| {
                Ok(match ready.as_slice() {
                    [true, ..] => Heard::End,
                    [_, true, _] => Heard::Keeper(link.hear()?),
                    _ => Heard::Tracer,
                })
            });
            match heard {
                Ok(Heard::End) => return end_code(&ended),
                Ok(Heard::Tracer) => recording.heed(),
                Ok(Heard::Keeper(word)) if word == KNOWN => known = true,
                Ok(Heard::Keeper(_)) => return self.go_on_alone(held, &ended, known, &mut recording),
                Err(error) => {
                    tracing::error!(%error, "the server cannot wait");
                    return 1;
                }
            }
        }
    }

    /// A session, and what is recorded of it.
    fn recorded_session(
        &self,
        link: &Arc<Link>,
        held: &Held,
    ) -> Result<(Session<Tree>, Recording), NotServing> {
        let traced = held.traced.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let recording = traced
            .and_then(Recording::new)
            .map_err(|error| NotServing::Failed(Failure::of("cannot record what is used", &error)))?;
        Ok((self.session(link, held, recording.uses())?, recording))
    }

    /// A session that has negotiated, with what a server before this one had.
    fn session(&self, link: &Arc<Link>, held: &Held, uses: Arc<Uses>) -> Result<Session<Tree>, NotServing> {
        let failed = |what: &str, error: &io::Error| NotServing::Failed(Failure::of(what, error));
        let start = |error: io::Error| failed("cannot start the FUSE session", &error);
        let spec = self.serving.spec;
        let options = fuse::Options { io: self.io, threads: self.serving.options.threads };
        let passthrough = self.io == fuse::Io::Passthrough;
        let upper = held.upper.as_ref();
        let memory = self.memory.try_clone().map_err(start)?;
        let device = self.device.try_clone().map_err(start)?;
        let Some(before) = self.before else {
            let ledger = Arc::new(Ledger::first(memory, Arc::clone(link)).map_err(start)?);
            let tree = build::build(spec, self.lower.clone(), upper, passthrough, ledger.clone())
                .map_err(|error| NotServing::Failed(Failure::of("cannot put the view together", &error)))?;
            let first =
                Session::first(Arc::new(tree), device, self.greeting, options, Some(ledger), Some(uses));
            return match first {
                Ok(session) if passthrough => {
                    let taken = backing_file().and_then(|file| session.takes_backing(file.as_fd()));
                    taken.map(|()| session).map_err(NotServing::NoPassthrough)
                }
                Err(error) if passthrough => Err(NotServing::NoPassthrough(error)),
                answer => answer.map_err(start),
            };
        };
        let held_open = clone_held(before).map_err(start)?;
        Ledger::next(memory, Arc::clone(link), before, |ledger, past, files| {
            let tree =
                build::resume(spec, self.lower.clone(), upper, passthrough, ledger.clone(), past, held_open)?;
            Session::next(Arc::new(tree), device, self.greeting, options, ledger, Some(uses), files)
        })
        .map_err(|error| failed("cannot go on where the server before was killed", &error))
    }

    /// The keeper is dead: keeps the view, which nobody else does now, and takes it back at the end.
    ///
    /// A view of which nobody was told is taken back now.
    fn go_on_alone(&self, held: &mut Held, ended: &OwnedFd, known: bool, recording: &mut Recording) -> u8 {
        let name = &self.serving.spec.name;
        let record = match self.serving.registry.state(name) {
            Ok(Some(State::Served(record))) => *record,
            Ok(_) => return 1,
            Err(error) => {
                tracing::error!(%error, "the keeper is dead, and the registry cannot be read");
                return 1;
            }
        };
        // Of a mount that was not made its connection tells.
        let before = held.mounted.take().and_then(Mounted::into_point);
        let point = before.or_else(|| held.target.take().map(|target| MountPoint::new(target.directory)));
        held.mounted = Mounted::of_record(&record, point);
        held.shown |= record.usable;
        if let Some(traced) = &mut held.traced {
            traced.go_on(&record, &self.serving.spec.lock);
        }
        let kept = if known {
            tracing::warn!(view = %name, "the keeper is dead: this server goes on alone, and is not started again if it dies");
            let own = rustix::process::getpid().as_raw_nonzero().get();
            held.publish(&Record { pid: own, server: Some(own), ..record })
                .and_then(|()| self.serving.wait_alone(held, ended, recording))
        } else {
            self.serving.take_from_users(held, None, ended)
        };
        let ended = kept.and(held.release());
        log::end(&ended);
        u8::from(ended.is_err())
    }
}

/// Serves on threads of their own. The answer becomes readable when it is over, with a byte if it is over well.
fn run(session: Session<Tree>) -> Result<OwnedFd, Failure> {
    let (ended, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .attempt(|| "cannot make a pipe".to_owned())?;
    let serve = move || {
        let told = match session.run() {
            Ok(()) => rustix::io::write(&end, b".").map(drop).map_err(io::Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::error!(%error, "the FUSE session ended with an error");
        }
        drop(end);
    };
    std::thread::Builder::new()
        .name("session".to_owned())
        .stack_size(256 * 1024)
        .spawn(serve)
        .map(|_| ended)
        .attempt(|| "cannot start a thread".to_owned())
}

/// 0 if the session has ended because its file system is gone.
fn end_code(ended: &OwnedFd) -> u8 {
    let mut byte = [0];
    match rustix::io::read(ended, &mut byte) {
        Ok(1) => 0,
        _ => 1,
    }
}
