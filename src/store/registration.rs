//! The text that `nix-store --load-db` and `--register-validity` read, and `closureInfo` writes.
//!
//! For each path, a line each: the path; with hashes also its hash and the size of its NAR; its deriver or nothing; the
//! number of its references; the references (`decodeValidPathInfo` in `src/libstore/path-info.cc`). The second form is
//! also what `exportReferencesGraph` writes. A line of nothing ends the text.

use super::path::{StoreDir, StorePath};
use super::recorded::{Record, Recorded};

/// Where and why a text is no registration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RegistrationError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its newline; `None` at the end of the text.
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.iter().position(|b| *b == b'\n');
        let (line, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line)
    }

    fn expect(&mut self, what: &str) -> Result<&'a [u8], RegistrationError> {
        self.next().ok_or_else(|| RegistrationError {
            line: self.number + 1,
            problem: format!("the text ends where {what} is expected"),
        })
    }

    fn fail<T>(&self, problem: impl Into<String>) -> Result<T, RegistrationError> {
        Err(RegistrationError { line: self.number, problem: problem.into() })
    }

    fn path(&self, dir: &StoreDir, line: &[u8]) -> Result<StorePath, RegistrationError> {
        dir.parse(line).or_else(|error| self.fail(error.to_string()))
    }

    fn count(&mut self, what: &str) -> Result<u64, RegistrationError> {
        let line = self.expect(what)?;
        match std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()) {
            Some(number) if line.first().is_some_and(u8::is_ascii_digit) => Ok(number),
            _ => {
                let shown: String = line.escape_ascii().take(100).map(char::from).collect();
                self.fail(format!("'{shown}' stands where {what} is expected"))
            }
        }
    }
}

/// True for a hash as Nix writes it: `sha256:…`, or a bare one in base 16.
fn is_hash(line: &[u8]) -> bool {
    let digits = line.split(|b| *b == b':').next_back().unwrap_or_default();
    digits.len() >= 32 && digits.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b))
}

/// Reads a registration; `origin` names the file for people.
///
/// Memory stays within a small multiple of the input whatever counts it claims.
///
/// # Errors
/// With the line, if it is truncated or malformed, or names a path twice with different references.
pub fn parse(dir: &StoreDir, text: &[u8], origin: &str) -> Result<Recorded, RegistrationError> {
    let mut lines = Lines { rest: text, number: 0 };
    let mut all = Recorded::new(origin);
    while let Some(line) = lines.next() {
        if line.is_empty() {
            if lines.rest.iter().any(|b| *b != b'\n') {
                return lines.fail("an empty line stands where a store path is expected");
            }
            break;
        }
        let path = lines.path(dir, line)?;
        let mut deriver = lines.expect("a hash or a deriver")?;
        let mut nar_size = None;
        if is_hash(deriver) {
            nar_size = Some(lines.count("the size of a NAR")?).filter(|size| *size > 0);
            deriver = lines.expect("a deriver or an empty line")?;
        }
        let deriver = if deriver.is_empty() { None } else { Some(lines.path(dir, deriver)?) };
        let count = lines.count("the number of references")?;
        let mut references = Vec::new();
        for _ in 0..count {
            let line = lines.expect("a reference")?;
            references.push(lines.path(dir, line)?);
        }
        let shown = path.clone();
        if !all.insert(path, Record { references, nar_size, deriver }) {
            return lines.fail(format!("{shown} is registered twice, differently"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]
    use super::*;
    use crate::store::References;

    const A: &str = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a";
    const B: &str = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-b";

    fn read(text: &str) -> Result<Recorded, RegistrationError> {
        parse(&StoreDir::default(), text.as_bytes(), "a test")
    }

    fn full() -> String {
        let hash = "0".repeat(64);
        format!("{A}\nsha256:{hash}\n120\n{B}.drv\n2\n{A}\n{B}\n{B}\nsha256:{hash}\n7\n\n0\n")
    }

    #[test]
    fn both_forms_are_read() {
        let dir = StoreDir::default();
        let (a, b) = (dir.parse(A.as_bytes()).unwrap(), dir.parse(B.as_bytes()).unwrap());
        let with_hashes = read(&full()).unwrap();
        assert_eq!(with_hashes.references(&a).unwrap(), [a.clone(), b.clone()]);
        assert_eq!(with_hashes.get(&a).unwrap().nar_size, Some(120));
        assert!(with_hashes.get(&a).unwrap().deriver.as_ref().unwrap().is_derivation());
        assert_eq!(with_hashes.roots(), std::slice::from_ref(&a));
        let without = read(&format!("{A}\n\n1\n{B}\n{B}\n\n0\n\n")).unwrap();
        assert_eq!(without.references(&a).unwrap(), [b]);
        assert_eq!(read("").unwrap().count(), 0);
    }

    #[test]
    fn a_text_cut_anywhere_is_an_error_or_whole_records() {
        let text = full();
        let first = text.find("\n/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-b\nsha256").unwrap();
        for length in 1..text.len() {
            let read = read(&text[..length]);
            let whole = length == first || length == first + 1 || length == text.len() - 1;
            assert_eq!(read.is_ok(), whole, "cut to {length} bytes: {read:?}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let of = |text: &str| read(text).unwrap_err();
        assert_eq!(of("x\n").line, 1);
        assert_eq!(of(&format!("{A}\n\n99999999999999999\n")).line, 4);
        assert_eq!(of(&format!("{A}\n\n-1\n")).line, 3);
        assert_eq!(of(&format!("{A}\n\n1\n/tmp/x\n")).line, 4);
        assert_eq!(of(&format!("{A}\n\n0\n{A}\n\n1\n{B}\n")).line, 7);
        assert!(of(&format!("{A}\n\n0\n\n{B}\n")).problem.contains("empty line"));
    }
}
