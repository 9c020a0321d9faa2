//! Waiting for what others do.

use std::thread;
use std::time::{Duration, Instant};

/// The limit where any is right: only a failure takes it, and no machine is so busy that another thing does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`; fails with `what` if it does not within `limit`.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
