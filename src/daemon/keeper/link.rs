//! What a server tells its keeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::daemon::error::Failure;
use crate::sys::socket;

/// The longest word: a failure with its hints.
const LIMIT: usize = 64 * 1024;

/// A word of the server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// It has negotiated with the kernel and serves from here on.
    Serving {
        /// What the INIT request was answered with.
        answer: Vec<u8>,
        /// Another server can go on where it is killed.
        can_be_followed: bool,
    },
    /// The kernel takes no passthrough; the server ends.
    NoPassthrough {
        /// Why, for people.
        why: String,
    },
    /// It cannot serve; it ends.
    Failed(Failure),
    /// With a descriptor: to be kept open.
    Hold {
        /// The inode of the view that it is needed for.
        ino: u64,
    },
    /// Nobody needs it any more.
    LetGo {
        /// As in [`Word::Hold`].
        ino: u64,
    },
    /// No other server can go on where it is killed any more.
    CannotBeFollowed,
}

/// The server's end.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Tells the keeper. If that is dead there is nobody to tell, and nobody who would start another server.
    pub(super) fn tell(&self, word: &Word, descriptor: Option<BorrowedFd<'_>>) {
        if let Err(error) = self.send(word, descriptor) {
            tracing::debug!(%error, "the keeper is not there");
        }
    }

    /// What the keeper says; nothing when it is dead.
    pub(super) fn hear(&self) -> io::Result<Vec<u8>> {
        match socket::receive(&self.socket, 64) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Vec::new()),
            answer => answer.map(|(message, _)| message),
        }
    }

    fn send(&self, word: &Word, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let message = postcard::to_stdvec(word).map_err(io::Error::other)?;
        socket::send_with(&self.socket, &message, descriptor.as_slice())
    }
}

impl AsFd for Link {
    /// Readable when the keeper says something, or is dead.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The next word from a server, with a descriptor if one came; `None` if it has ended.
///
/// # Errors
/// As recvmsg(2); `InvalidData` if it is no word.
pub(super) fn hear(socket: &OwnedFd) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
    let (message, descriptor) = match socket::receive(socket, LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        answer => answer?,
    };
    if message.is_empty() {
        return Ok(None);
    }
    let word = postcard::from_bytes(&message).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((word, descriptor)))
}
