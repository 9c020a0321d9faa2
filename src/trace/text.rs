//! The text of a trace: reading and printing it.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{End, Head, Kind, Trace, Use, VERSION};
use crate::json;
use crate::sys::open::open_input;

/// The longest line, in bytes: a path of 4096 bytes, each written as a number.
const LONGEST: u64 = 64 << 10;

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("cannot read {}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no trace, or a damaged one.
    #[error("{} is no usable trace: line {line}: {problem}", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// A path: as text, or where that is no UTF-8, its bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes(Vec<u8>),
}

/// A line for a use.
#[derive(Serialize)]
struct UseLine<'a> {
    #[serde(rename = "use")]
    kind: Kind,
    path: Text<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    upper: bool,
}

/// Any line but the first. One struct, so that what is wrong is said by its field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "use")]
    kind: Option<Kind>,
    #[serde(borrow)]
    path: Option<Text<'a>>,
    #[serde(default)]
    upper: bool,
    until: Option<u64>,
    complete: Option<bool>,
}

/// What is looked at before the version is known.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    nixview_trace: Option<u32>,
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text)
}

/// The first line.
///
/// # Errors
/// `InvalidData` for a path that is not UTF-8, which JSON cannot hold.
pub fn head_line(head: &Head) -> io::Result<Vec<u8>> {
    line(head)
}

/// The line of a use.
///
/// # Errors
/// None that is known.
pub fn use_line(kind: Kind, path: &[u8], upper: bool) -> io::Result<Vec<u8>> {
    let path = match std::str::from_utf8(path) {
        Ok(text) => Text::Text(text.into()),
        Err(_) => Text::Bytes(path.to_vec()),
    };
    line(&UseLine { kind, path, upper })
}

/// The last line.
///
/// # Errors
/// None that is known.
pub fn end_line(end: End) -> io::Result<Vec<u8>> {
    line(&serde_json::json!({ "until": end.until, "complete": end.complete }))
}

/// Reads a trace. A last line that is not whole is left out, as a kill leaves one; everything else that is no line of a trace is an
/// error.
///
/// # Errors
/// [`TraceError`].
pub fn read(path: &Path) -> Result<Trace, TraceError> {
    let failed = |error| TraceError::File { path: path.to_owned(), error };
    let mut reader = BufReader::new(open_input(path).map_err(failed)?);
    let mut bytes = Vec::new();
    let mut trace: Option<Trace> = None;
    for number in 1.. {
        let malformed =
            |problem: String| TraceError::Malformed { path: path.to_owned(), line: number, problem };
        bytes.clear();
        let length = io::Read::take(&mut reader, LONGEST).read_until(b'\n', &mut bytes).map_err(failed)?;
        let Some(text) = bytes.strip_suffix(b"\n") else {
            if length as u64 == LONGEST {
                return Err(malformed(format!("it is longer than {LONGEST} bytes")));
            }
            break;
        };
        match &mut trace {
            None => trace = Some(Trace::new(head(text).map_err(malformed)?)),
            Some(trace) => add(trace, text).map_err(malformed)?,
        }
    }
    trace.ok_or_else(|| TraceError::Malformed {
        path: path.to_owned(),
        line: 1,
        problem: "it has no whole line; 'nixview trace' and '--trace' make traces".to_owned(),
    })
}

/// True for the beginning of a trace, of any version.
#[must_use]
pub fn is_one(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    json::from_slice::<Version>(line).is_ok_and(|version| version.nixview_trace.is_some())
}

fn head(text: &[u8]) -> Result<Head, String> {
    let version: Version = json::from_slice(text).map_err(|e| e.to_string())?;
    match version.nixview_trace {
        Some(VERSION) => json::from_slice(text).map_err(|e| e.to_string()),
        Some(other) => Err(format!("its version is {other}, and this nixview knows version {VERSION} only")),
        None => Err("it has no \"nixviewTrace\"; 'nixview trace' and '--trace' make traces".to_owned()),
    }
}

fn add(trace: &mut Trace, text: &[u8]) -> Result<(), String> {
    if trace.end.is_some() {
        return Err("it follows the line that ends the trace".to_owned());
    }
    let line: Line<'_> = json::from_slice(text).map_err(|e| e.to_string())?;
    match line {
        Line { kind: Some(kind), path: Some(path), upper, until: None, complete: None } => {
            let path = match path {
                Text::Text(text) => text.into_owned().into_bytes(),
                Text::Bytes(bytes) => bytes,
            };
            check(&path)?;
            trace.add(Use { kind, path, upper });
            Ok(())
        }
        Line { kind: None, path: None, upper: false, until: Some(until), complete: Some(complete) } => {
            trace.end = Some(End { until, complete });
            Ok(())
        }
        _ => Err("it has neither \"use\" and \"path\" nor \"until\" and \"complete\" alone".to_owned()),
    }
}

