//! The answer on standard output: lines, tables, JSON; and progress on standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::error::{CliError, Context, OUTPUT};
use crate::printable::{self, Printable, printable};
use crate::view::upper_dir::{Limit, Space, Usage};

/// Where a command's answer goes.
///
/// All of it may have names in it that others chose: what steers a terminal is escaped, as [`mod@printable`] says.
/// Colours only on a terminal and without `NO_COLOR`; progress only when standard error is a terminal.
#[derive(Debug, Default)]
pub struct Output {
    progress: bool,
}

impl Output {
    /// For this process.
    #[must_use]
    pub fn new() -> Self {
        Self { progress: io::stderr().is_terminal() }
    }

    /// Writes lines to standard output, buffered. Names in them have to be [`printable()`], so that they are of one line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
        let mut buffer = io::BufWriter::new(Printable::new(io::stdout().lock()));
        fill(&mut buffer).and_then(|()| buffer.flush()).context(OUTPUT)
    }

    /// Writes bytes to standard output as they are: what is no text for people.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn data(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).context(OUTPUT)
    }

    /// Writes a JSON text of an exact form to standard output: with other escapes only on a terminal.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json_text(&self, text: &str) -> Result<(), CliError> {
        let shown = if io::stdout().is_terminal() { printable::json(text) } else { text.into() };
        self.data(shown.as_bytes())
    }

    /// Writes to standard output as [`write`](Self::write), what takes long to find as soon as it is found.
    ///
    /// # Errors
    /// Those of `fill`, after what was written before; or if it cannot be written.
    pub fn stream(&self, fill: impl FnOnce(&mut dyn Write) -> Result<(), CliError>) -> Result<(), CliError> {
        let mut buffer = io::BufWriter::new(Printable::new(io::stdout().lock()));
        let filled = fill(&mut buffer);
        let flushed = buffer.flush().context(OUTPUT);
        filled.and(flushed)
    }

    /// One line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        self.write(|out| writeln!(out, "{}", printable(text)))
    }

    /// A value as JSON, indented by two spaces.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).context("cannot write the answer as JSON")?;
        self.data(format!("{}\n", printable::json(&text)).as_bytes())
    }

    /// Rows in aligned columns under a header; nothing at all if there are no rows.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table<const N: usize>(&self, header: [&str; N], rows: &[[String; N]]) -> Result<(), CliError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write(|out| {
            let mut table = tabwriter::TabWriter::new(out).padding(2);
            writeln!(table, "{}", header.join("\t"))?;
            for row in rows {
                let cells: Vec<_> = row.iter().map(|cell| printable(cell)).collect();
                writeln!(table, "{}", cells.join("\t"))?;
            }
            table.flush()
        })
    }

    /// A line of news on standard error, for what is not part of the answer.
    pub fn note(&self, text: &str) {
        if let Err(error) = writeln!(io::stderr(), "{}", printable(text)) {
            tracing::debug!(%error, "standard error is closed");
        }
    }

    /// Says that something takes its time, until the value is dropped; nothing unless on a terminal.
    #[must_use]
    pub fn progress(&self, what: &str) -> Progress {
        if !self.progress {
            return Progress(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{spinner} {prefix}{msg} ({elapsed})");
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(bar)
    }
}

/// Something that takes its time; its line goes away when this is dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// So much of so much is done. May be called by several threads.
    pub fn count(&self, done: usize, total: usize) {
        // Told often, shown now and then.
        if !self.0.is_hidden() && (done.is_multiple_of(64) || done == total) {
            self.0.set_prefix(format!("{done} of {total} "));
        }
    }
}

impl Progress {
    /// What is being done now, in the place of what was said at the beginning.
    pub fn tell(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A number of bytes for people: `1.5 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// How much of its limit an upper holds: `1.5 GiB of 2.0 GiB`, and inodes where they are limited; `?` if it cannot be
/// told now, `-` without a limit.
#[must_use]
pub fn used(limit: Option<&Limit>, usage: Option<&Usage>) -> String {
    let Some(limit) = limit else { return "-".to_owned() };
    let used = usage.map_or_else(|| "?".to_owned(), |usage| size(usage.used));
    let space = format!("{used} of {}", size(limit.size));
    match limit.inodes {
        Some(inodes) => {
            let used = usage.map_or_else(|| "?".to_owned(), |usage| usage.inodes_used.to_string());
            format!("{space}, {used} of {inodes} inodes")
        }
        None => space,
    }
}

/// What an upper without a limit takes: `1.5 GiB`, or `over 1.5 GiB` where not all was counted.
#[must_use]
pub fn space(space: &Space) -> String {
    let over = if space.whole { "" } else { "over " };
    format!("{over}{}", size(space.bytes))
}

/// Seconds in the largest unit that fits.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// A number with what it counts: `1 path`, `2 paths`.
#[must_use]
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 40), "3.0 TiB");
        let (limit, inodes) = (Limit { size: 2 << 30, inodes: None }, Some(9));
        let usage = Usage { size: limit.size, used: 3 << 29, inodes: 9, inodes_used: 1 };
        assert_eq!(used(None, None), "-");
        assert_eq!(used(Some(&limit), Some(&usage)), "1.5 GiB of 2.0 GiB");
        let limit = Limit { inodes, ..limit };
        assert_eq!(used(Some(&limit), Some(&usage)), "1.5 GiB of 2.0 GiB, 1 of 9 inodes");
        assert_eq!(used(Some(&limit), None), "? of 2.0 GiB, ? of 9 inodes");
        assert_eq!(space(&Space { bytes: 1536, objects: 1, whole: true }), "1.5 KiB");
        assert_eq!(space(&Space { bytes: 1536, objects: 1, whole: false }), "over 1.5 KiB");
        let shown: Vec<String> = [0, 59, 60, 7200, 200_000].into_iter().map(duration).collect();
        assert_eq!(shown, ["0 s", "59 s", "1 min", "2 h", "2 d"]);
        assert_eq!(count(1, "path", "paths"), "1 path");
        assert_eq!(count(0, "path", "paths"), "0 paths");
    }
}
