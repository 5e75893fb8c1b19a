//! A table whose unused entries are removed as others are added. Owns when that happens; the caller decides what is
//! unused.

use std::collections::HashMap;
use std::hash::Hash;

/// Unused entries are removed after this many additions.
pub(super) const SWEEP_EVERY: usize = 256;

/// Entries by key.
pub struct SweptTable<K, V> {
    entries: HashMap<K, V>,
    added: usize,
}

impl<K, V> Default for SweptTable<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), added: 0 }
    }
}

impl<K: Eq + Hash, V> SweptTable<K, V> {
    /// The entry of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Adds an entry; from time to time removes those that are not used.
    pub fn insert(&mut self, key: K, value: V, is_used: impl Fn(&V) -> bool) {
        self.added += 1;
        if self.added > SWEEP_EVERY {
            self.added = 0;
            self.retain(is_used);
        }
        self.entries.insert(key, value);
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Removes all entries but those for which `is_used` holds.
    pub fn retain(&mut self, is_used: impl Fn(&V) -> bool) {
        self.entries.retain(|_, value| is_used(value));
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }
}
