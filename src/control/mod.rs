//! How others ask for views: versioned messages over a Unix socket.
//!
//! A connection carries whole messages (`SOCK_SEQPACKET`), JSON of at most [`LIMIT`] bytes each: a [`Request`], its
//! [`Reply`], then perhaps another request. What is opened is handed over as a descriptor, not as a path, so that a
//! request can use what its sender may open, and nothing else:
//!
//! | message | descriptors |
//! |---|---|
//! | `mount` | the lock, open for reading; for a view on a directory also that directory (`O_PATH` is enough) |
//! | `mounted`, for a view that is handed over | the view's detached mount |
//!
//! Who asks is told by the kernel (`SO_PEERCRED`), never by the message. The other end is `nixview daemon`, or, where
//! none runs, a `nixview` of the sender's own at the other end of a socket pair: the messages are the same.
//!
//! Knows nothing of views, stores and FUSE: what runs once per container links this module and `sys` alone.

mod client;
mod container;
mod frame;
mod message;

pub use client::{Client, ControlError, Mounted};
pub use container::Container;
pub use frame::{LIMIT, receive, send};
pub use message::{
    Answer, Backend, Io, MountRequest, Operation, Place, Reply, Request, Stopped, Upper, VERSION, ViewRef,
};

/// The socket's name in the runtime directory.
pub const SOCKET: &str = "control.sock";
