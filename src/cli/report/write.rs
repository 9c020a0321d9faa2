//! The files of a report.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::data::{Data, text_of};
use super::figures::{self, Of, Which};
use crate::cli::{CliError, ErrorContext};
use crate::trace::Draft;

/// As what figures are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Picture {
    /// As text.
    Svg,
    /// As pixels, 300 to the inch.
    Png,
}

/// Writes a file whole or not at all: what was there stays until all of it is there. A device or a pipe is not replaced.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = || format!("cannot write {}", path.display());
    let mut draft = Draft::new(path).with_context(failed)?;
    draft.write_all(bytes).with_context(failed)?;
    draft.finish().with_context(failed)
}

/// Draws all figures into a directory, which is made if it is not there; answers the files.
///
/// # Errors
/// If one cannot be written.
pub fn pictures(data: &Data, how: Picture, dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut taken = HashSet::new();
    let mut files = Vec::new();
    for which in figures::all(data) {
        let Some(drawing) = which.draw(data) else { continue };
        let (bytes, extension) = match how {
            Picture::Svg => (drawing.svg().into_bytes(), "svg"),
            Picture::Png => {
                let png = drawing
                    .png()
                    .map_err(|error| CliError::new(format!("cannot draw {}: {error}", which.id())));
                (png?, "png")
            }
        };
        let file = dir.join(format!("{}.{extension}", file_name(data, which, &mut taken)));
        write_file(&file, &bytes)?;
        files.push(file);
    }
    Ok(files)
}

/// What the file of a figure is called: letters, digits, dots and dashes, and no name twice.
fn file_name(data: &Data, which: Which, taken: &mut HashSet<String>) -> String {
    let name = match which {
        Which::Treemap(Of::One(at)) => {
            let name = data.get(&format!("/du/environments/{at}")).map_or("", |env| text_of(env, "name"));
            let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
            format!("treemap-{}", name.chars().map(plain).take(80).collect::<String>())
        }
        other => other.id(),
    };
    if taken.insert(name.clone()) {
        return name;
    }
    // One that no name can have in its place: the names have no '+'.
    let name = format!("{name}+{}", which.id());
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use serde_json::json;

    use super::*;

    #[test]
    fn files_have_plain_names_and_none_twice() {
        let data = Data::new(
            json!({ "du": { "environments": [{ "name": "../x y" }, { "name": ".. x/y" }, { "name": "ä\n" }] } }),
        );
        let mut taken = HashSet::new();
        let mut name = |at| file_name(&data, Which::Treemap(Of::One(at)), &mut taken);
        assert_eq!([name(0), name(1), name(2)], ["treemap-..-x-y", "treemap-..-x-y+treemap-2", "treemap---"]);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.html");
        write_file(&file, b"one").unwrap();
        write_file(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_file(&dir.path().join("no/a.html"), b"").is_err());
        let device = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        assert!(write_file(&device, b"three").is_err());
        assert!(device.is_symlink(), "what is no regular file is not replaced");
    }
}
