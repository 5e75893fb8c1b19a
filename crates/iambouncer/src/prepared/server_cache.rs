//! The statements one server has, least recently used first. Owns the order of eviction, and which of them are in doubt.

use super::statement::{Statement, Text};
use lru::LruCache;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

/// Statements in doubt that are told apart; with more of them all are in doubt.
const MAX_DOUBTFUL: usize = 64;
/// A [`ServerCache::insert`] at a version of the schema that is not known: older than any.
pub const UNKNOWN_VERSION: u32 = u32::MAX;

struct CachedStatement {
    statement: Rc<Statement>,
    /// Version of the schema when it was prepared.
    version: u32,
}

/// Statements that the server may or may not have under their names: they are closed before they are prepared again.
#[derive(Default)]
enum Uncertain {
    #[default]
    None,
    Some(Vec<u64>),
    All,
}

/// Statements prepared on one server connection.
pub struct ServerCache {
    entries: LruCache<u64, CachedStatement>,
    /// Statements whose text is not kept: they cannot be prepared again, so they are not evicted.
    private: HashSet<u64>,
    uncertain: Uncertain,
}

impl Default for ServerCache {
    fn default() -> Self {
        Self { entries: LruCache::unbounded(), private: HashSet::new(), uncertain: Uncertain::None }
    }
}

impl ServerCache {
    /// True when the server has it; it then counts as just used.
    #[inline]
    pub fn touch(&mut self, id: u64) -> bool {
        self.entries.get(&id).is_some() || self.private.contains(&id)
    }

    /// The version of the schema at which the server has prepared it, if it has.
    pub fn version(&self, id: u64) -> Option<u32> {
        self.entries
            .peek(&id)
            .map(|entry| entry.version)
            .or_else(|| self.private.contains(&id).then_some(UNKNOWN_VERSION))
    }

    /// The statement, if the server has it.
    pub fn get(&self, id: u64) -> Option<Rc<Statement>> {
        self.entries.peek(&id).map(|entry| entry.statement.clone())
    }

    /// Records that the server gets it.
    pub fn insert(&mut self, statement: Rc<Statement>, version: u32) {
        if let Uncertain::Some(ids) = &mut self.uncertain {
            ids.retain(|id| *id != statement.id);
        }
        if statement.is_private() {
            self.private.insert(statement.id);
        } else {
            self.entries.push(statement.id, CachedStatement { statement, version });
        }
    }

    /// Takes [`ServerCache::insert`] back.
    pub fn remove(&mut self, id: u64) {
        self.entries.pop(&id);
        self.private.remove(&id);
    }

    /// The server has said that it does not have it, or cannot use what it has.
    pub fn mark_uncertain(&mut self, id: u64) {
        self.remove(id);
        match &mut self.uncertain {
            Uncertain::None => self.uncertain = Uncertain::Some(vec![id]),
            Uncertain::Some(ids) if ids.len() < MAX_DOUBTFUL => ids.push(id),
            uncertain => *uncertain = Uncertain::All,
        }
    }

    /// The server has dropped statements of which we have not been told.
    pub fn mark_all_uncertain(&mut self) {
        self.entries.clear();
        self.private.clear();
        self.uncertain = Uncertain::All;
    }

    /// True when the server may have something under the statement's name although it is not in here.
    pub fn is_uncertain(&self, id: u64) -> bool {
        match &self.uncertain {
            Uncertain::None => false,
            Uncertain::Some(ids) => ids.contains(&id),
            Uncertain::All => true,
        }
    }

    /// The statement to close before another is added, if `limit` is reached.
    pub fn evict(&mut self, limit: usize) -> Option<Rc<Statement>> {
        if self.entries.len() < limit {
            return None;
        }
        self.entries.pop_lru().map(|(_, entry)| entry.statement)
    }

    /// The statement that [`ServerCache::evict`] would give.
    pub fn next_evicted(&self, limit: usize) -> Option<u64> {
        if self.entries.len() < limit { None } else { self.entries.peek_lru().map(|(id, _)| *id) }
    }

    /// The server has dropped all but those for which `stays` is true.
    pub fn clear_except(&mut self, stays: impl Fn(u64) -> bool) {
        let mut all = std::mem::replace(&mut self.entries, LruCache::unbounded());
        while let Some((id, entry)) = all.pop_lru() {
            if stays(id) {
                self.entries.push(id, entry);
            }
        }
        self.private.retain(|id| stays(*id));
        self.uncertain = Uncertain::None;
    }

    /// The server has dropped all.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.private.clear();
        self.uncertain = Uncertain::None;
    }

    /// The server may have statements that are not in here.
    pub fn has_doubts(&self) -> bool {
        !matches!(self.uncertain, Uncertain::None)
    }

    /// Any statement that is not in here may be on the server all the same.
    pub fn doubt_others(&mut self) {
        self.uncertain = Uncertain::All;
    }

    /// All of them with the version of the schema at which they were prepared, least recently used first.
    pub fn texts(&self) -> Vec<(Arc<Text>, u32)> {
        self.entries.iter().rev().map(|(_, entry)| (entry.statement.text(), entry.version)).collect()
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
        cache.insert(a.clone(), 0);
        cache.insert(b.clone(), 0);
        assert!(cache.touch(a.id));
        assert!(cache.evict(3).is_none());
        assert_eq!(cache.next_evicted(2), Some(b.id));
        assert_eq!(cache.evict(2).unwrap().id, b.id);
        assert!(cache.touch(a.id));
    }

    #[test]
    fn a_statement_in_doubt_is_closed_before_it_is_prepared_again() {
        let interner = Interner::default();
        let mut cache = ServerCache::default();
        let (a, b) = (interner.intern(b"a\0\0\0"), interner.intern(b"b\0\0\0"));
        cache.insert(a.clone(), 0);
        cache.insert(b.clone(), 0);
        cache.mark_uncertain(a.id);
        assert!(!cache.touch(a.id) && cache.is_uncertain(a.id) && !cache.is_uncertain(b.id));
        cache.insert(a.clone(), 0);
        assert!(!cache.is_uncertain(a.id));
        cache.mark_all_uncertain();
        assert!(cache.is_empty() && cache.is_uncertain(a.id) && cache.is_uncertain(b.id));
        cache.clear();
        assert!(!cache.is_uncertain(a.id));
    }

    #[test]
    fn what_is_prepared_behind_a_deallocate_all_stays() {
        let interner = Interner::default();
        let mut cache = ServerCache::default();
        let all: Vec<_> =
            [&b"a\0\0\0"[..], b"b\0\0\0", b"c\0\0\0"].iter().map(|text| interner.intern(text)).collect();
        for statement in &all {
            cache.insert(statement.clone(), 0);
        }
        cache.clear_except(|id| id != all[1].id);
        assert_eq!(cache.next_evicted(0), Some(all[0].id));
        assert!(cache.touch(all[0].id) && cache.touch(all[2].id) && !cache.touch(all[1].id));
    }
}