impl Trace {
    /// Adds lines of uses, each whole.
    ///
    /// # Errors
    /// What is wrong with the first that is none.
    pub fn add_lines(&mut self, lines: &[u8]) -> Result<(), String> {
        let end = self.end.take();
        let answer = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .try_for_each(|line| add(self, line));
        self.end = end;
        answer
    }
}

/// Refuses what is no path in a view.
fn check(path: &[u8]) -> Result<(), String> {
    let bad = |name: &[u8]| name.is_empty() || name == b"." || name == b".." || name.contains(&0);
    if !path.is_empty() && path.split(|byte| *byte == b'/').any(bad) {
        return Err(format!("'{}' is no path in a view", path.escape_ascii()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::super::TracedClosure;
    use super::*;

    fn head() -> Head {
        Head {
            nixview_trace: VERSION,
            view: "web".to_owned(),
            environment: "env".to_owned(),
            lock_file: "/srv/env.lock".into(),
            closure: TracedClosure { digest: "sha256-x".to_owned(), count: 3 },
            store: "/nix/store".into(),
            store_dir: "/nix/store".to_owned(),
            io: "passthrough".to_owned(),
            exact: true,
            from_start: true,
            since: 1_700_000_000,
        }
    }

    fn whole() -> (Vec<u8>, Trace) {
        let mut trace = Trace::new(head());
        let mut text = head_line(&head()).unwrap();
        let uses: [(Kind, &[u8], bool); 5] = [
            (Kind::LookedUp, b"store/a/bin/sh", false),
            (Kind::Opened, b"store/a/bin/sh", false),
            (Kind::LinkRead, b"store/a/\xff\"\n", false),
            (Kind::Opened, b"store/new", true),
            (Kind::Listed, b"", false),
        ];
        for (kind, path, upper) in uses {
            text.extend(use_line(kind, path, upper).unwrap());
            trace.add(Use { kind, path: path.to_vec(), upper });
        }
        let end = End { until: 1_700_000_009, complete: true };
        text.extend(end_line(end).unwrap());
        trace.end = Some(end);
        (text, trace)
    }

    fn read_text(text: &[u8]) -> Result<Trace, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_was_written_is_read_and_a_torn_last_line_is_left_out() {
        let (text, trace) = whole();
        assert_eq!(read_text(&text).unwrap(), trace);
        let first = text.iter().position(|byte| *byte == b'\n').unwrap();
        for cut in 0..text.len() {
            let answer = read_text(text.get(..cut).unwrap());
            if cut <= first {
                assert!(answer.unwrap_err().contains("line 1: it has no whole line"), "cut at {cut}");
            } else {
                let read = answer.unwrap();
                assert!(read.end.is_none() && read.lower.len() <= trace.lower.len(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn rubbish_is_refused_with_its_line() {
        let (text, _) = whole();
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let with = |line: &str| {
            let mut all = lines.clone();
            all.insert(2, line.as_bytes());
            read_text(&all.concat()).unwrap_err()
        };
        for (line, said) in [
            ("\n", "line 3: EOF"),
            ("rubbish\n", "line 3: expected value"),
            ("{\"use\":\"eaten\",\"path\":\"store\"}\n", "unknown variant `eaten`"),
            ("{\"use\":\"opened\",\"path\":\"store\",\"x\":1}\n", "unknown field `x`"),
            ("[\"opened\",\"store\"]\n", "invalid type: sequence"),
            ("{\"use\":\"opened\"}\n", "it has neither"),
            ("{\"use\":\"opened\",\"path\":\"a\",\"until\":1}\n", "it has neither"),
            ("{\"use\":\"opened\",\"path\":\"/store/a\"}\n", "'/store/a' is no path in a view"),
            ("{\"use\":\"opened\",\"path\":\"a/../b\"}\n", "is no path in a view"),
            ("{\"use\":\"opened\",\"path\":\"a\\u0000b\"}\n", "is no path in a view"),
            ("{\"until\":1,\"complete\":true}\n", "line 4: it follows the line that ends"),
        ] {
            let answer = with(line);
            assert!(answer.contains(said), "{line}: {answer}");
        }
        let newer =
            String::from_utf8(text.clone()).unwrap().replace("\"nixviewTrace\":1", "\"nixviewTrace\":2");
        assert!(read_text(newer.as_bytes()).unwrap_err().contains("its version is 2"));
        assert!(read_text(b"{\"roots\":[]}\n").unwrap_err().contains("no \"nixviewTrace\""));
        assert!(read_text(&vec![b'x'; 1 << 20]).unwrap_err().contains("line 1: it is longer"));
    }
}
