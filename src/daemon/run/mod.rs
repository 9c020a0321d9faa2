//! One command in a mount namespace of its own, with a view at `/nix`.
//!
//! Three processes: the *caller* (on the terminal; passes signals on, adopts what the command leaves behind, ends it),
//! the *server* (in a session of its own, so that no key of the terminal reaches it) and the *command*. The view is
//! mounted in the command's namespace alone: when its last process is gone the kernel takes the mount away, and the
//! server sees that, cleans up and ends, however the others died.

pub mod environment;
mod isolation;
mod program;
mod supervise;

pub use isolation::Isolation;
pub use program::Program;
pub(super) use supervise::take_signals;
pub use supervise::{Outcome, supervise};
