//! Starts the server of a view in a process of its own, which says over a socket when the view can be used.
//!
//! The caller gets exactly one [`Report`], or learns that the server ended without one. A server whose report nobody
//! takes any more must undo what it has done: the caller is gone, and nobody knows of the view.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::error::{Attempt, Failure};
use super::record::Record;
use crate::json;
use crate::sys::process::{self, Ended, Fork};
use crate::sys::socket;

/// The longest report; what a record holds are a few paths.
const LIMIT: usize = 128 * 1024;

/// What a server says once.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The view can be used.
    Usable {
        /// What is served.
        record: Box<Record>,
        /// What did not stop it, but should be known.
        warnings: Vec<String>,
    },
    /// It cannot, and nothing is left of the attempt.
    Failed(Failure),
}

/// The caller's end: waits for the report.
#[derive(Debug)]
pub struct Waiting {
    socket: OwnedFd,
    server: Pid,
}

/// The server's end.
#[derive(Debug)]
pub struct Reporter {
    socket: OwnedFd,
}

/// Runs `serve` in a new process: in a session of its own, at `/`, without any descriptor of the caller's but output,
/// errors and those `kept`. Its answer is the exit code.
///
/// # Errors
/// As fork(2) and socketpair(2).
pub fn launch(kept: &[BorrowedFd<'_>], serve: impl FnOnce(Reporter) -> u8) -> io::Result<Waiting> {
    let (here, there) = socket::pair()?;
    match process::fork()? {
        Fork::Parent(server) => Ok(Waiting { socket: here, server }),
        Fork::Child => {
            drop(here);
            let mut kept = kept.to_vec();
            kept.push(there.as_fd());
            let detached = process::close_all_but(&kept).and_then(|()| process::detach());
            let reporter = Reporter { socket: there };
            let code = match detached {
                Ok(()) => serve(reporter),
                Err(error) => {
                    let failure = Failure::of("cannot detach the view's server from its caller", &error);
                    u8::from(reporter.report(&Report::Failed(failure), None).is_err()) + 1
                }
            };
            process::end_now(code)
        }
    }
}

/// What the caller has of a server that serves.
#[derive(Debug)]
pub struct Launched {
    /// What is served.
    pub record: Record,
    /// What should be known.
    pub warnings: Vec<String>,
    /// The detached mount, if the server was to hand it over.
    pub mount: Option<OwnedFd>,
    /// The server's process.
    pub server: Pid,
    /// The server sees when this end is closed; what is sent over it is between the two.
    pub socket: OwnedFd,
}

impl Waiting {
    /// Waits for the report.
    ///
    /// # Errors
    /// What the server failed with, or how it ended without a word.
    pub fn wait(self) -> Result<Launched, Failure> {
        let (message, mount) = socket::receive(&self.socket, LIMIT)
            .attempt(|| "cannot hear from the view's server".to_owned())?;
        if message.is_empty() {
            return Err(Failure::new(match process::wait(self.server) {
                Ok(Ended::Exited(code)) => format!("the view's server ended with code {code} and no report"),
                Ok(Ended::Killed(signal)) => format!("the view's server was killed by signal {signal}"),
                Err(error) => format!("the view's server is lost: {error}"),
            }));
        }
        match json::from_slice(&message).attempt(|| "cannot understand the view's server".to_owned())? {
            Report::Usable { record, warnings } => {
                Ok(Launched { record: *record, warnings, mount, server: self.server, socket: self.socket })
            }
            Report::Failed(failure) => {
                process::wait(self.server).attempt(|| failure.what.clone())?;
                Err(failure)
            }
        }
    }
}

impl Reporter {
    /// Tells the caller, and hands it a mount if there is one.
    ///
    /// # Errors
    /// If the caller is gone.
    pub fn report(&self, report: &Report, mount: Option<&OwnedFd>) -> io::Result<()> {
        socket::send(&self.socket, &serde_json::to_vec(report)?, mount)
    }

    /// The socket: readable when the caller says something or is gone.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}
