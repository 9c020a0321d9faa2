//! What the server tells of itself: counters of requests, and spans for `tracing`.

pub mod metrics;
