//! What went wrong while a view was served, also when it went wrong in another process.

use serde::{Deserialize, Serialize};

/// A failure, and what can be done about it.
///
/// Plain text, so that it can be told across processes: the server has it, the one who asked for the view shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What failed, where, and why.
    pub what: String,
    /// What can be done, a line each.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure without a deeper reason.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hints: Vec::new() }
    }

    /// What was attempted, and the whole chain of reasons.
    #[must_use]
    pub fn of(attempt: &str, reason: &(dyn std::error::Error + 'static)) -> Self {
        let mut what = format!("{attempt}: {reason}");
        let mut cause = reason.source();
        while let Some(error) = cause {
            let why = error.to_string();
            if !what.contains(&why) {
                what = format!("{what}: {why}");
            }
            cause = error.source();
        }
        Self::new(what)
    }

    /// Adds what can be done.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Says what was attempted when something failed.
pub(super) trait Attempt<T> {
    /// The failure, with `what` in front of its reason.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::error::Error + 'static> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(&what(), &error))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_whole_chain_is_told_once() {
        let deep = Outer(io::Error::from_raw_os_error(libc::ENOSPC));
        let failure = Failure::of("cannot do it", &deep).hint("make room");
        assert_eq!(failure.what, "cannot do it: outer: No space left on device (os error 28)");
        assert_eq!(failure.hints, ["make room"]);
    }
}
