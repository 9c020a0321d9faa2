//! The log on standard error, and of a view in its file.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use crate::daemon::log::{REPORTED, ViewLogLayer, controlled_by};
use crate::printable::Printable;

/// The variable that decides what is logged, in the syntax of `tracing_subscriber::filter::Targets`.
const VARIABLE: &str = "NIXVIEW_LOG";

/// The writer of one event: a line of printable text.
struct Line {
    /// Leaves the colours of the log. The log itself escapes ESC in what it is told.
    colours: bool,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
        let text = lines.collect::<Vec<_>>().join(&b"\\n"[..]);
        let mut line = Vec::with_capacity(text.len() + 1);
        if self.colours {
            Printable::with_colours(&mut line).write_all(&text)?;
        } else {
            Printable::new(&mut line).write_all(&text)?;
        }
        line.push(b'\n');
        io::stderr().write_all(&line)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging: warnings, or more with each `-v`, or what `NIXVIEW_LOG` says.
pub(super) fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let asked = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (filter, wrong) = match asked.as_deref().map(str::parse::<Targets>) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (Targets::new().with_default(level), Some(error)),
        None => (Targets::new().with_default(level), None),
    };
    let filter = filter.with_target(REPORTED, LevelFilter::OFF);
    let colours = matches!(
        anstream::AutoStream::choice(&std::io::stderr()),
        anstream::ColorChoice::Always | anstream::ColorChoice::AlwaysAnsi
    );
    let lines = fmt::layer().with_writer(move || Line { colours }).with_ansi(colours);
    let lines = if verbose == 0 { lines.without_time().with_target(false).boxed() } else { lines.boxed() };
    let (terminal, switch_terminal) = reload::Layer::new(filter.clone());
    let (file, switch_file) = reload::Layer::new(LevelFilter::OFF);
    let started = tracing_subscriber::registry()
        .with(lines.with_filter(terminal))
        .with(ViewLogLayer.with_filter(file))
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "the log was started before");
    }
    controlled_by(move |levels| {
        let shown = if levels.standard_error { filter.clone() } else { Targets::new() };
        // Both live as long as the process.
        drop((switch_terminal.reload(shown), switch_file.reload(levels.file)));
    });
    if let Some(error) = wrong {
        tracing::warn!("{VARIABLE} is not understood, logging at '{level}': {error}");
    }
}
