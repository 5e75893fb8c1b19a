//! A map of bounded size that evicts the least recently used entry.
//!
//! Owns: that bound. Clients of a wildcard database may use any number of names, which must not grow the
//! process. Never: holds its lock during other work.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Shared values by key, at most as many as the capacity.
#[derive(Debug)]
pub(crate) struct Slots<K: Eq + Hash, V>(Mutex<LruCache<K, Arc<V>>>);

impl<K: Clone + Eq + Hash, V: Default> Slots<K, V> {
    pub(crate) fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(capacity)))
    }

    /// The value of `key`, created if missing.
    pub(crate) fn get(&self, key: &K) -> Arc<V> {
        Arc::clone(lock(&self.0).get_or_insert_ref(key, Arc::default))
    }

    /// Drops the entries of all other keys.
    #[cfg(feature = "secrets-manager")]
    pub(crate) fn retain(&self, is_kept: impl Fn(&K) -> bool) {
        let mut entries = lock(&self.0);
        let dropped: Vec<K> =
            entries.iter().map(|(key, _)| key).filter(|key| !is_kept(key)).cloned().collect();
        for key in dropped {
            entries.pop(&key);
        }
    }

    /// All entries, in no particular order.
    pub(crate) fn entries(&self) -> Vec<(K, Arc<V>)> {
        lock(&self.0).iter().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }
}

/// Locks even after a panic elsewhere: every change under these locks is a single assignment, never half
/// done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_is_evicted() {
        let slots: Slots<u32, Mutex<u32>> = Slots::new(NonZeroUsize::new(2).unwrap());
        *lock(&slots.get(&1)) = 10;
        *lock(&slots.get(&2)) = 20;
        assert_eq!(*lock(&slots.get(&1)), 10);
        slots.get(&3);
        let mut keys: Vec<u32> = slots.entries().into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 3]);
    }
}
