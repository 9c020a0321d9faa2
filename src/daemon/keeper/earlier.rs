//! What is to be known of an upper that another environment was used with before.

use crate::daemon::error::{Attempt, Failure};
use crate::view::build::ViewLower;
use crate::view::changes::{Parts, Trees, shown};
use crate::view::spec::ViewSpec;
use crate::view::upper_dir::{LastView, UpperDir, UpperError};

/// How many hidden paths a warning names.
const NAMED: usize = 3;

/// What the upper was last used with, if that is another closure and the upper holds something.
pub(super) fn environment(spec: &ViewSpec, upper: &UpperDir) -> Result<Option<LastView>, UpperError> {
    let last = match upper.last_view() {
        // It is written anew.
        Err(UpperError::LastView { .. }) => None,
        answer => answer?,
    };
    let other = last.filter(|last| last.lock.closure.digest != spec.lock.closure.digest);
    Ok(match other {
        Some(last) if upper.holds_anything()? => Some(last),
        _ => None,
    })
}

/// The store paths that the upper changes and the environment has not, or not as they were; `lower` is what it lies over.
pub(super) fn parts(spec: &ViewSpec, upper: &UpperDir, lower: &ViewLower) -> Result<Parts, Failure> {
    let trees = Trees { lower, upper: upper.layer(), owner: Some(spec.owner) };
    Parts::of(trees).attempt(|| "cannot compare the upper with the environment".to_owned())
}

/// What is to be said of them, if the upper was last used with another environment.
pub(super) fn warning(spec: &ViewSpec, upper: &UpperDir, last: &LastView, parts: &Parts) -> String {
    let before = &last.lock;
    let mut text = format!(
        "the upper was last used with another environment ('{}', {}); this one is '{}', {}",
        before.name, before.closure.digest, spec.lock.name, spec.lock.closure.digest
    );
    if let Some(first) = parts.hidden.first() {
        let named: Vec<String> = parts.hidden.iter().take(NAMED).map(|path| shown(path)).collect();
        let more = parts.hidden.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        text.push_str(&format!(
            "; its changes of store paths that this one does not have stay hidden until an environment has them: {}{more}; \
             'nixview reset {} {}' deletes one",
            named.join(", "),
            upper.path().display(),
            shown(first).trim_start_matches('/'),
        ));
    }
    if parts.replacing > 0 {
        text.push_str(&format!("; paths of its own in place of those of this one: {}", parts.replacing));
    }
    text
}
