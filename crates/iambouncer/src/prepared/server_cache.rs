//! The statements one server has, least recently used first. Owns the order of eviction.

use super::statement::{Statement, Text};
use lru::LruCache;
use std::rc::Rc;
use std::sync::Arc;

/// Statements prepared on one server connection.
pub struct ServerCache(LruCache<u64, Rc<Statement>>);

impl Default for ServerCache {
    fn default() -> Self {
        Self(LruCache::unbounded())
    }
}

impl ServerCache {
    /// True when the server has it; it then counts as just used.
    #[inline]
    pub fn touch(&mut self, id: u64) -> bool {
        self.0.get(&id).is_some()
    }

    /// Writes down that the server gets it.
    pub fn insert(&mut self, statement: Rc<Statement>) {
        self.0.push(statement.id, statement);
    }

    /// Takes [`ServerCache::insert`] back.
    pub fn remove(&mut self, id: u64) {
        self.0.pop(&id);
    }

    /// The statement to close before another is added, if `limit` is reached.
    pub fn evict(&mut self, limit: usize) -> Option<Rc<Statement>> {
        if self.0.len() < limit {
            return None;
        }
        self.0.pop_lru().map(|(_, statement)| statement)
    }

    /// The server has forgotten all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them, least recently used first.
    pub fn texts(&self) -> Vec<Arc<Text>> {
        self.0.iter().rev().map(|(_, statement)| statement.text()).collect()
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::statement::Interner;
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let interner = Interner::default();
        let mut cache = ServerCache::default();
        let (a, b) = (interner.intern(b"a\0\0\0"), interner.intern(b"b\0\0\0"));
        cache.insert(a.clone());
        cache.insert(b.clone());
        assert!(cache.touch(a.id));
        assert!(cache.evict(3).is_none());
        assert_eq!(cache.evict(2).unwrap().id, b.id);
        assert!(cache.touch(a.id));
    }
}
