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

/// What a handle stands for.
#[derive(Debug)]
enum Slot {
    Open(Arc<Open>),
    /// It was opened by a process that is dead: the inode stands for the file.
    Restored(Ino, Side),
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    open: HashMap<u64, Slot>,
}

/// Handle ↔ open file. Handles count up from 1 and are not used again. The lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Handles {
    state: Mutex<State>,
}

impl Handles {
    /// Those that another process had opened; `last` is the last that it gave.
    pub(super) fn restored(last: u64, open: impl Iterator<Item = (Handle, Ino, Side)>) -> Self {
        let open = open.map(|(handle, ino, side)| (handle.0, Slot::Restored(ino, side))).collect();
        Self { state: Mutex::new(State { last, open }) }
    }

    /// A handle for an open file; `tell` is called with it before anybody else can know it.
    pub(super) fn add(&self, open: Open, tell: impl FnOnce(Handle)) -> Handle {
        let mut state = self.state.lock();
        state.last += 1;
        let handle = state.last;
        tell(Handle(handle));
        state.open.insert(handle, Slot::Open(Arc::new(open)));
        Handle(handle)
    }

    /// The open file of a handle; `None` for one that is not known, or was opened by a process that is dead.
    pub(super) fn get(&self, handle: Handle) -> Option<Arc<Open>> {
        match self.state.lock().open.get(&handle.0)? {
            Slot::Open(open) => Some(Arc::clone(open)),
            Slot::Restored(..) => None,
        }
    }

    /// True for a handle that is open.
    pub(super) fn knows(&self, handle: Handle) -> bool {
        self.state.lock().open.contains_key(&handle.0)
    }

    /// Ends a handle; answers what it stood for, `None` if it is not known.
    pub(super) fn remove(&self, handle: Handle) -> Option<(Ino, Side)> {
        let slot = self.state.lock().open.remove(&handle.0)?;
        Some(match slot {
            Slot::Open(open) => (open.ino, open.side),
            Slot::Restored(ino, side) => (ino, side),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().open.len()
    }
}
