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

/// What is to be known of it.
pub(super) struct Earlier {
    /// The warning.
    pub(super) warning: String,
    /// The upper changes store paths that this environment does not have: they stay hidden.
    pub(super) hides: bool,
}

/// Compares it with this environment, whose lower is `lower`.
pub(super) fn compare(
    spec: &ViewSpec,
    upper: &UpperDir,
    last: &LastView,
    lower: &ViewLower,
) -> Result<Earlier, Failure> {
    let trees = Trees { lower, upper: upper.layer(), owner: Some(spec.owner) };
    let parts = Parts::of(trees).attempt(|| "cannot compare the upper with the environment".to_owned())?;
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
    Ok(Earlier { warning: text, hides: !parts.hidden.is_empty() })
}
