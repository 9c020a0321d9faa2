//! stress-ng: the stressors of its class `filesystem`, one at a time, each checking what it gets.

use std::io;
use std::process::Command;
use std::time::Duration;

use super::{clear, text};
use crate::outcome::{Case, Outcome};
use crate::run::Ran;
use crate::stage::Stage;

/// stress-ng's exit codes for what it cannot do here: too little of something, or not on this kernel.
const CANNOT: [i32; 2] = [3, 4];

pub(super) fn run(stage: &mut Stage<'_>) -> io::Result<Vec<Case>> {
    let (operations, seconds) = if stage.options.bounded { ("20", "1") } else { ("2000", "5") };
    let mut cases = Vec::new();
    for stressor in stressors(stage)? {
        if !stage.options.wants(&stressor) {
            continue;
        }
        let mut command = Command::new("stress-ng");
        command.args([
            format!("--{stressor}"),
            "1".to_owned(),
            format!("--{stressor}-ops"),
            operations.to_owned(),
        ]);
        command.args(["-t", seconds, "--verify", "--seed", "7", "--temp-path", text(&stage.place())?]);
        let ran = stage.run(&mut command, Duration::from_secs(60))?;
        cases.push(Case::new(stressor, outcome(&ran)));
        clear(stage)?;
    }
    Ok(cases)
}

/// The stressors of this version. It tells the list of a class when its name ends in a question mark.
fn stressors(stage: &mut Stage<'_>) -> io::Result<Vec<String>> {
    let ran =
        stage.run(Command::new("stress-ng").args(["--class", "filesystem?"]), Duration::from_secs(60))?;
    let list = ran.said.lines().find_map(|line| line.split_once("stressors: "));
    let list =
        list.ok_or_else(|| io::Error::other(format!("stress-ng tells no stressors: {}", ran.reason())))?;
    Ok(list.1.split_whitespace().map(str::to_owned).collect())
}

fn outcome(ran: &Ran) -> Outcome {
    match ran.code() {
        Some(0) if ran.said.contains("skipped: 0") || !ran.said.contains("skipp") => Outcome::Passed,
        Some(0) => Outcome::Skipped(why(ran, "skip")),
        Some(code) if CANNOT.contains(&code) => Outcome::Skipped(why(ran, ":")),
        _ => Outcome::Failed(why(ran, "fail")),
    }
}

/// The first line that has a word, without what stress-ng puts before it; else how it ended.
fn why(ran: &Ran, word: &str) -> String {
    let line = ran.said.lines().find(|line| line.contains(word) && !line.contains("dispatching"));
    let text = line.and_then(|line| line.split_once("] ")).map(|(_, text)| text.trim().to_owned());
    text.unwrap_or_else(|| ran.reason())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn ran(code: i32, said: &str) -> Ran {
        Ran { status: Some(ExitStatus::from_raw(code << 8)), said: said.to_owned() }
    }

    #[test]
    fn exit_codes_and_words_are_read() {
        let fails = "stress-ng: info:  [1] dispatching hogs: 1 link\nstress-ng: fail:  [2] link: link failed, errno=18\n";
        assert_eq!(outcome(&ran(2, fails)), Outcome::Failed("link: link failed, errno=18".to_owned()));
        assert_eq!(
            outcome(&ran(0, "stress-ng: info:  [1] successful run completed in 1s\n")),
            Outcome::Passed
        );
        let skips = "stress-ng: info:  [2] verity: ioctl is not supported, skipping test\n";
        assert_eq!(
            outcome(&ran(0, skips)),
            Outcome::Skipped("verity: ioctl is not supported, skipping test".to_owned())
        );
        assert!(matches!(outcome(&ran(4, skips)), Outcome::Skipped(_)));
        assert!(matches!(outcome(&Ran { status: None, said: String::new() }), Outcome::Failed(_)));
    }
}
