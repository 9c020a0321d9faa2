//! Is the closure still the one that was locked?

use super::error::LockError;
use super::format::{EnvLock, LockedClosure};
use crate::closure::Closure;
use crate::store::StoreDir;

/// Says whether `closure`, computed from the lock's roots in its mode, is the one that was locked.
///
/// To be asked before anything of the closure is shown. The digest covers the names of all members, so a closure that is
/// wider, narrower or just another one is refused, and so is a lock whose own count is wrong.
///
/// # Errors
/// [`LockError::Differs`] with both counts.
pub fn verify(lock: &EnvLock, closure: &Closure) -> Result<(), LockError> {
    differs(&lock.closure, closure)
}

/// Refuses a closure that is not the one that was locked.
pub(super) fn differs(of: &LockedClosure, closure: &Closure) -> Result<(), LockError> {
    let (locked, actual) = (of.digest.to_string(), closure.digest());
    let actual_count = closure.count() as u64;
    if locked == actual && of.count == actual_count {
        return Ok(());
    }
    Err(LockError::Differs { locked, locked_count: of.count, actual, actual_count })
}

/// Says whether the lock is of a store with this directory.
///
/// # Errors
/// [`LockError::StoreDir`] with both.
pub fn verify_store(lock: &EnvLock, dir: &StoreDir) -> Result<(), LockError> {
    if lock.store_dir == *dir {
        return Ok(());
    }
    Err(LockError::StoreDir { locked: lock.store_dir.to_string(), actual: dir.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    use super::super::format::tests::{path, sample};
    use super::*;

    fn lock_of(closure: &Closure) -> EnvLock {
        let mut lock = sample();
        lock.closure.digest = super::super::Digest::parse(&closure.digest()).unwrap();
        lock.closure.count = closure.count() as u64;
        lock
    }

    #[test]
    fn only_the_very_same_closure_will_do() {
        let locked = Closure::new(vec![path('a', "x"), path('b', "y")], None);
        let lock = lock_of(&locked);
        verify(&lock, &locked).unwrap();
        for other in [
            vec![path('a', "x")],
            vec![path('a', "x"), path('b', "y"), path('c', "z")],
            vec![path('a', "x"), path('c', "y")],
        ] {
            let said = verify(&lock, &Closure::new(other.clone(), None)).unwrap_err().to_string();
            assert!(said.contains(&format!("{} paths", other.len())) && said.contains("has 2"), "{said}");
        }
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let closure = Closure::new(vec![path('a', "x"), path('b', "y")], None);
        let mut lock = lock_of(&closure);
        lock.closure.count = 3;
        assert!(verify(&lock, &closure).is_err());
    }

    #[test]
    fn a_lock_of_another_store_is_refused() {
        let said = verify_store(&sample(), &StoreDir::new("/gnu/store").unwrap()).unwrap_err().to_string();
        assert!(said.contains("/nix/store") && said.contains("/gnu/store"), "{said}");
        verify_store(&sample(), &StoreDir::default()).unwrap();
    }
}
