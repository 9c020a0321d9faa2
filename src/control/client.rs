//! The end that asks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::container::Container;
use super::frame::{receive, send};
use super::message::{Answer, MountRequest, Operation, Reply, Request, Stopped, VERSION, ViewRef};
use crate::sys::socket;

/// How long an answer is waited for: longer than a server waits for a garbage collection that is running.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to whoever serves views.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// The `nixview` that was started for this connection.
    program: Option<Child>,
}

/// A view that can be used.
#[derive(Debug)]
pub struct Mounted {
    /// Its name.
    pub name: String,
    /// Its record, as `nixview status --json` shows it.
    pub record: serde_json::Value,
    /// What did not stop it, but should be known.
    pub warnings: Vec<String>,
    /// Its detached mount, if it was to be handed over.
    pub mount: Option<OwnedFd>,
}

/// Why a request was not granted.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody could be reached.
    #[error("cannot ask nixview: {0}")]
    Unreachable(#[source] io::Error),
    /// The connection broke, or what came back is no answer.
    #[error("nixview gave no answer: {0}")]
    Broken(#[source] io::Error),
    /// It was refused, or failed.
    #[error("{what}")]
    Failed {
        /// What failed, where and why.
        what: String,
        /// What can be done, a line each.
        hints: Vec<String>,
    },
}

impl Client {
    /// Connects to the daemon that listens on `path`; `None` where none does.
    ///
    /// # Errors
    /// As connect(2), but for nobody being there; `EACCES` if this user may not ask it.
    pub fn connect(path: &Path) -> io::Result<Option<Self>> {
        let socket = match socket::connect(path) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ECONNREFUSED)) => {
                return Ok(None);
            }
            answer => answer?,
        };
        Self::over(socket, None).map(Some)
    }

    /// Starts `program`, which is to speak with this client over its standard input (`nixview daemon --once`).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(mut program: Command) -> io::Result<Self> {
        let (here, there) = socket::pair()?;
        let child = program.stdin(Stdio::from(there)).stdout(Stdio::null()).spawn()?;
        // The command holds the other end; while it lives here, its death could not be seen.
        drop(program);
        Self::over(here, Some(child))
    }

    /// The daemon that listens on `path`, or where none does `program`.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`].
    pub fn open(path: &Path, program: Command) -> Result<Self, ControlError> {
        match Self::connect(path) {
            Ok(Some(client)) => Ok(client),
            Ok(None) => Self::start(program).map_err(ControlError::Unreachable),
            Err(error) => Err(ControlError::Unreachable(error)),
        }
    }

    fn over(socket: OwnedFd, program: Option<Child>) -> io::Result<Self> {
        socket::set_receive_timeout(&socket, PATIENCE)?;
        Ok(Self { socket, program })
    }

    /// Asks for a view of the lock in the open file `lock`, on the open directory `target` if it is to be mounted.
    ///
    /// # Errors
    /// [`ControlError`]; then nothing is left of the view.
    pub fn mount(
        &self,
        request: &MountRequest,
        lock: BorrowedFd<'_>,
        target: Option<BorrowedFd<'_>>,
    ) -> Result<Mounted, ControlError> {
        let descriptors: Vec<_> = std::iter::once(lock).chain(target).collect();
        let (answer, mut descriptors) =
            self.ask(Operation::Mount(Box::new(request.clone())), &descriptors)?;
        match answer {
            Answer::Mounted { name, record, warnings } => {
                Ok(Mounted { name, record, warnings, mount: descriptors.pop() })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a view, and comes back when nothing is left of it.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn unmount(&self, view: ViewRef, lazy: bool) -> Result<(String, Stopped), ControlError> {
        self.end(Operation::Unmount { view, lazy, container: None })
    }

    /// Ends the view of this name if it was made for this container, used or not; as [`unmount`](Self::unmount).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn unmount_of(&self, name: String, of: Container) -> Result<(String, Stopped), ControlError> {
        self.end(Operation::Unmount { view: ViewRef::Name(name), lazy: true, container: Some(of) })
    }

    fn end(&self, operation: Operation) -> Result<(String, Stopped), ControlError> {
        match self.ask(operation, &[])?.0 {
            Answer::Stopped { name, how } => Ok((name, how)),
            other => Err(unexpected(&other)),
        }
    }

    /// The views that there are, as `nixview status --json` shows them.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn views(&self) -> Result<Vec<serde_json::Value>, ControlError> {
        match self.ask(Operation::List, &[])?.0 {
            Answer::Views { views } => Ok(views),
            other => Err(unexpected(&other)),
        }
    }

    /// What the log of a view holds: lines of JSON.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn log(&self, name: String) -> Result<File, ControlError> {
        let (answer, mut descriptors) = self.ask(Operation::Log { name }, &[])?;
        match (answer, descriptors.pop()) {
            (Answer::Log { .. }, Some(file)) => Ok(File::from(file)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn ask(
        &self,
        operation: Operation,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), ControlError> {
        let request = Request { version: VERSION, operation };
        // A daemon that refuses a connection says why before it closes it: that is read in any case.
        let sent = send(&self.socket, &request, descriptors);
        let reply = match receive::<Reply>(self.socket.as_fd()) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(sent.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("none within {} s", PATIENCE.as_secs())))
            }
            Err(error) => Err(error),
        };
        let (reply, descriptors) = reply.map_err(ControlError::Broken)?;
        match reply.answer {
            Answer::Failed { what, hints } => Err(ControlError::Failed { what, hints }),
            answer => Ok((answer, descriptors)),
        }
    }
}

impl Drop for Client {
    /// The program that was started sees the end of the connection, and ends.
    fn drop(&mut self) {
        let Some(mut program) = self.program.take() else { return };
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both) {
            tracing::debug!(%error, "the connection was closed already");
        }
        if let Err(error) = program.wait() {
            tracing::debug!(%error, "the program that was asked cannot be waited for");
        }
    }
}

fn unexpected(answer: &Answer) -> ControlError {
    let what = format!("it answered something else: {answer:?}");
    ControlError::Broken(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn nobody_there_is_no_error_and_a_program_that_says_nothing_is_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Client::connect(&dir.path().join("none")).unwrap().is_none());
        let client = Client::start(Command::new("true")).unwrap();
        assert!(matches!(client.views(), Err(ControlError::Broken(_))));
    }
}
