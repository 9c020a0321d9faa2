//! How many lines a process may write in a while.

use std::time::Instant;

use tracing::Level;

/// What may come at once, in lines, and so many a second after that. Details have a measure of their own: they were asked for.
const NEWS: Bucket = Bucket { capacity: 100.0, per_second: 2.0 };
const DETAILS: Bucket = Bucket { capacity: 2000.0, per_second: 200.0 };

#[derive(Clone, Copy, Debug)]
struct Bucket {
    capacity: f64,
    per_second: f64,
}

/// A measure that fills with time, and each line takes from.
#[derive(Clone, Copy, Debug)]
struct Filled {
    bucket: Bucket,
    tokens: f64,
    at: Instant,
}

impl Filled {
    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = since.mul_add(self.bucket.per_second, self.tokens).min(self.bucket.capacity);
        self.at = now;
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

/// Lets lines through, and counts those that it does not.
#[derive(Debug)]
pub(in crate::daemon) struct Rate {
    news: Filled,
    details: Filled,
    left_out: u64,
}

impl Rate {
    /// Both measures are full.
    pub(in crate::daemon) fn new(now: Instant) -> Self {
        let full = |bucket: Bucket| Filled { bucket, tokens: bucket.capacity, at: now };
        Self { news: full(NEWS), details: full(DETAILS), left_out: 0 }
    }

    /// Lets a line through: how many were left out before it. `None`: this one is left out.
    pub(in crate::daemon) fn take(&mut self, level: Level, now: Instant) -> Option<u64> {
        let measure = if level > Level::INFO { &mut self.details } else { &mut self.news };
        if measure.take(now) {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_and_quiet_times_are_kept() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let through = (0..10_000).filter(|_| rate.take(Level::WARN, start).is_some()).count();
        assert_eq!(through, 100);
        assert_eq!(rate.take(Level::DEBUG, start), Some(9_900), "details have their own measure");
        assert_eq!(rate.take(Level::ERROR, start), None);
        assert_eq!(rate.take(Level::ERROR, start + Duration::from_secs(1)), Some(1));
        let later = start + Duration::from_secs(86_400);
        let through = (0..10_000).filter(|_| rate.take(Level::WARN, later).is_some()).count();
        assert_eq!(through, 100, "not more than at the start");
    }
}
