//! A change of a view as a line and as JSON.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::changes::in_view;
use super::error::OUTPUT;
use super::output::{count, size};
use super::{CliError, ErrorContext};
use crate::printable;
use crate::vfs::FileKind;
use crate::view::changes::{Aspects, Change, Extent, Facts, Summary, What};

/// What the letters of the lines mean, for the end of `--help`.
pub const LETTERS: &str = "A added, D deleted (a directory with all that was in it), M modified, P metadata alone (mode, owner, \
     mtime, attributes), T another kind of file";

/// A change as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownChange {
    /// Absolute, as programs in the view see it; what is not UTF-8 is escaped.
    path: String,
    /// The exact bytes, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    change: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<ShownFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<ShownFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<ShownExtent>,
    /// Of a directory that was moved: where the store has it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_from: Option<String>,
}

#[derive(Serialize)]
struct ShownFacts {
    kind: &'static str,
    size: u64,
    /// Octal, as chmod(1) takes it.
    mode: String,
    uid: u32,
    gid: u32,
}

#[derive(Serialize)]
struct ShownExtent {
    names: u64,
    bytes: u64,
}

/// The totals as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownSummary {
    added: u64,
    deleted: u64,
    modified: u64,
    metadata: u64,
    type_changed: u64,
    bytes_before: u64,
    bytes_after: u64,
}

impl From<&Summary> for ShownSummary {
    fn from(sum: &Summary) -> Self {
        Self {
            added: sum.added,
            deleted: sum.deleted,
            modified: sum.modified,
            metadata: sum.metadata,
            type_changed: sum.type_changed,
            bytes_before: sum.bytes_before,
            bytes_after: sum.bytes_after,
        }
    }
}

impl ShownChange {
    /// Of a view whose root belongs at `root`.
    #[must_use]
    pub fn new(change: &Change, root: &str) -> Self {
        let (word, aspects, gone) = match &change.what {
            What::Added => ("added", None, None),
            What::Deleted(extent) => ("deleted", None, Some(extent)),
            What::Modified(aspects) => ("modified", Some(aspects), None),
            What::Metadata(aspects) => ("metadata", Some(aspects), None),
            What::TypeChanged(extent) => ("type", None, Some(extent)),
        };
        let bytes: Vec<u8> = change.path.iter().flat_map(|name| [b"/", name.as_bytes()].concat()).collect();
        let bytes = [root.as_bytes(), &bytes].concat();
        let (path, path_base64) = match String::from_utf8(bytes) {
            Ok(path) => (path, None),
            Err(error) => (in_view(root, &change.path), Some(STANDARD.encode(error.as_bytes()))),
        };
        Self {
            path,
            path_base64,
            change: word,
            metadata: aspects.map(words).unwrap_or_default(),
            before: change.before.as_ref().map(facts),
            after: change.after.as_ref().map(facts),
            moved_from: change.from.as_ref().map(|from| in_view(root, from)),
            gone: gone.map(|Extent { names, bytes }| ShownExtent { names: *names, bytes: *bytes }),
        }
    }
}

fn facts(facts: &Facts) -> ShownFacts {
    ShownFacts {
        kind: kind(facts.kind),
        size: facts.size,
        mode: format!("{:04o}", facts.permissions),
        uid: facts.uid,
        gid: facts.gid,
    }
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
    }
}

fn words(aspects: &Aspects) -> Vec<String> {
    let plain = [(aspects.mode, "mode"), (aspects.owner, "owner"), (aspects.mtime, "mtime")];
    let mut words: Vec<String> =
        plain.iter().filter(|(is, _)| *is).map(|(_, word)| (*word).to_owned()).collect();
    words.extend(aspects.xattrs.iter().map(|name| format!("xattr:{}", name.escape_ascii())));
    words
}

/// A change in a line: `M /nix/store/x/file (mode)`. Directories end with a slash; what is not printable is escaped.
#[must_use]
pub fn line(change: &Change, root: &str) -> String {
    let (letter, note) = match &change.what {
        What::Added => ('A', String::new()),
        What::Deleted(extent) => ('D', held(change.before.as_ref(), *extent)),
        What::Modified(aspects) => ('M', words(aspects).join(", ")),
        What::Metadata(aspects) => ('P', words(aspects).join(", ")),
        What::TypeChanged(_) => ('T', kinds(change)),
    };
    let shown = change.after.as_ref().or(change.before.as_ref());
    let slash = if shown.is_some_and(|facts| facts.kind == FileKind::Directory) { "/" } else { "" };
    let moved = change.from.as_ref().map(|from| format!("moved from {}", in_view(root, from)));
    let note = [Some(note).filter(|note| !note.is_empty()), moved]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ");
    let note = if note.is_empty() { note } else { format!(" ({note})") };
    format!("{letter} {}{slash}{note}", in_view(root, &change.path))
}

