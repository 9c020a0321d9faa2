//! What is printed: each case that is not as it should be, and a table.

use std::io::{self, Write};
use std::time::Instant;

use crate::outcome::{Results, Verdict};

/// Collects results and prints them as they come, or all at the end as JSON.
pub(crate) struct Report {
    json: bool,
    since: Instant,
    all: Vec<Results>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, since: Instant::now(), all: Vec::new() }
    }

    /// Says on standard error what is run, as it may take long.
    pub(crate) fn begin(&mut self, suite: &str, fs: &str) {
        self.since = Instant::now();
        eprintln!("== {suite} on {fs}");
    }

    pub(crate) fn end(&mut self, results: &Results) -> io::Result<()> {
        if !self.json {
            let mut out = io::stdout().lock();
            print_results(&mut out, results)?;
            writeln!(out, "  {} s", self.since.elapsed().as_secs())?;
            out.flush()?;
        }
        self.all.push(results.clone());
        Ok(())
    }

    /// Prints the table; whether all went as expected.
    pub(crate) fn finish(self) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &self.all)?;
            writeln!(out)?;
        } else {
            print_table(&mut out, &self.all)?;
        }
        Ok(self.is_right())
    }

    /// Whether all went as expected.
    fn is_right(&self) -> bool {
        !self.all.iter().flat_map(|r| &r.cases).any(|c| c.verdict.is_wrong())
    }
}

fn print_results(out: &mut impl Write, results: &Results) -> io::Result<()> {
    for case in &results.cases {
        let word = match case.verdict {
            Verdict::Passed => continue,
            Verdict::Failed => "FAILED",
            Verdict::UnexpectedPass => "FAILED (it passes)",
            Verdict::ExpectedFailure => "  failed as expected",
            Verdict::Skipped => "  not run",
        };
        writeln!(out, "{word}: {} {} {}: {}", results.suite, results.fs, case.case, case.reason)?;
    }
    let count = |verdicts: &[Verdict]| results.count(verdicts);
    writeln!(
        out,
        "  {} on {}: {} passed, {} failed ({} of them as expected), {} not run",
        results.suite,
        results.fs,
        count(&PASSED),
        count(&FAILED),
        count(&[Verdict::ExpectedFailure]),
        count(&[Verdict::Skipped]),
    )
}

/// What the suite said, whatever was expected.
const PASSED: [Verdict; 2] = [Verdict::Passed, Verdict::UnexpectedPass];
const FAILED: [Verdict; 2] = [Verdict::Failed, Verdict::ExpectedFailure];

fn print_table(out: &mut impl Write, all: &[Results]) -> io::Result<()> {
    let mut suites: Vec<&str> = Vec::new();
    let mut file_systems: Vec<&str> = Vec::new();
    for results in all {
        if !suites.contains(&results.suite) {
            suites.push(results.suite);
        }
        if !file_systems.contains(&results.fs) {
            file_systems.push(results.fs);
        }
    }
    writeln!(out, "\npassed/failed (not run)\n| suite | {} |", file_systems.join(" | "))?;
    writeln!(out, "|---|{}", "---|".repeat(file_systems.len()))?;
    for suite in suites {
        let cells: Vec<String> = file_systems
            .iter()
            .map(|fs| match all.iter().find(|r| r.suite == suite && r.fs == *fs) {
                Some(r) => {
                    let skipped = r.count(&[Verdict::Skipped]);
                    let more = if skipped > 0 { format!(" ({skipped})") } else { String::new() };
                    format!("{}/{}{more}", r.count(&PASSED), r.count(&FAILED))
                }
                None => "–".to_owned(),
            })
            .collect();
        writeln!(out, "| {suite} | {} |", cells.join(" | "))?;
    }
    let sum = |verdicts: &[Verdict]| all.iter().map(|r| r.count(verdicts)).sum::<usize>();
    writeln!(
        out,
        "\n{} passed, {} failed; {} known failures, {} not run",
        sum(&[Verdict::Passed]),
        sum(&[Verdict::Failed, Verdict::UnexpectedPass]),
        sum(&[Verdict::ExpectedFailure]),
        sum(&[Verdict::Skipped]),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;
    use crate::outcome::Judged;

    fn results(fs: &'static str, verdicts: &[Verdict]) -> Results {
        let case = |(n, verdict): (usize, &Verdict)| Judged {
            case: format!("c{n}"),
            verdict: *verdict,
            reason: "because".to_owned(),
        };
        Results { suite: "s", fs, cases: verdicts.iter().enumerate().map(case).collect() }
    }

    #[test]
    fn each_failure_is_told_and_the_last_line_counts_what_is_not_as_expected() {
        use Verdict::{ExpectedFailure, Failed, Passed, Skipped, UnexpectedPass};
        let all = [
            results("a", &[Passed, Failed, ExpectedFailure, Skipped]),
            results("b", &[UnexpectedPass, Passed]),
        ];
        let mut out = Vec::new();
        print_results(&mut out, &all[0]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("FAILED: s a c1: because\n  failed as expected: s a c2: because\n"), "{text}");
        assert!(
            text.ends_with("  s on a: 1 passed, 2 failed (1 of them as expected), 1 not run\n"),
            "{text}"
        );
        let mut out = Vec::new();
        print_table(&mut out, &all).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("| s | 1/2 (1) | 2/0 |"), "{text}");
        assert!(text.ends_with("\n2 passed, 2 failed; 1 known failures, 1 not run\n"), "{text}");
    }

    #[test]
    fn only_what_is_as_expected_is_a_success() {
        let ends = |verdict| {
            let mut report = Report::new(true);
            report.all.push(results("a", &[verdict]));
            report.is_right()
        };
        assert!(ends(Verdict::Passed) && ends(Verdict::ExpectedFailure) && ends(Verdict::Skipped));
        assert!(!ends(Verdict::Failed) && !ends(Verdict::UnexpectedPass));
    }
}
