//! The suites: what each runs, and how its answer is read.

mod fio;
mod fsx;
mod pjdfstest;
mod stress_ng;
mod tools;

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use crate::outcome::{Case, Outcome};
use crate::stage::Stage;

/// One suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// System calls one by one, and their errno (crates.io)
    Pjdfstest,
    /// Random reads, writes, truncations and maps of one file, compared with a copy in memory (crates.io)
    Fsx,
    /// Written blocks are read again and verified, by several engines (Debian)
    Fio,
    /// Stressors of the class 'filesystem', one at a time (Debian)
    StressNg,
    /// Programs that people run: git, SQLite, PostgreSQL, pip, npm, cargo, tar, rsync, cp
    Tools,
}

impl Suite {
    pub(crate) const ALL: [Self; 5] = [Self::Pjdfstest, Self::Fsx, Self::Fio, Self::StressNg, Self::Tools];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pjdfstest => "pjdfstest",
            Self::Fsx => "fsx",
            Self::Fio => "fio",
            Self::StressNg => "stress-ng",
            Self::Tools => "tools",
        }
    }

    /// Runs all cases. The error is of the machine, not of a case.
    pub(crate) fn run(self, stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
        match self {
            Self::Pjdfstest => pjdfstest::run(stage),
            Self::Fsx => fsx::run(stage),
            Self::Fio => fio::run(stage),
            Self::StressNg => stress_ng::run(stage),
            Self::Tools => tools::run(stage),
        }
    }
}

/// The exit code of a script that cannot run here; its last line says why. As Automake's tests have it.
const CANNOT: i32 = 77;

/// One case that is one program, which fails if the program does; then it is put back to what it was before: nothing is left
/// in the place. Nothing if it is not wanted.
fn program(
    stage: &mut Stage<'_>,
    name: &str,
    command: &mut Command,
    limit: Duration,
) -> io::Result<Option<Case>> {
    if !stage.options.wants(name) {
        return Ok(None);
    }
    let ran = stage.run(command, limit)?;
    let outcome = match ran.code() {
        Some(0) => Outcome::Passed,
        Some(CANNOT) => Outcome::Skipped(ran.said.lines().last().unwrap_or_default().to_owned()),
        _ => Outcome::Failed(ran.reason()),
    };
    clear(stage)?;
    Ok(Some(Case::new(name, outcome)))
}

/// Removes all that a case left in the place.
fn clear(stage: &mut Stage<'_>) -> io::Result<()> {
    let script = "find \"$PLACE\" -mindepth 1 -delete";
    let ran = stage.run(Command::new("sh").args(["-c", script]), Duration::from_secs(120))?;
    if ran.is_ok() { Ok(()) } else { stage.begin_again(&ran) }
}

/// A directory or a file of the run as an argument.
fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("{}: the path is no text", path.display())))
}
