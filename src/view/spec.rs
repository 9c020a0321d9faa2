//! What a view is to be.

use std::path::PathBuf;

use super::ViewName;
use super::upper_dir::LimitChoice;
use crate::lock::EnvLock;
use crate::store::Location;

/// Everything that decides what a view shows and where its changes go; not where it is mounted.
#[derive(Clone, Debug)]
pub struct ViewSpec {
    /// Its name on this host.
    pub name: ViewName,
    /// The file that the lock was read from, for people.
    pub lock_file: PathBuf,
    /// The environment: the view shows exactly the closure of its roots.
    pub lock: EnvLock,
    /// The store that the closure is taken from.
    pub store: Location,
    /// Where changes go.
    pub upper: UpperChoice,
    /// The most that an upper may hold.
    pub limit: LimitChoice,
    /// User and group that everything of the store is shown as.
    pub owner: (u32, u32),
    /// What it is made of.
    pub backend: BackendChoice,
    /// Who reads and writes the files behind it.
    pub io: IoChoice,
    /// Access control lists are kept and obeyed, where the upper's file system has them.
    pub access_lists: bool,
    /// Device nodes can be made in it; `false`: none but of the number 0:0, which leads nowhere.
    pub devices: bool,
    /// The file that is to say at the end what of it was used (absolute).
    pub trace: Option<PathBuf>,
}

/// Where the changes of a view go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpperChoice {
    /// Into an upper that stays; it is made if it is missing.
    Directory(PathBuf),
    /// Into an upper of this mount's own below a directory, removed at the end.
    Temporary {
        /// The directory; made if it is missing.
        parent: PathBuf,
    },
    /// Nowhere: every change is refused with `EROFS`.
    ReadOnly,
}

/// What a view is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendChoice {
    /// The kernel's overlayfs where it can do all that is asked for, else a FUSE server.
    #[default]
    Auto,
    /// A FUSE server.
    Fuse,
    /// The kernel's overlayfs, or no view.
    Overlay,
}

/// Who reads and writes the files behind a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoChoice {
    /// Passthrough where the kernel, the privilege and the store's file system have it, else cached.
    #[default]
    Auto,
    /// Passthrough, or no view.
    Passthrough,
    /// The server, by requests.
    Cached,
}
