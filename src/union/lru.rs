//! A small map that forgets what was not used for longest.

use std::collections::HashMap;
use std::hash::Hash;

/// At most `capacity` values. Making room looks at all of them: for capacities up to some hundreds.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    capacity: usize,
    clock: u64,
    entries: HashMap<K, (u64, V)>,
}

impl<K: Eq + Hash + Clone, V: Clone> Lru<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, entries: HashMap::new() }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(value.clone())
    }

    /// Keeps a value; answers what had to go for it, so that the caller can drop it without a lock.
    #[must_use = "drop what is displaced after the lock is freed"]
    pub(super) fn put(&mut self, key: K, value: V) -> Option<V> {
        self.clock += 1;
        if self.capacity == 0 {
            return Some(value);
        }
        if let Some((_, old)) = self.entries.insert(key, (self.clock, value)) {
            return Some(old);
        }
        if self.entries.len() <= self.capacity {
            return None;
        }
        let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(k, _)| k.clone())?;
        self.remove(&oldest)
    }

    #[must_use = "drop what is removed after the lock is freed"]
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used() {
        let mut lru = Lru::new(2);
        assert_eq!(lru.put(1, 'a'), None);
        assert_eq!(lru.put(2, 'b'), None);
        assert_eq!(lru.get(&1), Some('a'));
        assert_eq!(lru.put(3, 'c'), Some('b'));
        assert_eq!(lru.put(3, 'd'), Some('c'));
        assert_eq!((lru.get(&1), lru.get(&2), lru.get(&3)), (Some('a'), None, Some('d')));
        assert_eq!(Lru::new(0).put(1, 'a'), Some('a'));
    }
}
