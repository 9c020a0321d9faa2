//! What went wrong, for the runtime's log.

use nixview::control::ControlError;

/// What failed and why, and what can be done about it.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    hints: Vec<String>,
}

impl Failure {
    /// A failure without a deeper reason.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hints: Vec::new() }
    }

    /// Adds what can be done about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The lines as they are printed.
    pub(crate) fn lines(&self) -> Vec<String> {
        let hints = self.hints.iter().map(|hint| format!("hint: {hint}"));
        std::iter::once(self.what.clone()).chain(hints).collect()
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Failed { what, hints } => Self { what, hints },
            other => Self::new(other.to_string()),
        }
    }
}

/// Says what was attempted when something failed.
pub(crate) trait Attempt<T> {
    /// `what` is told before the reason: `cannot read /run/x/config.json`.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(format!("{}: {error}", what())))
    }
}