fn held(before: Option<&Facts>, extent: Extent) -> String {
    if before.is_none_or(|facts| facts.kind != FileKind::Directory) || extent.names < 2 {
        return String::new();
    }
    format!("{}, {}", count(extent.names - 1, "name in it", "names in it"), size(extent.bytes))
}

fn kinds(change: &Change) -> String {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => format!("{}, was {}", kind(after.kind), kind(before.kind)),
        _ => String::new(),
    }
}

/// The totals in a line.
#[must_use]
pub fn total(sum: &Summary) -> String {
    format!(
        "{} added, {} deleted, {} modified, {} with other metadata, {} of another kind; {} in place of {}",
        sum.added,
        sum.deleted,
        sum.modified,
        sum.metadata,
        sum.type_changed,
        size(sum.bytes_after),
        size(sum.bytes_before)
    )
}

/// What stands before each element of a JSON array but the first, in a report that is indented by two spaces.
pub const SEPARATOR: &str = ",";

/// A change as an element of the array of [`write_report`], after a separator.
///
/// # Errors
/// Those of `out`.
pub fn write_element(out: &mut dyn Write, change: &Change, root: &str) -> io::Result<()> {
    let text = serde_json::to_string_pretty(&ShownChange::new(change, root))?;
    write!(out, "{SEPARATOR}\n    {}", printable::json(&text).replace('\n', "\n    "))
}

/// Writes an object of JSON: the members of `head`, `changes` as `fill` writes them (each as [`write_element`] does, but for the
/// first separator), and `summary`, which `fill` answers. Nothing of it is kept in memory.
///
/// # Errors
/// Those of `fill` and `out`.
pub fn write_report(
    out: &mut dyn Write,
    head: &impl Serialize,
    fill: impl FnOnce(&mut dyn Write) -> Result<Summary, CliError>,
) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(head).context(OUTPUT)?;
    let text = printable::json(&text);
    let members = text.strip_suffix("\n}").unwrap_or(&text);
    write!(out, "{members},\n  \"changes\": [").context(OUTPUT)?;
    let mut elements = Elements { out, begun: false };
    let sum = fill(&mut elements)?;
    let end = if elements.begun { "\n  ]" } else { "]" };
    let summary = serde_json::to_string_pretty(&ShownSummary::from(&sum)).context(OUTPUT)?;
    writeln!(out, "{end},\n  \"summary\": {}\n}}", summary.replace('\n', "\n  ")).context(OUTPUT)
}

/// Leaves out the first separator.
struct Elements<'o> {
    out: &'o mut dyn Write,
    begun: bool,
}

impl Write for Elements<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let Some(rest) = text.strip_prefix(SEPARATOR.as_bytes()).filter(|_| !self.begun) else {
            return self.out.write(text);
        };
        self.begun = true;
        self.out.write_all(rest)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::vfs::Name;

    fn change(names: &[&[u8]], what: What) -> Change {
        let facts = Facts { kind: FileKind::Regular, size: 3, permissions: 0o4755, uid: 1, gid: 2 };
        let path = names.iter().map(|name| Name::new(name).unwrap()).collect();
        Change { path, what, before: Some(facts), after: Some(facts), from: None }
    }

    #[test]
    fn lines_cannot_be_forged_by_names() {
        let aspects = Aspects { mode: true, xattrs: vec![b"user.\n".to_vec()], ..Aspects::default() };
        let odd = change(&[b"store", b"a\nD b\x1b[31m"], What::Metadata(aspects));
        assert_eq!(line(&odd, "/nix"), "P /nix/store/a\\nD b\\u{1b}[31m (mode, xattr:user.\\n)");
        let raw = change(&[b"\xff"], What::Added);
        let json = serde_json::to_value(ShownChange::new(&raw, "/nix")).unwrap();
        assert_eq!(json.get("path").unwrap(), "/nix/\\xff");
        assert_eq!(STANDARD.decode(json.get("pathBase64").unwrap().as_str().unwrap()).unwrap(), b"/nix/\xff");
        let plain = serde_json::to_value(ShownChange::new(&odd, "/nix")).unwrap();
        assert_eq!(plain.get("path").unwrap(), "/nix/store/a\nD b\x1b[31m");
        assert!(plain.get("pathBase64").is_none());
        assert_eq!(plain.get("after").unwrap().get("mode").unwrap(), "4755");
    }
}
