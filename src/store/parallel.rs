//! Threads that are gone when the work is done: a process that serves views forks, which it can only without threads.

use std::io;

/// Does `work` with rayon's iterators on threads of its own, one a processor, and waits for their end.
///
/// # Errors
/// If no threads can be started.
pub fn with_threads<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let done = rayon::ThreadPoolBuilder::new().build_scoped(|thread| thread.run(), |pool| pool.install(work));
    done.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use rayon::prelude::*;

    use super::*;

    #[test]
    fn no_thread_of_the_work_is_left() {
        let work = || (0..1000).into_par_iter().map(|_| std::thread::current().id()).collect::<Vec<_>>();
        let own = std::thread::current().id();
        assert!(with_threads(work).unwrap().iter().all(|id| *id != own), "it is done by others");
        // The threads of a scope have ended when it has: another pool's have other ids.
        let (first, second) = (with_threads(work).unwrap(), with_threads(work).unwrap());
        assert!(second.iter().all(|id| !first.contains(id)));
    }
}
