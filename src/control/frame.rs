//! One message on a connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::VERSION;
use crate::json;
use crate::sys::socket;

/// The longest message, in bytes. A record holds a few paths; what is large (locks) comes as a descriptor.
pub const LIMIT: usize = 128 * 1024;

/// The most descriptors that come with one message.
const DESCRIPTORS: usize = 2;

/// Sends a message, and descriptors with it.
///
/// # Errors
/// As sendmsg(2): `EPIPE` if the other end is closed, `EMSGSIZE` if it is too long.
pub fn send(to: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > LIMIT {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    socket::send_with(to, &text, descriptors)
}

/// Receives a message and its descriptors; `None` when the other end was closed.
///
/// # Errors
/// As recvmsg(2): `EAGAIN` if a timeout was set and has passed, `EMSGSIZE` if it was longer than [`LIMIT`] or had more
/// descriptors than any message has; `InvalidData` for what is no message of this version.
pub fn receive<T: DeserializeOwned>(from: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (text, descriptors) = socket::receive_with(from, LIMIT, DESCRIPTORS)?;
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let versioned: Versioned = json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    if versioned.version != VERSION {
        let version = versioned.version;
        return Err(invalid(format!("it speaks version {version} of the messages, this program {VERSION}")));
    }
    let message = json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::control::{Operation, Request};

    fn list() -> Request {
        Request { version: VERSION, operation: Operation::List }
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (here, there) = socket::pair().unwrap();
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        send(&here, &list(), &[file.as_fd(), file.as_fd()]).unwrap();
        let (request, descriptors) = receive::<Request>(&there).unwrap().unwrap();
        assert_eq!((request, descriptors.len()), (list(), 2));
        drop(here);
        assert!(receive::<Request>(&there).unwrap().is_none());
    }

    #[test]
    fn other_versions_garbage_and_too_many_descriptors_are_errors() {
        let (here, there) = socket::pair().unwrap();
        send(&here, &Request { version: 7, ..list() }, &[]).unwrap();
        let error = receive::<Request>(&there).unwrap_err();
        assert!(error.to_string().contains("version 7"), "{error}");
        for garbage in [
            &b"{"[..],
            b"\0\0",
            b"[1,\"list\"]",
            b"{\"version\":1}",
            b"{\"version\":1,\"operation\":\"dance\"}",
        ] {
            socket::send(&here, garbage, None).unwrap();
            assert_eq!(receive::<Request>(&there).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        send(&here, &list(), &[file.as_fd(); 9]).unwrap();
        assert_eq!(receive::<Request>(&there).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        socket::send(&here, &vec![b' '; LIMIT + 1], None).unwrap();
        assert_eq!(receive::<Request>(&there).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }
}
