//! Keeping a view that the kernel makes by itself: waits for its end, and answers nothing.

use std::os::fd::AsFd;
use std::time::Duration;

use super::overlay::Overlay;
use super::setup::Serving;
use super::{Caller, GRACE, Held, SETTLING, take_away};
use crate::daemon::error::{Attempt, Failure};
use crate::sys::process;
use crate::sys::signals::wait_readable;

impl Serving<'_> {
    /// Until the view is used nowhere any more.
    ///
    /// A signal, or the end of the caller of a private view, takes the view from its path and ends the command in it. Containers
    /// that have it keep it, since no process can take a mount out of their mount namespace: it ends with them.
    pub(super) fn keep_overlay(
        &self,
        overlay: &Overlay,
        held: &mut Held,
        caller: &mut dyn Caller,
    ) -> Result<(), Failure> {
        let attempt = || "cannot wait for the end of the view".to_owned();
        let mut namespace = None;
        let mut listens = true;
        loop {
            let socket = caller.socket().filter(|_| listens);
            let mut watched = vec![overlay.end().as_fd(), self.signals.as_fd()];
            watched.extend(socket.map(AsFd::as_fd));
            let ready = wait_readable(&watched, None).attempt(attempt)?;
            if ready.first() == Some(&true) {
                tracing::info!("the view is unmounted everywhere");
                held.mounted = None;
                held.overlay_is_gone = true;
                return Ok(());
            }
            let mut told = ready.get(1) == Some(&true) && self.signals.next().attempt(attempt)?.is_some();
            if let (Some(true), Some(socket)) = (ready.get(2), socket) {
                let (message, _) = crate::sys::socket::receive(socket, 64).attempt(attempt)?;
                match <[u8; 8]>::try_from(message.as_slice()) {
                    Ok(number) => namespace = Some(u64::from_ne_bytes(number)),
                    Err(_) => (told, listens) = (true, false),
                }
            }
            if told {
                tracing::info!("told to end");
                self.take_overlay_from_users(overlay, held, namespace)?;
            }
        }
    }

    fn take_overlay_from_users(
        &self,
        overlay: &Overlay,
        held: &mut Held,
        namespace: Option<u64>,
    ) -> Result<(), Failure> {
        if let Some(mounted) = held.mounted.take() {
            take_away(&mounted, self.registry)?;
        }
        let over = |patience: Duration| {
            wait_readable(&[overlay.end().as_fd()], Some(patience))
                .map(|ready| ready == [true])
                .attempt(|| "cannot wait".to_owned())
        };
        let ending = over(SETTLING)?;
        if let Some(namespace) = namespace.filter(|_| !ending) {
            process::signal_mount_namespace(namespace, rustix::process::Signal::KILL)
                .attempt(|| "cannot end the command".to_owned())?;
        }
        if !over(GRACE)? {
            tracing::warn!(view = %self.spec.name, "still in use somewhere; it ends when it is not");
        }
        Ok(())
    }
}
