//! The statements on one server, least recently used first. Owns the order of eviction, and which statements are
//! uncertain.

use super::description::Description;
use super::statement::{Statement, Text};
use lru::LruCache;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

/// Maximum number of uncertain statements tracked individually; beyond that all are uncertain.
const MAX_UNCERTAIN: usize = 64;
/// Maximum number of statements that are closed for another one, after the limit was reduced.
pub const MAX_EVICTED: usize = 16;
/// An unknown schema version for [`ServerCache::insert`], older than any other.
pub const UNKNOWN_VERSION: u32 = u32::MAX;

struct CachedStatement {
    statement: Rc<Statement>,
    /// The schema version when it was prepared.
    version: u32,
    /// How the server has described it.
    description: Description,
}

/// Statements that may or may not exist on the server: they are closed before they are prepared again.
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
    /// Statements whose text is not kept. They cannot be prepared again, so they are not evicted.
    private: HashSet<u64>,
    uncertain: Uncertain,
}

impl Default for ServerCache {
    fn default() -> Self {
        Self { entries: LruCache::unbounded(), private: HashSet::new(), uncertain: Uncertain::None }
    }
}

impl ServerCache {
    /// True if the server has it, in which case it becomes the most recently used.
    #[inline]
    pub fn touch(&mut self, id: u64) -> bool {
        self.touch_described(id).is_some()
    }

    /// The same with its description.
    #[inline]
    pub fn touch_described(&mut self, id: u64) -> Option<Description> {
        match self.entries.get(&id) {
            Some(entry) => Some(entry.description),
            None => self.private.contains(&id).then_some(Description::UNKNOWN),
        }
    }

    /// Records how the server has described a statement.
    pub fn describe(&mut self, id: u64, description: Description) {
        if let Some(entry) = self.entries.peek_mut(&id) {
            entry.description = description;
        }
    }

    /// The schema version at which the server has prepared it, if it has.
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

    /// Records a statement that is being prepared on the server.
    pub fn insert(&mut self, statement: Rc<Statement>, version: u32) {
        if let Uncertain::Some(ids) = &mut self.uncertain {
            ids.retain(|id| *id != statement.id);
        }
        if statement.is_private() {
            self.private.insert(statement.id);
        } else {
            let description = Description::UNKNOWN;
            self.entries.push(statement.id, CachedStatement { statement, version, description });
        }
    }

    /// Undoes [`ServerCache::insert`].
    pub fn remove(&mut self, id: u64) {
        self.entries.pop(&id);
        self.private.remove(&id);
    }

    /// The server has reported that it does not have the statement or cannot use it.
    pub fn mark_uncertain(&mut self, id: u64) {
        self.remove(id);
        match &mut self.uncertain {
            Uncertain::None => self.uncertain = Uncertain::Some(vec![id]),
            Uncertain::Some(ids) if ids.len() < MAX_UNCERTAIN => ids.push(id),
            uncertain => *uncertain = Uncertain::All,
        }
    }

    /// The server may have dropped any statement unseen.
    pub fn mark_all_uncertain(&mut self) {
        self.entries.clear();
        self.private.clear();
        self.uncertain = Uncertain::All;
    }

    /// True if the server may have something under the statement's name although it is not recorded.
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

    /// The statements that [`ServerCache::evict`] would return, until there is room for one more; at most
    /// [`MAX_EVICTED`].
    pub fn next_evicted(&self, limit: usize) -> impl Iterator<Item = u64> {
        let excess = (self.entries.len() + 1).saturating_sub(limit);
        self.entries.iter().rev().take(excess.min(MAX_EVICTED)).map(|(id, _)| *id)
    }

    /// The server has dropped all statements except those for which `keeps` is true.
    pub fn clear_except(&mut self, keeps: impl Fn(u64) -> bool) {
        let mut all = std::mem::replace(&mut self.entries, LruCache::unbounded());
        while let Some((id, entry)) = all.pop_lru() {
            if keeps(id) {
                self.entries.push(id, entry);
            }
        }
        self.private.retain(|id| keeps(*id));
        self.uncertain = Uncertain::None;
    }

    /// The server has dropped all statements.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.private.clear();
        self.uncertain = Uncertain::None;
    }

    /// True if the server may have statements that are not recorded.
    pub fn has_uncertain(&self) -> bool {
        !matches!(self.uncertain, Uncertain::None)
    }

    /// Any statement that is not recorded may still exist on the server.
    pub fn mark_others_uncertain(&mut self) {
        self.uncertain = Uncertain::All;
    }

    /// All statements with their schema versions and descriptions, least recently used first.
    pub fn texts(&self) -> Vec<(Arc<Text>, u32, Description)> {
        let entries = self.entries.iter().rev();
        entries.map(|(_, entry)| (entry.statement.text(), entry.version, entry.description)).collect()
    }

    /// The statements whose text is not kept.
    pub fn private(&self) -> impl Iterator<Item = u64> {
        self.private.iter().copied()
    }

    /// Records statements whose text is not kept, of a server that was moved here.
    pub fn insert_private(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.private.extend(ids);
    }

    /// Number of statements.
    #[allow(clippy::len_without_is_empty, reason = "shown as a number only")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::statement::Interner;
    use super::*;

    #[test]
    fn the_least_recently_used_is_evicted_first() {
        let interner = Interner::default();
        let mut cache = ServerCache::default();
        let (a, b) = (interner.intern(b"a\0\0\0"), interner.intern(b"b\0\0\0"));
        cache.insert(a.clone(), 0);
        cache.insert(b.clone(), 0);
        assert!(cache.touch(a.id));
        assert!(cache.evict(3).is_none());
        assert_eq!(cache.next_evicted(2).collect::<Vec<_>>(), [b.id]);
        assert_eq!(cache.next_evicted(1).collect::<Vec<_>>(), [b.id, a.id]);
        assert_eq!(cache.evict(2).unwrap().id, b.id);
        assert!(cache.touch(a.id));
    }

    #[test]
    fn an_uncertain_statement_is_not_recorded_as_prepared() {
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
        assert!(cache.len() == 0 && cache.is_uncertain(a.id) && cache.is_uncertain(b.id));
        cache.clear();
        assert!(!cache.is_uncertain(a.id));
    }

    #[test]
    fn statements_prepared_after_a_deallocate_all_are_kept() {
        let interner = Interner::default();
        let mut cache = ServerCache::default();
        let all: Vec<_> =
            [&b"a\0\0\0"[..], b"b\0\0\0", b"c\0\0\0"].iter().map(|text| interner.intern(text)).collect();
        for statement in &all {
            cache.insert(statement.clone(), 0);
        }
        cache.clear_except(|id| id != all[1].id);
        assert_eq!(cache.next_evicted(0).next(), Some(all[0].id));
        assert!(cache.touch(all[0].id) && cache.touch(all[2].id) && !cache.touch(all[1].id));
    }
}
