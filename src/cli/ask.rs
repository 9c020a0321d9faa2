//! The daemon, asked by commands that it can serve.

use super::{CliError, Context, ErrorContext};
use crate::control::{Client, ControlError};

/// A connection to the daemon of this host; `None` where none runs, or this user may not ask it.
///
/// # Errors
/// If it cannot be reached for another reason.
pub fn daemon(context: &Context) -> Result<Option<Client>, CliError> {
    for socket in &context.state.control {
        let found = match Client::connect(socket) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::info!(socket = %socket.display(), "this user may not ask the daemon");
                None
            }
            answer => answer.with_context(|| format!("cannot ask the daemon at {}", socket.display()))?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What the daemon refused, or failed at.
#[must_use]
pub fn refused(error: ControlError) -> CliError {
    match error {
        ControlError::Failed { what, hints } => hints.into_iter().fold(CliError::new(what), CliError::hint),
        other => CliError::new(other.to_string()),
    }
}
