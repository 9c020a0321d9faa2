//! fio: what is written by one engine is read again, and each block compared with its checksum.

use std::io;
use std::process::Command;
use std::time::Duration;

use super::{program, text};
use crate::outcome::Case;
use crate::stage::Stage;

/// Engine, patterns, and whether with and without O_DIRECT: 22 combinations.
const ENGINES: [(&str, &[&str], &[bool]); 4] = [
    ("psync", &["write", "randwrite", "randrw"], &[false, true]),
    ("libaio", &["write", "randwrite", "randrw"], &[false, true]),
    ("io_uring", &["write", "randwrite", "randrw"], &[false, true]),
    ("mmap", &["write", "randwrite", "rw", "randrw"], &[false]),
];

pub(super) fn run(stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
    let size = if stage.options.bounded { "2m" } else { "64m" };
    let mut cases = Vec::new();
    for (engine, patterns, direct) in ENGINES {
        for (pattern, direct) in patterns.iter().flat_map(|p| direct.iter().map(move |d| (p, *d))) {
            let name = format!("{engine}-{pattern}{}", if direct { "-direct" } else { "" });
            let mut command = Command::new("fio");
            command.args([
                "--name=f",
                "--verify=crc32c",
                "--do_verify=1",
                "--verify_fatal=1",
                "--randseed=7",
            ]);
            command.args([
                "--bs=4k",
                "--iodepth=16",
                "--fallocate=none",
                "--end_fsync=1",
                "--output-format=terse",
            ]);
            command.args([
                format!("--ioengine={engine}"),
                format!("--rw={pattern}"),
                format!("--size={size}"),
            ]);
            command.arg(format!("--direct={}", u8::from(direct)));
            command.arg(format!("--directory={}", text(&stage.place())?));
            command.arg(format!("--aux-path={}", text(&stage.scratch())?));
            cases.extend(program(stage, &name, &mut command, Duration::from_secs(600))?);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_combinations_as_are_told() {
        assert_eq!(
            ENGINES.iter().map(|(_, patterns, direct)| patterns.len() * direct.len()).sum::<usize>(),
            22
        );
    }
}
