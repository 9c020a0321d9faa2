//! The files of a report.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::data::{Data, text_of};
use super::figures::{self, Of, Which};
use crate::cli::output_file::{Destination, Kind};
use crate::cli::{CliError, ErrorContext};

/// As what figures are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Picture {
    /// As text.
    Svg,
    /// As pixels, 300 to the inch.
    Png,
}

/// Draws all figures into a directory, which is made if it is not there; answers the files. With `force` they replace files
/// that are no figures.
///
/// # Errors
/// If one cannot be written.
pub fn pictures(data: &Data, how: Picture, dir: &Path, force: bool) -> Result<Vec<PathBuf>, CliError> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut taken = HashSet::new();
    let mut files = Vec::new();
    for which in figures::all(data) {
        let Some(drawing) = which.draw(data) else { continue };
        let (bytes, extension, kind) = match how {
            Picture::Svg => (drawing.svg().into_bytes(), "svg", Kind::Svg),
            Picture::Png => {
                let png = drawing
                    .png()
                    .map_err(|error| CliError::new(format!("cannot draw {}: {error}", which.id())));
                (png?, "png", Kind::Png)
            }
        };
        let file = dir.join(format!("{}.{extension}", file_name(data, which, &mut taken)));
        Destination::find(&file, kind, force)?.write(&bytes)?;
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
}
