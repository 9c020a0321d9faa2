//! What surrounds every request: a counter, a span, the log of failures, and the net that catches panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::telemetry::metrics::{Metrics, Operation};
use crate::vfs::{self, Errno, Ino};

use super::convert;

/// Runs the logic of requests.
pub(super) struct Observer {
    metrics: Arc<Metrics>,
}

impl Observer {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }

    /// Counts a request that the kernel is told not to send again, or that this file system does not have.
    pub(super) fn refused(&self, operation: Operation) -> fuser::Errno {
        self.metrics.request(operation);
        self.metrics.error(operation);
        fuser::Errno::ENOSYS
    }

    /// Runs `logic` for a request about `ino` and answers what the kernel gets in case of failure.
    ///
    /// A panic becomes `EIO`: it would else end the worker, and with the last worker the view.
    pub(super) fn run<T>(
        &self,
        operation: Operation,
        ino: Ino,
        logic: impl FnOnce() -> vfs::Result<T>,
    ) -> Result<T, fuser::Errno> {
        let _span = tracing::trace_span!("request", operation = operation.name(), %ino).entered();
        let answer = catch_unwind(AssertUnwindSafe(logic)).unwrap_or_else(|_| {
            tracing::error!(operation = operation.name(), %ino, "a handler panicked");
            Err(vfs::Error::new(operation.name(), ino, Errno::EIO))
        });
        // Counted when its work is done and before it is answered, so that whoever sees the count sees the effect.
        self.metrics.request(operation);
        answer.map_err(|error| {
            self.metrics.error(operation);
            if error.is_ordinary() {
                tracing::debug!(%error);
            } else {
                tracing::warn!(%error);
            }
            convert::errno(error.errno())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_request_works() {
        let metrics = Arc::new(Metrics::default());
        let observer = Observer::new(Arc::clone(&metrics));
        let broken = |ino: Ino| assert_eq!(ino, Ino(0), "broken on purpose");
        let answer = observer.run(Operation::Lookup, Ino::ROOT, || {
            broken(Ino::ROOT);
            Ok(())
        });
        assert_eq!(answer.map_err(fuser::Errno::code), Err(libc::EIO));
        let answer = observer.run(Operation::Lookup, Ino::ROOT, || Ok(7));
        assert_eq!(answer.map_err(fuser::Errno::code), Ok(7));
        let count = metrics.get(Operation::Lookup);
        assert_eq!((count.requests, count.errors), (2, 1));
    }
}
