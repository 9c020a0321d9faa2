//! An upper that fails at the n-th change, for tests.
