//! Untrusted text in outputs: nothing in it steers a terminal, forges a line or turns other text around.
//!
//! Names of files, contents of locks and traces, and messages of other programs may have any character. Escaped are the
//! control characters (C0 with tab and newline, DEL, C1), the separators of lines and paragraphs, the bidirectional
//! controls, and the characters that are not shown at all. All other text stays as it is.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// True for a character that is escaped.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text for people, on one line: `\n`, `\t`, `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        escape(c, &mut shown);
    }
    Cow::Owned(shown)
}

fn escape(c: char, shown: &mut String) {
    match c {
        '\n' => shown.push_str("\\n"),
        '\t' => shown.push_str("\\t"),
        '\r' => shown.push_str("\\r"),
        c if is_unsafe(c) => shown.extend(c.escape_unicode()),
        c => shown.push(c),
    }
}

/// A JSON text with the same value: what is unsafe in its strings is `\uXXXX`.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    // JSON itself has no control character in a string. Between values it has line breaks.
    let is_unsafe = |c: char| is_unsafe(c) && !matches!(c, '\n' | '\r' | '\t');
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                write!(shown, "\\u{unit:04x}").unwrap_or_default();
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// What is written through it is escaped, but for line breaks and tabs: those of the program itself.
///
/// The last line of defence: a name has to be [`printable`] before, so that its own line breaks are escaped too. Bytes
/// that are no UTF-8 become `\xff`. A character may come in parts; what is incomplete at the end is not written.
#[derive(Debug)]
pub struct Printable<W> {
    to: W,
    /// The beginning of a character, at most three bytes.
    begun: Vec<u8>,
    /// Lets through the sequences that colour text, for a writer whose text is escaped already.
    colours: bool,
}

impl<W: Write> Printable<W> {
    /// Writes to `to`.
    pub fn new(to: W) -> Self {
        Self { to, begun: Vec::new(), colours: false }
    }

    /// As [`new`](Self::new), but ESC is not escaped where a colour begins with it (`ESC [ 1 ; 31 m`).
    pub fn with_colours(to: W) -> Self {
        Self { colours: true, ..Self::new(to) }
    }
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let plain = |bytes: &[u8]| bytes.iter().all(|b| matches!(b, b'\n' | b'\t' | b' '..=b'~'));
        if self.begun.is_empty() && plain(bytes) {
            return self.to.write(bytes);
        }
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut shown = String::with_capacity(all.len() + 16);
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            let mut rest = chunk.valid();
            while let Some(c) = rest.chars().next() {
                let colour = if self.colours { colour(rest) } else { 0 };
                if colour > 0 {
                    shown.push_str(rest.get(..colour).unwrap_or_default());
                } else if matches!(c, '\n' | '\t') {
                    shown.push(c);
                } else {
                    escape(c, &mut shown);
                }
                rest = rest.get(colour.max(c.len_utf8())..).unwrap_or_default();
            }
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_begun(invalid) {
                self.begun = invalid.to_vec();
            } else {
                write!(shown, "{}", invalid.escape_ascii()).unwrap_or_default();
            }
        }
        self.to.write_all(shown.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// True for the first bytes of a character of more bytes.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// How long the colour is that a text begins with; 0 if it begins with none.
fn colour(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\u{1b}[") else { return 0 };
    let parameters = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
    if rest.as_bytes().get(parameters) == Some(&b'm') { parameters + 3 } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    const HOSTILE: &str = "a\n\u{1b}[31mb\tc\r\u{7}\u{7f}\u{9b}2J\u{202e}gpj\u{2066}\u{2028}\u{61c}\u{feff}\u{200b}\u{e0041}ü日\\";

    #[test]
    fn text_is_one_line_and_steers_nothing() {
        assert_eq!(
            printable(HOSTILE),
            "a\\n\\u{1b}[31mb\\tc\\r\\u{7}\\u{7f}\\u{9b}2J\\u{202e}gpj\\u{2066}\\u{2028}\\u{61c}\\u{feff}\\u{200b}\\u{e0041}ü日\\"
        );
        // Joiners belong to words of many languages.
        for plain in ["", "plain", "grüße 日本語 🙂", "نیم\u{200c}فاصله", "\u{fffd}"] {
            assert!(matches!(printable(plain), Cow::Borrowed(text) if text == plain));
        }
    }

    #[test]
    fn json_has_the_same_value() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 1] });
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = json(&text);
            assert!(!shown.chars().any(|c| is_unsafe(c) && c != '\n'), "{shown}");
            assert!(shown.contains("\\u009b2J\\u202egpj") && shown.contains("\\udb40\\udc41ü"), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    fn filtered(parts: &[&[u8]], colours: bool) -> String {
        let mut filter =
            if colours { Printable::with_colours(Vec::new()) } else { Printable::new(Vec::new()) };
        for part in parts {
            filter.write_all(part).unwrap();
        }
        String::from_utf8(filter.to).unwrap()
    }

    #[test]
    fn what_is_written_in_any_parts_is_filtered() {
        let all = [HOSTILE.as_bytes(), b"\xff\xe2\x82", b"."].concat();
        let whole = filtered(&[&all], false);
        assert_eq!(
            whole,
            format!("{}\\xff\\xe2\\x82.", printable(HOSTILE).replace("\\n", "\n").replace("\\t", "\t"))
        );
        for at in 0..all.len() {
            let (a, b) = all.split_at(at);
            assert_eq!(filtered(&[a, b], false), whole, "{at}");
        }
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(filtered(&bytes, false), whole);
        assert_eq!(filtered(&["ü".as_bytes(), b"\xe2"], false), "ü");
    }

    #[test]
    fn colours_alone_are_let_through() {
        let text = b"\x1b[1;31mred\x1b[0m\x1b[m \x1b[2J \x1b]0;title\x07 \x1b[31";
        assert_eq!(
            filtered(&[text], true),
            "\u{1b}[1;31mred\u{1b}[0m\u{1b}[m \\u{1b}[2J \\u{1b}]0;title\\u{7} \\u{1b}[31"
        );
        assert!(!filtered(&[text], false).contains('\u{1b}'));
    }
}
