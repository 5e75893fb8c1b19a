//! Values that are stored once on a worker, regardless of the number of users. Owns the table, and when unused values
//! are dropped; never looks at a value.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::Hash;
use std::rc::Rc;

/// Values without users are dropped if there are more than this, or than twice those in use.
pub(crate) const MAX_UNUSED: usize = 1024;

/// All values used on this worker: equal values are the same allocation.
pub(crate) struct SharedValues<T: ?Sized> {
    known: RefCell<HashSet<Rc<T>>>,
    sweep_above: Cell<usize>,
}

impl<T: ?Sized> Default for SharedValues<T> {
    fn default() -> Self {
        Self { known: RefCell::default(), sweep_above: Cell::new(MAX_UNUSED) }
    }
}

impl<T: ?Sized + Eq + Hash> SharedValues<T> {
    /// The shared copy of a value.
    pub(crate) fn share(&self, value: impl Borrow<T> + Into<Rc<T>>) -> Rc<T> {
        let mut known = self.known.borrow_mut();
        if let Some(shared) = known.get(value.borrow()) {
            return shared.clone();
        }
        if known.len() >= self.sweep_above.get() {
            known.retain(|shared| Rc::strong_count(shared) > 1);
            // Otherwise, with many in use, each new one would scan all of them.
            self.sweep_above.set(MAX_UNUSED.max(2 * known.len()));
        }
        let shared: Rc<T> = value.into();
        known.insert(shared.clone());
        shared
    }

    /// Number of values in the table.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.known.borrow().len()
    }
}
