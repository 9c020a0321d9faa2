//! A line of a log.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tracing::Level;

use super::Role;
use crate::json;
use crate::printable::printable;

/// The longest message, in bytes; what is longer is cut.
const LONGEST: usize = 4096;

/// A line of a log, as it is on disk and in JSON.
///
/// No text of it has a character that a terminal obeys, whatever a container had a hand in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// When, in UTC with milliseconds (RFC 3339); absent for what the runtime or the C library wrote by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `keeper` or `server`; absent as `time` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The part of nixview that reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// What happened.
    pub message: String,
}

impl Line {
    /// A line of this moment, of this process.
    pub(super) fn now(level: Level, role: Role, module: &str, message: &str) -> Self {
        let process = match role {
            Role::Keeper => "keeper",
            Role::Server => "server",
        };
        Self {
            time: Some(humantime::format_rfc3339_millis(SystemTime::now()).to_string()),
            level: level.as_str().to_ascii_lowercase(),
            process: Some(process.to_owned()),
            pid: Some(std::process::id()),
            module: Some(module.to_owned()),
            message: printable(cut(message)).into_owned(),
        }
    }

    /// The line, ended by a newline.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// A line without its newline, of whatever is in the file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let parsed = json::from_slice::<Self>(bytes).map(|line| Self {
            time: line.time.as_deref().map(shown),
            level: shown(&line.level),
            process: line.process.as_deref().map(shown),
            module: line.module.as_deref().map(shown),
            message: shown(&line.message),
            pid: line.pid,
        });
        parsed.unwrap_or_else(|_| Self {
            time: None,
            level: "error".to_owned(),
            process: None,
            pid: None,
            module: None,
            message: std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), shown),
        })
    }

    /// The line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let time = self.time.as_deref().unwrap_or("-");
        let process = match (&self.process, self.pid) {
            (Some(process), Some(pid)) => format!("{process}[{pid}]"),
            _ => "-".to_owned(),
        };
        format!("{time} {:<5} {process}: {}", self.level.to_ascii_uppercase(), self.message)
    }
}

fn shown(text: &str) -> String {
    printable(text).into_owned()
}

fn cut(text: &str) -> &str {
    let mut end = LONGEST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = Line::now(Level::WARN, Role::Server, "union::resume", "an inode is lost ino=7");
        let bytes = line.print();
        assert_eq!(Line::parse(bytes.trim_ascii_end()), line);
        assert!(
            line.text().contains(&format!(" WARN  server[{}]: an inode is lost ino=7", std::process::id()))
        );
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_written_or_shown() {
        let nasty = "name=\u{1b}]0;owned\u{7}\n\u{9b}31m \u{202e}txt\u{200b} \u{7f}";
        let line = Line::now(Level::ERROR, Role::Server, "vfs", nasty);
        let obeyed = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{200b}');
        for shown in [String::from_utf8(line.print()).unwrap(), line.text()] {
            assert!(!shown.contains(obeyed), "{shown:?}");
        }
        // What others wrote into the file, too.
        let raw = Line::parse(b"thread has overflowed \x1b[2J its stack");
        assert_eq!((raw.time.as_deref(), raw.level.as_str()), (None, "error"));
        assert!(raw.message.contains("overflowed \\u{1b}[2J its"), "{raw:?}");
        assert_eq!(Line::parse(b"\x1b[2J\xff").message, "\\x1b[2J\\xff");
        let forged = Line::parse(br#"{"level":"\u001b[2J","message":"\u009b0m"}"#);
        assert_eq!((forged.level.as_str(), forged.message.as_str()), ("\\u{1b}[2J", "\\u{9b}0m"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let line = Line::now(Level::WARN, Role::Keeper, "x", &"ä".repeat(LONGEST));
        assert_eq!(line.message.len(), LONGEST);
    }
}
