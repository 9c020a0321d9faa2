//! Open files of the view.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::AnyFile;
use super::place::Side;
use crate::vfs::{Handle, Ino};

/// An open file.
pub(super) struct Open {
    pub(super) ino: Ino,
    /// The layer that `file` is on.
    pub(super) side: Side,
    pub(super) file: AnyFile,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("ino", &self.ino).field("side", &self.side).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    open: HashMap<u64, Arc<Open>>,
}

/// Handle ↔ open file. Handles count up from 1 and are not used again. The lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Handles {
    state: Mutex<State>,
}

impl Handles {
    pub(super) fn add(&self, open: Open) -> Handle {
        let mut state = self.state.lock();
        state.last += 1;
        let handle = state.last;
        state.open.insert(handle, Arc::new(open));
        Handle(handle)
    }

    pub(super) fn get(&self, handle: Handle) -> Option<Arc<Open>> {
        self.state.lock().open.get(&handle.0).cloned()
    }

    pub(super) fn remove(&self, handle: Handle) -> Option<Arc<Open>> {
        self.state.lock().open.remove(&handle.0)
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().open.len()
    }
}
