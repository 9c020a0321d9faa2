//! pjdfstest: all its cases in one run.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

use super::text;
use crate::outcome::{Case, Outcome};
use crate::run::Ran;
use crate::stage::Stage;

/// What Linux has of the features that are not on by themselves. The cases that remount are off: on a plain directory they would
/// make the machine's disk read-only.
const CONFIGURATION: &str = "[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
stat_st_birthtime = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]
";

pub(super) fn run(stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
    let configuration = stage.scratch().join("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION)?;
    let mut command = Command::new(stage.options.programs.join("pjdfstest"));
    command.args(["-s", "/dev/shm", "-c", text(&configuration)?, "-p", text(&stage.place())?]);
    command.args(&stage.options.case).env("RUST_BACKTRACE", "0");
    let ran = stage.run(&mut command, Duration::from_secs(600))?;
    Ok(cases(&ran))
}

/// A line `NAME ok`, `NAME FAILED` or `NAME skipped` for each case; the next has the reason.
fn cases(ran: &Ran) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut lines = ran.said.lines().peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else { continue };
        if !name.contains("::") {
            continue;
        }
        let mut reason = || lines.peek().map_or(String::new(), |next| next.trim().to_owned());
        let outcome = match word {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed(reason()),
            "skipped" => Outcome::Skipped(reason()),
            _ => continue,
        };
        cases.push(Case::new(name, outcome));
    }
    if !tells_all(ran, &cases) {
        cases.push(Case::new("all", Outcome::Failed(ran.reason())));
    }
    cases
}

/// Whether the last line counts as many cases as were told.
fn tells_all(ran: &Ran, cases: &[Case]) -> bool {
    let summary = ran.said.lines().rev().find_map(|line| line.strip_prefix("Summary: "));
    let total = summary.and_then(|s| s.rsplit(", ").next()).and_then(|last| last.strip_suffix(" total"));
    ran.status.is_some() && total.and_then(|n| n.parse().ok()) == Some(cases.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    const SAID: &str = "
utimensat::order                                   ok
chmod::change_perm::char                           FAILED
\tcalled `Result::unwrap()` on an `Err` value: EPERM
Backtrace:
   0: pjdfstest::main
symlink::erofs                                     skipped
\tRemounts are not allowed

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";

    fn ran(said: &str) -> Ran {
        Ran { status: Some(ExitStatus::from_raw(256)), said: said.to_owned() }
    }

    #[test]
    fn cases_and_reasons_are_read() {
        let expected = [
            Case::new("utimensat::order", Outcome::Passed),
            Case::new(
                "chmod::change_perm::char",
                Outcome::Failed("called `Result::unwrap()` on an `Err` value: EPERM".to_owned()),
            ),
            Case::new("symlink::erofs", Outcome::Skipped("Remounts are not allowed".to_owned())),
        ];
        assert_eq!(cases(&ran(SAID)), expected);
    }

    #[test]
    fn a_run_that_does_not_tell_all_its_cases_has_failed() {
        for said in [SAID.replace("3 total", "4 total"), SAID.replace("Summary", "Sum"), String::new()] {
            let last = cases(&ran(&said)).pop();
            assert!(matches!(last, Some(Case { outcome: Outcome::Failed(_), .. })), "{last:?}");
        }
        let hung = Ran { status: None, said: SAID.to_owned() };
        assert_eq!(cases(&hung).len(), 4);
    }
}
