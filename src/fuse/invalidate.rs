//! Telling the kernel that something it keeps is no longer true, and giving it something to keep.

use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};

use crate::vfs::Ino;

/// A way to the kernel's caches; does nothing before it is connected.
#[derive(Default)]
pub(super) struct Invalidator {
    notifier: OnceLock<Notifier>,
}

impl Invalidator {
    pub(super) fn connect(&self, notifier: Notifier) {
        // Only the first is taken, and there is one session per invalidator.
        self.notifier.get_or_init(|| notifier);
    }

    /// Gives the kernel the content of `ino` to keep. It waits for pages that are being read, so it comes before the
    /// first open of the inode is answered.
    pub(super) fn content(&self, ino: Ino, content: &[u8]) {
        let Some(notifier) = self.notifier.get() else { return };
        if let Err(error) = notifier.store(INodeNo(ino.0), 0, content) {
            tracing::debug!(%ino, %error, "the kernel asks for content that it was given");
        }
    }

    /// Makes the kernel ask for the attributes of `ino` again. No lock of the kernel's is taken for this
    /// (fs/fuse/inode.c, `fuse_reverse_inval_inode` with a negative offset), so it may be called in a handler.
    pub(super) fn attributes(&self, ino: Ino) {
        let Some(notifier) = self.notifier.get() else { return };
        if let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
            tracing::debug!(%ino, %error, "the kernel keeps old attributes");
        }
    }
}
