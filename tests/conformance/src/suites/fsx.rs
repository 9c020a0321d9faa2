//! fsx: one file under random operations, in nine modes.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use super::{program, text};
use crate::outcome::Case;
use crate::stage::Stage;

/// Each mode with its configuration; the first is fsx's own.
const MODES: [(&str, &str); 9] = [
    ("default", ""),
    ("close-open", "[weights]\nclose_open = 1.0\n"),
    ("invalidate", "[weights]\ninvalidate = 1.0\nmapread = 1.0\n"),
    ("sync", "[weights]\nfsync = 0.1\nfdatasync = 0.1\n"),
    ("holes", "[weights]\npunch_hole = 1.0\nposix_fallocate = 1.0\n"),
    ("sendfile", "[weights]\nsendfile = 1.0\nposix_fadvise = 1.0\n"),
    ("copy-file-range", "[weights]\ncopy_file_range = 1.0\n"),
    (
        "everything",
        "[weights]\nclose_open = 1.0\ninvalidate = 1.0\npunch_hole = 1.0\nposix_fallocate = 1.0\nsendfile = 1.0\n\
         posix_fadvise = 1.0\ncopy_file_range = 1.0\nfsync = 0.1\nfdatasync = 0.1\n",
    ),
    ("map-without-msync", "nomsyncafterwrite = true\n[weights]\nclose_open = 0.1\nmapwrite = 2.0\n"),
];

/// The same operations in every run.
const SEED: &str = "7";

pub(super) fn run(stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
    let operations = stage.options.operations();
    let mut cases = Vec::new();
    for (mode, configuration) in MODES {
        let file = stage.scratch().join(format!("fsx.{mode}"));
        fs::write(&file, configuration)?;
        let mut command = Command::new(stage.options.programs.join("fsx"));
        command.args(["-q", "-q", "-S", SEED, "-N", &operations.to_string(), "-f", text(&file)?]);
        command.args(["-P", text(&stage.scratch())?, text(&stage.place().join("fsx"))?]);
        let limit = Duration::from_secs(120 + operations / 250);
        cases.extend(program(stage, mode, &mut command, limit)?);
    }
    Ok(cases)
}
