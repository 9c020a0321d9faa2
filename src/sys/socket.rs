//! Descriptors sent from process to process.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// Two connected ends that carry whole messages, closed on exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message, and a descriptor with it if given.
///
/// # Errors
/// As sendmsg(2): `EPIPE` if the other end is closed, `EMSGSIZE` if the message is too long (about 200 KiB).
pub fn send(socket: impl AsFd, message: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let raw: Vec<_> = descriptor.iter().map(|d| d.as_raw_fd()).collect();
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
/// As recvmsg(2); `EMSGSIZE` if the message was longer.
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = vec![0; limit];
    let mut control = cmsg_space!([std::os::fd::RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let socket = socket.as_fd().as_raw_fd();
    let received = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket, &mut slices, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptor = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for raw in raw {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                descriptor = Some(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let length = received.bytes;
    buffer.truncate(length);
    Ok((buffer, descriptor))
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
