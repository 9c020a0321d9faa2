//! A layer that is made when it is first needed.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::vfs::Errno;

/// How long a failure stands before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A layer, and what keeps it in its place.
#[derive(Debug)]
pub struct Made<L> {
    /// The layer.
    pub layer: L,
    /// Open as long as the layer is used.
    pub held: Option<OwnedFd>,
}

type Make<L> = Box<dyn Fn() -> Result<Made<L>, LateError> + Send + Sync>;

/// Why it could not be made: for the log, and for the one who needed it.
#[derive(Debug)]
pub struct LateError {
    /// What a request answers.
    pub errno: Errno,
    /// What happened, for people.
    pub why: String,
}

/// A layer that is made at the first call that needs it; all others who need it wait for that.
///
/// A failure is its errno to all who ask within a second; then it is tried again. It is logged where it differs from the one
/// before.
pub struct Late<L> {
    made: OnceLock<Made<L>>,
    make: Make<L>,
    failed: Mutex<Option<(Instant, LateError)>>,
}

impl<L> Late<L> {
    /// One that `make` makes.
    pub fn new(make: impl Fn() -> Result<Made<L>, LateError> + Send + Sync + 'static) -> Self {
        Self { made: OnceLock::new(), make: Box::new(make), failed: Mutex::new(None) }
    }

    /// The layer.
    ///
    /// # Errors
    /// The errno of what hindered its making.
    pub fn get(&self) -> io::Result<&L> {
        if let Some(made) = self.made.get() {
            return Ok(&made.layer);
        }
        let mut failed = self.failed.lock();
        // Another may have made it while the lock was waited for.
        if let Some(made) = self.made.get() {
            return Ok(&made.layer);
        }
        if let Some((_, error)) = failed.as_ref().filter(|(when, _)| when.elapsed() < PAUSE) {
            return Err(error.errno.into());
        }
        match (self.make)() {
            Ok(made) => Ok(&self.made.get_or_init(|| made).layer),
            Err(error) => {
                let errno = error.errno;
                if failed.as_ref().is_none_or(|(_, before)| before.why != error.why) {
                    tracing::error!(why = %error.why, "cannot make Nix's state for the view");
                }
                *failed = Some((Instant::now(), error));
                Err(errno.into())
            }
        }
    }
}

impl<L> fmt::Debug for Late<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Late").field("made", &self.made.get().is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn it_is_made_once_for_all_who_need_it() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let late = Late::new(move || {
            std::thread::sleep(Duration::from_millis(20));
            Ok(Made { layer: counted.fetch_add(1, Ordering::SeqCst), held: None })
        });
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(*late.get().unwrap(), 0));
            }
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_keeps_its_errno_and_is_tried_again_later() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let late = Late::new(move || match counted.fetch_add(1, Ordering::SeqCst) {
            0 => Err(LateError { errno: Errno::ENOSPC, why: "full".to_owned() }),
            _ => Ok(Made { layer: (), held: None }),
        });
        assert_eq!(Errno::of(&late.get().unwrap_err()), Errno::ENOSPC);
        assert_eq!(Errno::of(&late.get().unwrap_err()), Errno::ENOSPC);
        assert_eq!(calls.load(Ordering::SeqCst), 1, "not tried again at once");
        late.failed.lock().as_mut().unwrap().0 -= PAUSE;
        late.get().unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}
