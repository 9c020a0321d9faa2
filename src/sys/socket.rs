//! Local sockets that carry whole messages, and descriptors from process to process.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, getsockopt, listen as listen_on, recvmsg, sendmsg, setsockopt, socket, socketpair,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The most descriptors that the kernel takes with one message (net/core/scm.c, `SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;

/// Two connected ends that carry whole messages, closed on exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// As connect(2): `ENOENT` or `ECONNREFUSED` if nobody listens there, `EACCES`; `ENAMETOOLONG` for a path of more than 107
/// bytes.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let end = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    nix::sys::socket::connect(end.as_raw_fd(), &address)?;
    Ok(end)
}

/// Listens on a new socket at `path`, mode 0600 from the first moment; see [`accept`].
///
/// # Errors
/// As bind(2): `EADDRINUSE` if there is something of that name.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    // What is bound gets the mode of the socket's own inode (net/unix/af_unix.c, `unix_bind_bsd`).
    nix::sys::stat::fchmod(&listener, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    bind(listener.as_raw_fd(), &address)?;
    listen_on(&listener, Backlog::new(128)?)?;
    Ok(listener)
}

/// A socket that listens, handed over by whoever started this process as the descriptor `number` (sd_listen_fds(3)); the
/// answer is a duplicate of it.
///
/// # Errors
/// `EBADF` if there is no such descriptor; `InvalidInput` if it is something else, or listens for streams.
pub fn handed_over(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: it is used for one call; if it is not open that call answers EBADF.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    let listener = given.try_clone_to_owned()?;
    let listens = getsockopt(&listener, sockopt::AcceptConn)?;
    if !listens || getsockopt(&listener, sockopt::SockType)? != SockType::SeqPacket {
        let why = format!("descriptor {number} is no socket that listens for SOCK_SEQPACKET");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(listener)
}

/// The next connection of a listener; `None` if there is none at the moment, or it was given up meanwhile.
///
/// # Errors
/// As accept4(2); `EMFILE` and its like leave the connection waiting.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use nix::errno::Errno;
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(raw) => Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) })),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who is at the other end of a connection, as when it was made (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Who is at the other end.
///
/// # Errors
/// As getsockopt(2).
pub fn peer(connection: BorrowedFd<'_>) -> io::Result<Peer> {
    let found = getsockopt(&connection, sockopt::PeerCredentials)?;
    Ok(Peer { pid: found.pid(), uid: found.uid(), gid: found.gid() })
}

/// Lets receiving from a connection fail with `EAGAIN` after that long.
///
/// # Errors
/// As setsockopt(2).
pub fn set_receive_timeout(connection: impl AsFd, timeout: Duration) -> io::Result<()> {
    let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    Ok(setsockopt(&connection.as_fd(), sockopt::ReceiveTimeout, &TimeVal::milliseconds(milliseconds))?)
}

/// Lets sending over a connection fail with `EAGAIN` after that long.
///
/// # Errors
/// As setsockopt(2).
pub fn set_send_timeout(connection: impl AsFd, timeout: Duration) -> io::Result<()> {
    let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    Ok(setsockopt(&connection.as_fd(), sockopt::SendTimeout, &TimeVal::milliseconds(milliseconds))?)
}

/// Sends one message, and a descriptor with it if given.
///
/// # Errors
/// As [`send_with`].
pub fn send(socket: impl AsFd, message: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let descriptors: Vec<_> = descriptor.iter().map(|d| d.as_fd()).collect();
    send_with(socket, message, &descriptors)
}

/// Sends one message, and descriptors with it.
///
/// # Errors
/// As sendmsg(2): `EPIPE` if the other end is closed, `EMSGSIZE` if the message is too long (about 200 KiB).
pub fn send_with(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<_> = descriptors.iter().map(|d| d.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let slices = [IoSlice::new(message)];
    let socket = socket.as_fd().as_raw_fd();
    sendmsg::<()>(socket, &slices, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message of up to `limit` bytes; empty when the other end was closed without a word.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` if the message was longer, or came with more than one descriptor.
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (message, mut descriptors) = receive_with(socket, limit, 1)?;
    Ok((message, descriptors.pop()))
}

/// Receives one message of up to `limit` bytes with up to `most` descriptors; empty when the other end was closed without
/// a word.
///
/// # Errors
/// As recvmsg(2); `EMSGSIZE` if the message was longer or had more descriptors, all of which are closed then.
pub fn receive_with(socket: impl AsFd, limit: usize, most: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; limit];
    let mut control = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let socket = socket.as_fd().as_raw_fd();
    let received = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket, &mut slices, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for raw in raw {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    if received.flags.contains(MsgFlags::MSG_TRUNC) || descriptors.len() > most {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let length = received.bytes;
    buffer.truncate(length);
    Ok((buffer, descriptors))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (here, there) = pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        send(&here, b"first", None).unwrap();
        send(&here, b"second", Some(&file.into())).unwrap();
        drop(here);
        let (message, none) = receive(&there, 100).unwrap();
        assert_eq!((message.as_slice(), none.is_none()), (&b"first"[..], true));
        let (message, file) = receive(&there, 100).unwrap();
        assert_eq!(message, b"second");
        let mut file = std::fs::File::from(file.unwrap());
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(receive(&there, 100).unwrap().0, b"");
    }

    #[test]
    fn a_longer_message_is_an_error() {
        let (here, there) = pair().unwrap();
        send(&here, &[1; 100], None).unwrap();
        assert_eq!(receive(&there, 10).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    }
}
