//! How much the long tests do: in the gate one representative part, with `NIXVIEW_TEST_EFFORT=nightly` everything.

/// True where time does not count (`scripts/nightly`).
pub(crate) fn nightly() -> bool {
    match std::env::var("NIXVIEW_TEST_EFFORT").as_deref() {
        Ok("nightly") => true,
        Ok("gate" | "") | Err(_) => false,
        Ok(other) => panic!("NIXVIEW_TEST_EFFORT is '{other}', neither 'gate' nor 'nightly'"),
    }
}

/// What the gate does, or what the night does.
pub(crate) fn pick<T>(gate: T, night: T) -> T {
    if nightly() { night } else { gate }
}
