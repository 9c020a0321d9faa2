//! Which inodes are open, and how the kernel gets at their content: one answer for all opens of an inode.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::memory;
use crate::vfs::{Ino, Opened};

use super::LONGEST_WRITE;
use super::backing::Backing;
use super::invalidate::Invalidator;
use super::passthrough::{Mode, OpenInodes};
use super::recorder::{OpenFiles, Recorder};
use super::small::Small;

/// The open inodes of a connection.
pub(super) struct Opens {
    inodes: OpenInodes<Backing>,
    device: Arc<OwnedFd>,
    recorder: Option<Arc<dyn Recorder>>,
    refusal_was_told: AtomicBool,
    small: Small,
}

impl Opens {
    /// `kernel` is the way to the kernel's caches.
    pub(super) fn new(
        device: Arc<OwnedFd>,
        recorder: Option<Arc<dyn Recorder>>,
        kernel: Arc<Invalidator>,
    ) -> Self {
        Self {
            inodes: OpenInodes::default(),
            device,
            recorder,
            refusal_was_told: AtomicBool::new(false),
            small: Small::new(kernel),
        }
    }

    /// Puts back what another process had open.
    pub(super) fn restore(&mut self, files: &OpenFiles) {
        for (ino, opens, id) in &files.inodes {
            self.inodes.restore(*ino, *opens, id.map(|id| Backing::known(&self.device, id)));
        }
    }

    /// Counts an open of `ino` and answers how it is served: from its file, if that is not [small](Small) and the kernel takes it; told
    /// once if not.
    pub(super) fn enter(&self, ino: Ino, opened: &Opened) -> Mode<Backing> {
        let register = || {
            let file = opened.backing.as_ref()?.as_fd();
            if opened.settled && self.small.give(ino, file) {
                return None;
            }
            match Backing::register(&self.device, file) {
                Ok(backing) => Some(backing),
                Err(error) => {
                    if !self.refusal_was_told.swap(true, Ordering::Relaxed) {
                        memory::expect_requests(LONGEST_WRITE);
                        tracing::warn!(%error, "the kernel refuses passthrough for a file; such files are served by requests");
                    }
                    None
                }
            }
        };
        let mode = self.inodes.enter(ino, register, |backing| {
            if let Some(recorder) = &self.recorder {
                recorder.backed(ino, backing.id());
            }
        });
        if let Some(recorder) = &self.recorder {
            recorder.secure();
        }
        mode
    }

    /// The kernel knows an inode no more, and what it kept of it is gone.
    pub(super) fn forgotten(&self, ino: Ino) {
        self.small.forgotten(ino);
    }

    /// Takes back one open.
    pub(super) fn leave(&self, ino: Ino) {
        self.inodes.leave(ino, || {
            if let Some(recorder) = &self.recorder {
                recorder.unbacked(ino);
            }
        });
    }
}
