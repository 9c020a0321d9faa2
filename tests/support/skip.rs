//! Tests, or parts of them, that cannot run here.

/// Says why, in a line that scripts count: `skipped: TEST: WHY`.
macro_rules! skip {
    ($($why:tt)+) => {
        $crate::support::skip::say(&format!($($why)+))
    };
}
pub(crate) use skip;

pub(crate) fn say(why: &str) {
    let thread = std::thread::current();
    eprintln!("skipped: {}: {why}", thread.name().unwrap_or("a thread of a test"));
}
