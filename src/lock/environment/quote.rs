//! Bytes as one word of bash.

/// Appends `word` in single quotes: nothing in it is expanded, whatever it is. Without NUL, which no word has.
pub(super) fn quote(word: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            0 => {}
            other => out.push(*other),
        }
    }
    out.push(b'\'');
}

/// `word` in single quotes.
#[must_use]
pub fn quoted(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len() + 2);
    quote(word, &mut out);
    out
}
