//! Authenticated clients that wait for their startup response because their pool has not had a server yet. Owns since
//! when they wait.

use super::acquire::Pool;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

/// All of a pool at one worker.
#[derive(Default)]
pub(super) struct Arrivals {
    /// When each began to wait, with a number to distinguish equal times.
    waiting: RefCell<BTreeSet<(Instant, u64)>>,
    next: Cell<u64>,
}

impl Arrivals {
    /// Number of them.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Since when the first of them waits.
    pub(super) fn first(&self) -> Option<Instant> {
        self.waiting.borrow().first().map(|(since, _)| *since)
    }
}

/// A client that waits for its startup response, until this is dropped.
pub struct Arrival {
    pool: Rc<Pool>,
    key: (Instant, u64),
}

impl Pool {
    /// True when a client waits for its startup response.
    pub(super) fn has_arrivals(&self) -> bool {
        self.arrivals.first().is_some()
    }

    /// Registers a client that waits for its startup response.
    pub fn arrive(self: &Rc<Self>, now: Instant) -> Arrival {
        self.request_maintenance();
        let number = self.arrivals.next.replace(self.arrivals.next.get() + 1);
        let key = (now, number);
        self.arrivals.waiting.borrow_mut().insert(key);
        Arrival { pool: self.clone(), key }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.pool.arrivals.waiting.borrow_mut().remove(&self.key);
    }
}
