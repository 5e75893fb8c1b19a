//! A map of bounded size that evicts the least recently used entry.
//!
//! Owns: that bound. Clients of a wildcard database may use any number of names, which must not grow the
//! process. Never: holds its lock during other work.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared values by key, at most `capacity` of them.
#[derive(Debug)]
pub(crate) struct Slots<K, V> {
    capacity: usize,
    inner: Mutex<SlotsInner<K, V>>,
}

#[derive(Debug)]
struct SlotsInner<K, V> {
    entries: HashMap<K, (Arc<V>, u64)>,
    uses: u64,
}

impl<K: Clone + Eq + Hash, V: Default> Slots<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::new(SlotsInner { entries: HashMap::new(), uses: 0 }) }
    }

    /// The value of `key`, created if missing.
    pub(crate) fn get(&self, key: &K) -> Arc<V> {
        let mut inner = lock(&self.inner);
        inner.uses += 1;
        let use_number = inner.uses;
        if let Some((value, last_use)) = inner.entries.get_mut(key) {
            *last_use = use_number;
            return Arc::clone(value);
        }
        if inner.entries.len() >= self.capacity {
            inner.evict_oldest();
        }
        let value = Arc::new(V::default());
        inner.entries.insert(key.clone(), (Arc::clone(&value), use_number));
        value
    }

    /// Drops the entries of all other keys.
    #[cfg(feature = "secrets-manager")]
    pub(crate) fn retain(&self, is_kept: impl Fn(&K) -> bool) {
        lock(&self.inner).entries.retain(|key, _| is_kept(key));
    }

    /// All entries, in no particular order.
    pub(crate) fn entries(&self) -> Vec<(K, Arc<V>)> {
        let inner = lock(&self.inner);
        inner.entries.iter().map(|(key, (value, _))| (key.clone(), Arc::clone(value))).collect()
    }
}

impl<K: Clone + Eq + Hash, V> SlotsInner<K, V> {
    fn evict_oldest(&mut self) {
        let oldest =
            self.entries.iter().min_by_key(|(_, (_, last_use))| *last_use).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.entries.remove(&key);
        }
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
        let slots: Slots<u32, Mutex<u32>> = Slots::new(2);
        *lock(&slots.get(&1)) = 10;
        *lock(&slots.get(&2)) = 20;
        assert_eq!(*lock(&slots.get(&1)), 10);
        slots.get(&3);
        let mut keys: Vec<u32> = slots.entries().into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 3]);
    }
}
