//! A layer in memory, for tests.
