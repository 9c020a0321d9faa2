//! Programs that people run, in scripts of their own. Each fails at the first command that fails.

use std::env;
use std::io;
use std::process::Command;
use std::time::Duration;

use super::program;
use crate::outcome::Case;
use crate::stage::Stage;

/// What all scripts have: the trees that they make and compare.
const COMMON: &str = include_str!("../../tools/common.sh");

/// Names of those that are too much for the bounded part: they download, and need programs that are not installed for it.
const LARGE: [&str; 4] = ["postgresql", "pip", "npm", "cargo"];

/// Name and script.
const SCRIPTS: [(&str, &str); 13] = [
    ("git", include_str!("../../tools/git.sh")),
    ("sqlite", include_str!("../../tools/sqlite.sh")),
    ("tar", include_str!("../../tools/tar.sh")),
    ("rsync", include_str!("../../tools/rsync.sh")),
    ("copy", include_str!("../../tools/copy.sh")),
    ("lower", include_str!("../../tools/lower.sh")),
    ("directory", include_str!("../../tools/directory.sh")),
    ("names", include_str!("../../tools/names.sh")),
    ("stress", include_str!("../../tools/stress.sh")),
    ("postgresql", include_str!("../../tools/postgresql.sh")),
    ("pip", include_str!("../../tools/pip.sh")),
    ("npm", include_str!("../../tools/npm.sh")),
    ("cargo", include_str!("../../tools/cargo.sh")),
];

pub(super) fn run(stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (name, script) in SCRIPTS {
        if stage.options.bounded && LARGE.contains(&name) {
            continue;
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("{COMMON}\n{script}")]);
        command.env("TREE", env::current_exe()?).env("TOP", stage.top()).env("SCRATCH", stage.scratch());
        let (names, seconds) = if stage.options.bounded { ("2000", "1") } else { ("20000", "15") };
        command.env("NAMES", names).env("DURATION", seconds);
        // No configuration of who runs this, but for where packages come from.
        command.env("HOME", stage.scratch()).env("GIT_CONFIG_NOSYSTEM", "1");
        if let Some(home) = env::home_dir() {
            let kept =
                [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo"), ("NPM_CONFIG_USERCONFIG", ".npmrc")];
            for (variable, below) in kept {
                command.env(variable, env::var_os(variable).unwrap_or_else(|| home.join(below).into()));
            }
        }
        cases.extend(program(stage, name, &mut command, Duration::from_secs(300))?);
    }
    Ok(cases)
}
