//! The log of a view: what its keeper and its servers report, in a file that outlives them.
//!
//! ```text
//! STATE/logs/NAME.log     lines of JSON ([`Line`]), the newest last; locked (flock(2), shared) while keeper or server lives
//! STATE/logs/NAME.log.1   the lines before them
//! ```
//!
//! The keeper opens the directory and the file before it mounts; its servers inherit both. A file that is full is renamed to
//! `.1`, under the lock of the directory ([`file`]). So a view has at most two full files, whatever a container does, and
//! [`rate`] bounds how fast they change. A line is one write(2), so that lines of several processes do not mix.
//!
//! The sink is the process's own: a process serves one view.

mod file;
mod line;
mod rate;
mod read;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::error::Failure;
use crate::sys::process;
use crate::view::ViewName;

pub use file::{Swept, directory, sweep};
pub use line::Line;
pub use read::{LogError, LogReader};

use file::LogFile;
use rate::Rate;

/// Target of events that the caller is shown in another way: the view's log has them, standard error does not.
pub const REPORTED: &str = "nixview::reported";

/// Which process of a view this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The one that keeps the view.
    Keeper,
    /// The one that answers requests.
    Server,
}

/// What is logged where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Levels {
    /// The terminal of the caller is this process's, too.
    pub standard_error: bool,
    /// Into the view's log.
    pub file: LevelFilter,
}

/// Where this process logs to.
struct Sink {
    file: Arc<LogFile>,
    role: Role,
    rate: Rate,
    level: LevelFilter,
    detached: bool,
}

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Changes what is logged where.
type Switch = Box<dyn Fn(Levels) + Send + Sync>;

static SWITCH: OnceLock<Switch> = OnceLock::new();

/// Lets `switch` be told what is logged where, whenever that changes. The first one counts.
pub fn controlled_by(switch: impl Fn(Levels) + Send + Sync + 'static) {
    drop(SWITCH.set(Box::new(switch)));
}

/// The level of a view's log for so many `-v`.
#[must_use]
pub fn level(verbose: u8, private: bool) -> LevelFilter {
    match (verbose, private) {
        // The caller waits for the command, and its log goes with it if it is empty.
        (0, true) => LevelFilter::WARN,
        (0 | 1, _) => LevelFilter::INFO,
        (2, _) => LevelFilter::DEBUG,
        (3.., _) => LevelFilter::TRACE,
    }
}

/// Opens the log of a view in the state directory, for this process and those that it forks. With `sweep` those of others go that
/// ended long ago, or are too many.
///
/// # Errors
/// If its file cannot be had.
pub(super) fn open(state: &Path, name: &ViewName, level: LevelFilter, sweep: bool) -> io::Result<()> {
    let file = LogFile::open(state, name, sweep)?;
    *SINK.lock() = Some(Sink {
        file: Arc::new(file),
        role: Role::Keeper,
        rate: Rate::new(Instant::now()),
        level,
        detached: false,
    });
    switch();
    report_panics();
    Ok(())
}

/// This process, a fork of the keeper, is a server.
pub(super) fn begin_server() {
    if let Some(sink) = SINK.lock().as_mut() {
        sink.role = Role::Server;
        sink.rate = Rate::new(Instant::now());
    }
}

/// Leaves the terminal of the caller: output goes to `null`, the last words of the C library and the runtime to the log.
///
/// # Errors
/// As dup2(2).
pub(super) fn detach(null: &OwnedFd) -> io::Result<()> {
    let file = SINK.lock().as_mut().map(|sink| {
        sink.detached = true;
        Arc::clone(&sink.file)
    });
    process::redirect_output(null.as_fd())?;
    match &file {
        Some(file) => process::redirect_errors(file.current().as_fd())?,
        None => process::redirect_errors(null.as_fd())?,
    }
    switch();
    Ok(())
}

/// Reports how the view has ended, of which nothing is left, and ends its log: one that is empty goes.
pub(super) fn end(how: &Result<(), Failure>) {
    match how {
        Ok(()) => tracing::info!("the view has ended"),
        Err(failure) => tracing::error!(target: REPORTED, "the view ended with an error: {failure}"),
    }
    let sink = SINK.lock().take();
    switch();
    if let Some(sink) = sink
        && let Err(error) = sink.file.remove_if_empty()
    {
        tracing::debug!(%error, "an empty log stays");
    }
}

fn switch() {
    let levels = match &*SINK.lock() {
        Some(sink) => Levels { standard_error: !sink.detached, file: sink.level },
        None => Levels { standard_error: true, file: LevelFilter::OFF },
    };
    if let Some(switch) = SWITCH.get() {
        switch(levels);
    }
}

/// Lets panics be reported in the log; standard error is nobody's.
fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let detached = SINK.lock().as_ref().is_some_and(|sink| sink.detached);
        tracing::error!("{panic}");
        if !detached {
            before(panic);
        }
    }));
}

/// Writes a line, if the rate allows it.
fn write(level: Level, module: &str, message: &str) {
    let (file, role, left_out, detached) = {
        let mut sink = SINK.lock();
        let Some(sink) = sink.as_mut() else { return };
        let Some(left_out) = sink.rate.take(level, Instant::now()) else { return };
        (Arc::clone(&sink.file), sink.role, left_out, sink.detached)
    };
    let line = |level, message: &str| Line::now(level, role, module, message).print();
    let mut bytes = Vec::new();
    if left_out > 0 {
        bytes = line(Level::WARN, &format!("{left_out} messages were left out: too many in a short time"));
    }
    bytes.extend(line(level, message));
    let reopened = file.append(&bytes);
    if let (true, true) = (reopened, detached) {
        // Nothing can be reported of it.
        drop(process::redirect_errors(file.current().as_fd()));
    }
}

/// Takes events to the log of the view that this process serves.
#[derive(Clone, Copy, Debug)]
pub struct ViewLogLayer;

impl<S: Subscriber> Layer<S> for ViewLogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let module = event.metadata().target();
        write(
            *event.metadata().level(),
            module.strip_prefix("nixview::").unwrap_or(module),
            text.0.trim_start(),
        );
    }
}

/// The message of an event, then its fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?}")),
            name => self.0.push_str(&format!(" {name}={value:?}")),
        }
    }
}
