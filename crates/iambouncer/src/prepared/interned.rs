//! Texts that are stored once, regardless of the number of users. Owns the table of one worker, and when unused texts
//! are dropped; the other contents of an entry belong to its user.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;

/// Unused texts are dropped after this many additions.
pub(super) const SWEEP_EVERY: usize = 1024;
/// Unused texts are also dropped after additions of this many bytes.
const SWEEP_EVERY_BYTES: usize = 32 * 1024 * 1024;

/// Compares and hashes by body, so that a table can be searched with the bytes of a message.
pub(super) struct ByBody<T>(pub(super) T);

pub(super) trait HasBody {
    fn body(&self) -> &[u8];
}

impl<T: Deref<Target: HasBody>> Borrow<[u8]> for ByBody<T> {
    fn borrow(&self) -> &[u8] {
        self.0.body()
    }
}

impl<T: Deref<Target: HasBody>> Hash for ByBody<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.body().hash(state);
    }
}

impl<T: Deref<Target: HasBody>> PartialEq for ByBody<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.body() == other.0.body()
    }
}

impl<T: Deref<Target: HasBody>> Eq for ByBody<T> {}

/// Additions to a table since unused texts were last dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SweepTimer {
    added: usize,
    bytes: usize,
}

impl SweepTimer {
    /// Counts a text. True when a sweep is due.
    pub(super) fn add(&mut self, body: &[u8]) -> bool {
        self.added += 1;
        self.bytes += body.len();
        let is_due = self.added > SWEEP_EVERY || self.bytes > SWEEP_EVERY_BYTES;
        if is_due {
            *self = Self::default();
        }
        is_due
    }
}

/// Entries in use on this worker, one for each text.
pub(super) struct InternTable<T> {
    table: RefCell<HashSet<ByBody<Rc<T>>>>,
    since_sweep: Cell<SweepTimer>,
}

impl<T> Default for InternTable<T> {
    fn default() -> Self {
        Self { table: RefCell::default(), since_sweep: Cell::default() }
    }
}

impl<T: HasBody> InternTable<T> {
    /// The entry with this body, created if necessary.
    pub(super) fn get_or_add(&self, body: &[u8], make: impl FnOnce() -> T) -> Rc<T> {
        if let Some(existing) = self.table.borrow().get(body) {
            return existing.0.clone();
        }
        let mut table = self.table.borrow_mut();
        let mut since_sweep = self.since_sweep.get();
        if since_sweep.add(body) {
            table.retain(|entry| Rc::strong_count(&entry.0) > 1);
        }
        self.since_sweep.set(since_sweep);
        let entry = Rc::new(make());
        table.insert(ByBody(entry.clone()));
        entry
    }

    /// Number of entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.borrow().len()
    }
}
