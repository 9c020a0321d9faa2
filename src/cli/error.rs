//! What went wrong, told to people.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::printable::printable;

/// A failure as the command line tells it: what, why, and what to do.
///
/// Printed as `nixview: what: why: deeper why`, then lines of another program, indented, and `hint: …`, a line each hint.
/// All of it is escaped as [`printable`] does.
#[derive(Debug)]
pub struct CliError {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    details: Vec<String>,
    hints: Vec<String>,
    code: u8,
}

impl CliError {
    /// A failure without a deeper reason.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, details: Vec::new(), hints: Vec::new(), code: 1 }
    }

    /// A wrong usage that clap cannot see; exit code 2.
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(what) }
    }

    /// Adds lines that another program printed.
    #[must_use]
    pub fn details<'l>(mut self, lines: impl IntoIterator<Item = &'l str>) -> Self {
        self.details.extend(lines.into_iter().map(str::to_owned));
        self
    }

    /// Adds what can be done about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the deeper reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(reason.into());
        self
    }

    /// Answers with another exit code than 1.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// True if it is only that the reader of our answer went away.
    fn is_closed_pipe(&self) -> bool {
        self.what == OUTPUT
            && self
                .source
                .as_deref()
                .and_then(|s| s.downcast_ref::<io::Error>())
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The lines as they are printed, without colours.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut text = self.what.clone();
        let mut cause = self.source.as_deref().map(|s| s as &dyn Error);
        while let Some(error) = cause {
            let why = error.to_string();
            if !text.contains(&why) {
                text = format!("{text}: {why}");
            }
            cause = error.source();
        }
        let mut lines = vec![format!("nixview: {}", printable(&text))];
        lines.extend(self.details.iter().map(|line| format!("  {}", printable(line))));
        lines.extend(self.hints.iter().map(|hint| format!("hint: {}", printable(hint))));
        lines
    }

    /// Prints it to standard error and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if self.is_closed_pipe() {
            return ExitCode::SUCCESS;
        }
        let mut stderr = anstream::stderr().lock();
        for line in self.lines() {
            let styled = match line.split_once(": ") {
                Some((head, rest)) => {
                    let style = if head == "hint" { HINT } else { FAILURE };
                    writeln!(stderr, "{style}{head}:{style:#} {rest}")
                }
                None => writeln!(stderr, "{line}"),
            };
            if styled.is_err() {
                break; // Nobody is left to be told; the exit code still says it.
            }
        }
        ExitCode::from(self.code)
    }
}

const FAILURE: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
const HINT: anstyle::Style = anstyle::AnsiColor::Cyan.on_default();

/// What failed when the answer could not be written.
pub(super) const OUTPUT: &str = "cannot write the answer to standard output";

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for CliError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn Error + 'static))
    }
}

/// Says what was attempted when something failed.
pub trait Context<T> {
    /// `what` is told before the reason: `cannot read env.lock`.
    ///
    /// # Errors
    /// The same failure, with its context.
    fn context(self, what: impl Into<String>) -> Result<T, CliError>;

    /// As [`Context::context`], for texts that cost something to make.
    ///
    /// # Errors
    /// The same failure, with its context.
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T, CliError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T, CliError> {
        self.with_context(|| what.into())
    }

    fn with_context(self, what: impl FnOnce() -> String) -> Result<T, CliError> {
        self.map_err(|error| CliError::new(what()).because(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::*;

    fn missing() -> Result<(), io::Error> {
        Err(io::Error::new(io::ErrorKind::NotFound, "no such file"))
    }

    #[test]
    fn it_says_what_why_and_what_to_do() {
        let error = missing().context("cannot read env.lock").unwrap_err().hint("make one with nixview lock");
        assert_eq!(
            error.lines(),
            ["nixview: cannot read env.lock: no such file", "hint: make one with nixview lock"]
        );
        assert_eq!(error.code(), 1);
        assert_eq!(CliError::usage("either one or the other").code(), 2);
    }

    #[test]
    fn a_reason_that_is_told_already_is_not_told_twice() {
        let error = missing().context("a.lock: no such file").unwrap_err();
        assert_eq!(error.lines(), ["nixview: a.lock: no such file"]);
    }

    #[test]
    fn only_our_own_closed_output_is_no_failure() {
        let pipe = || Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(pipe().context(OUTPUT).unwrap_err().is_closed_pipe());
        assert!(!pipe().context("cannot talk to nix").unwrap_err().is_closed_pipe());
    }
}
