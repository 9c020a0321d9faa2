//! Connections that were refused, for the daemon's log: a line a user and [`INTERVAL`], however many they were.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long nothing more is reported of a user.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When a line was last written of a user, and how many connections were refused since.
    of: HashMap<u32, (Instant, u64)>,
}

impl Refusals {
    /// Counts a refusal of a user's. Answers how many there were since the last line, this one included, if a line is to be
    /// written.
    pub(super) fn count(&mut self, uid: u32, now: Instant) -> Option<u64> {
        match self.of.get_mut(&uid) {
            Some((last, since)) => {
                *since += 1;
                (now.saturating_duration_since(*last) >= INTERVAL).then(|| {
                    *last = now;
                    std::mem::take(since)
                })
            }
            None => {
                // Those that have nothing to be reported any more.
                self.of
                    .retain(|_, (last, since)| *since > 0 || now.saturating_duration_since(*last) < INTERVAL);
                self.of.insert(uid, (now, 0));
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_that_counts_it_and_hides_no_other_user() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        let lines = (0..10_000).filter(|_| refusals.count(1000, start).is_some()).count();
        assert_eq!(lines, 1);
        assert_eq!(refusals.count(1001, start), Some(1));
        let later = start + INTERVAL;
        assert_eq!(refusals.count(1000, later), Some(10_000));
        assert_eq!(refusals.count(1000, later), None);
        assert_eq!(refusals.count(1002, later + INTERVAL), Some(1));
        assert!(!refusals.of.contains_key(&1001), "what is over is forgotten");
    }
}
