//! A question before something is deleted for good.

use std::io::{IsTerminal, Write};

use super::{CliError, ErrorContext};
use crate::printable::printable;

/// Asks on the terminal, unless `yes` was given.
///
/// # Errors
/// If the answer is no, or there is no terminal to ask on.
pub fn confirm(yes: bool, question: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::usage("this deletes for good, and there is no terminal to ask on")
            .hint("--yes skips the question; --dry-run deletes nothing"));
    }
    write!(std::io::stderr(), "{} [y/N] ", printable(question)).context("cannot ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::new("nothing was done")),
    }
}
