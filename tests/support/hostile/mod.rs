//! A name that would steer a terminal, and the check that none of it gets there.
#![allow(dead_code, reason = "each test uses a part of it")]

use serde_json::Value;

/// A line break with a forged line, colours, C1 controls, DEL, a bidirectional override, and a title of the terminal.
pub(crate) const HOSTILE: &str =
    "a\nFORGED\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\u{2066}\u{2028}\u{1b}]0;t\u{7}\u{9d}z";

/// Fails if an output has a character of [`HOSTILE`] as it is, or its forged line.
#[track_caller]
pub(crate) fn assert_printable(words: &[&str], output: &[u8]) {
    let text = std::str::from_utf8(output).unwrap_or_else(|_| panic!("{words:?}: {}", output.escape_ascii()));
    // Told here once more, and only as ranges of the standard: Cc but for line breaks and tabs, and Bidi_Control.
    let bad = |c: char| match u32::from(c) {
        9 | 10 => false,
        0..=31 | 127..=159 | 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069 => true,
        _ => false,
    };
    assert!(!text.chars().any(bad), "{words:?}: {}", text.escape_debug());
    assert!(!text.lines().any(|line| line.starts_with("FORGED")), "{words:?}: {text}");
}

/// True if a text in a value has `wanted` in it, or a name of a field.
pub(crate) fn has_text(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text.contains(wanted),
        Value::Array(all) => all.iter().any(|value| has_text(value, wanted)),
        Value::Object(all) => {
            all.iter().any(|(name, value)| name.contains(wanted) || has_text(value, wanted))
        }
        _ => false,
    }
}
