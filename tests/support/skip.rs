//! Tests, or parts of them, that cannot run here.

/// Prints why, in a line that scripts count: `skipped: TEST: WHY`.
macro_rules! skip {
    ($($why:tt)+) => {
        eprintln!(
            "skipped: {}: {}",
            std::thread::current().name().unwrap_or("a thread of a test"),
            format_args!($($why)+)
        )
    };
}
pub(crate) use skip;
