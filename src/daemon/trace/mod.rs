//! Tracing what is used of a view.
//!
//! Three processes have a part in it. The *keeper* makes what they share ([`shared`]): a log and a page of control, both files in memory,
//! which outlive a server. The *server* appends to the log, before it answers, what is used for the first time ([`recording`]). The *tracer*,
//! `nixview trace`, gets at them through `/proc/KEEPER/fd`, which the kernel allows to root and to the user whom the keeper runs as, and
//! to nobody else ([`tracer`]). Whatever a tracer writes there, a server reads it as numbers, and does not map it.
//!
//! A view that is traced from its beginning needs no tracer: the keeper writes the file when the view ends ([`traced`]).

mod recording;
mod shared;
mod traced;
mod tracer;

pub(super) use recording::Recording;
pub(super) use traced::Traced;
pub use tracer::{Tracer, View};
