//! The list of what is known to fail, and what it makes of the outcome of a case.
//!
//! A line is `fails` or `skip`, a suite, a file system (or several, or `*`), a pattern of cases (`*` stands for any text), and
//! the reason. A case that should fail and passes must be taken off, as must a line that fits no case.

use std::cell::Cell;

use crate::outcome::{Case, Judged, Outcome, Results, Verdict};

/// The list.
#[derive(Debug)]
pub(crate) struct Expected {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    number: usize,
    kind: Kind,
    suite: String,
    file_systems: Vec<String>,
    pattern: String,
    reason: String,
    used: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Fails, always.
    Fails,
    /// Says nothing: what it does depends on what is not tested here.
    Skip,
}

impl Expected {
    /// Reads the list. The error is a sentence with the number of the line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Ok(Self { lines: lines.map(|(number, line)| Line::parse(number, line)).collect::<Result<_, _>>()? })
    }

    /// Compares cases with the list. `complete` says that all cases of the suite are here, so that a line without one is stale.
    pub(crate) fn judge(
        &self,
        suite: &'static str,
        fs: &'static str,
        cases: Vec<Case>,
        complete: bool,
    ) -> Results {
        self.lines.iter().for_each(|line| line.used.set(false));
        let mut judged: Vec<Judged> = cases.into_iter().map(|case| self.verdict(suite, fs, case)).collect();
        for line in self.lines.iter().filter(|l| complete && l.is_of(suite, fs) && !l.used.get()) {
            judged.push(Judged {
                case: line.pattern.clone(),
                verdict: Verdict::Failed,
                reason: format!("line {} of the expected failures fits no case: take it off", line.number),
            });
        }
        Results { suite, fs, cases: judged }
    }

    fn verdict(&self, suite: &str, fs: &str, case: Case) -> Judged {
        let line = self.lines.iter().find(|l| l.is_of(suite, fs) && fits(&l.pattern, &case.name));
        if let Some(line) = line {
            line.used.set(true);
        }
        let known = line.map(|l| (l.kind, l.reason.as_str()));
        let (verdict, reason) = match (known, case.outcome) {
            (Some((Kind::Skip, why)), _) => (Verdict::Skipped, why.to_owned()),
            (_, Outcome::Skipped(why)) => (Verdict::Skipped, why),
            (Some((Kind::Fails, why)), Outcome::Failed(_)) => (Verdict::ExpectedFailure, why.to_owned()),
            (Some((Kind::Fails, _)), Outcome::Passed) => {
                (Verdict::UnexpectedPass, "it passes: take it off the expected failures".to_owned())
            }
            (None, Outcome::Failed(why)) => (Verdict::Failed, why),
            (None, Outcome::Passed) => (Verdict::Passed, String::new()),
        };
        Judged { case: case.name, verdict, reason }
    }
}

impl Line {
    fn parse(number: usize, line: &str) -> Result<Self, String> {
        let told = |what: &str| format!("line {number} of the expected failures {what}: {line}");
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.split_once(char::is_whitespace)?;
            rest = after.trim_start();
            Some(word.to_owned())
        };
        let words = (word(), word(), word(), word());
        let (Some(kind), Some(suite), Some(file_systems), Some(pattern)) = words else {
            return Err(told("has no reason"));
        };
        let kind = match kind.as_str() {
            "fails" => Kind::Fails,
            "skip" => Kind::Skip,
            _ => return Err(told("begins with neither 'fails' nor 'skip'")),
        };
        if rest.is_empty() {
            return Err(told("has no reason"));
        }
        let file_systems = file_systems.split(',').map(str::to_owned).collect();
        Ok(Self {
            number,
            kind,
            suite,
            file_systems,
            pattern,
            reason: rest.to_owned(),
            used: Cell::new(false),
        })
    }

    fn is_of(&self, suite: &str, fs: &str) -> bool {
        self.suite == suite && self.file_systems.iter().any(|f| f == "*" || f == fs)
    }
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|name| (0..=name.len()).any(|n| name.get(n..).is_some_and(|tail| fits(rest, tail)))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    const LIST: &str =
        "# a comment\n\nfails s a,b x::*::char no devices\nskip s * y by chance\nfails s c gone never was\n";

    fn judge(fs: &'static str, name: &str, outcome: Outcome) -> Judged {
        let results = Expected::parse(LIST).unwrap().judge("s", fs, vec![Case::new(name, outcome)], false);
        results.cases.into_iter().next().unwrap()
    }

    #[test]
    fn an_outcome_is_compared_with_the_list() {
        let failed = || Outcome::Failed("it says".to_owned());
        let verdict = |fs, name, outcome| judge(fs, name, outcome).verdict;
        assert_eq!(verdict("a", "x::1::char", failed()), Verdict::ExpectedFailure);
        assert_eq!(judge("b", "x::1::char", failed()).reason, "no devices");
        assert_eq!(verdict("b", "x::1::char", Outcome::Passed), Verdict::UnexpectedPass);
        assert_eq!(
            verdict("c", "x::1::char", failed()),
            Verdict::Failed,
            "of other file systems nothing is said"
        );
        assert_eq!(judge("c", "x::1::char", failed()).reason, "it says");
        assert_eq!(verdict("a", "x::1::chars", failed()), Verdict::Failed);
        assert_eq!(verdict("c", "y", failed()), Verdict::Skipped);
        assert_eq!(verdict("c", "y", Outcome::Passed), Verdict::Skipped);
        assert_eq!(verdict("a", "x::1::char", Outcome::Skipped("old".to_owned())), Verdict::Skipped);
        assert_eq!(verdict("a", "z", Outcome::Passed), Verdict::Passed);
    }

    #[test]
    fn a_line_without_a_case_is_wrong_when_all_cases_were_run() {
        let list = Expected::parse(LIST).unwrap();
        let cases = vec![Case::new("y", Outcome::Passed)];
        assert_eq!(list.judge("s", "c", cases.clone(), false).count(&[Verdict::Failed]), 0);
        let all = list.judge("s", "c", cases, true);
        assert_eq!(all.count(&[Verdict::Failed]), 1);
        assert_eq!(all.cases.last().unwrap().case, "gone");
        assert_eq!(list.judge("t", "c", Vec::new(), true).cases, [], "lines of other suites do not count");
    }

    #[test]
    fn lines_without_a_reason_are_refused() {
        for (line, told) in
            [("fails s a x", "no reason"), ("fails s a x  ", "no reason"), ("maybe s a x y", "neither")]
        {
            let error = Expected::parse(&format!("\n{line}")).unwrap_err();
            assert!(error.contains("line 2") && error.contains(told), "{error}");
        }
    }

    #[test]
    fn the_list_of_this_project_can_be_read() {
        let list = Expected::parse(include_str!("../expected")).unwrap();
        assert!(!list.lines.is_empty());
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in
            [("a", "a"), ("*", ""), ("a*c", "abbc"), ("*::char", "x::char"), ("a*b*c", "a-b-b-c")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*c", "acb"), ("*b", "a"), ("", "a")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
