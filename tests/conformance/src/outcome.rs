//! What became of a case.

use serde::Serialize;

/// One case of a suite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// What the suite says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Passed,
    /// With the reason.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, outcome: Outcome) -> Self {
        Self { name: name.into(), outcome }
    }
}

/// What we say of it, once it is compared with what is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// It failed, and the list says why it does.
    ExpectedFailure,
    /// It passed, and the list says that it does not.
    UnexpectedPass,
    Skipped,
}

impl Verdict {
    /// Whether this must not be.
    pub(crate) fn is_wrong(self) -> bool {
        matches!(self, Self::Failed | Self::UnexpectedPass)
    }
}

/// A case with its verdict, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) case: String,
    pub(crate) verdict: Verdict,
    /// Nothing for a case that passed as it should.
    pub(crate) reason: String,
}

/// All cases of one suite on one file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) suite: &'static str,
    pub(crate) fs: &'static str,
    pub(crate) cases: Vec<Judged>,
}

impl Results {
    /// How many cases have one of these verdicts.
    pub(crate) fn count(&self, verdicts: &[Verdict]) -> usize {
        self.cases.iter().filter(|c| verdicts.contains(&c.verdict)).count()
    }
}
