//! The clients that wait for a server, in the order of their arrival. Owns that order, and when a server last became
//! free for one of them; it neither opens nor closes servers.

use super::acquire::Pool;
use super::waiter::{QueuePlace, Waiter};
use crate::client_error::ClientError;
use crate::server::Server;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

/// The queue of one pool at one worker.
pub(super) struct Queue {
    places: RefCell<VecDeque<Rc<QueuePlace>>>,
    made_at: Instant,
    freed_at: Cell<Option<Instant>>,
}

impl Queue {
    pub(super) fn new(now: Instant) -> Self {
        Self { places: RefCell::default(), made_at: now, freed_at: Cell::new(None) }
    }

    /// True if no place has been taken; a place whose client has left may still be in the queue.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.places.borrow().is_empty()
    }

    /// The running task takes the last place.
    pub(super) fn join(&self, now: Instant) -> Waiter {
        let place = QueuePlace::new(now);
        self.places.borrow_mut().push_back(place.clone());
        Waiter::new(place)
    }

    /// Records that a client has released a server.
    #[inline]
    pub(super) fn record_release(&self, now: Instant) {
        self.freed_at.set(Some(now));
    }

    /// The same, if one has.
    pub(super) fn freed_since(&self) -> Option<Instant> {
        self.freed_at.get()
    }

    /// When a server last became free; at first, when the queue was made.
    pub(super) fn freed_at(&self) -> Instant {
        self.freed_at.get().unwrap_or(self.made_at)
    }

    /// Grants a server of the pool to the client that has waited longest.
    ///
    /// # Errors
    /// Returns the server if no client waits.
    #[inline]
    pub(super) fn grant(&self, pool: &Rc<Pool>, mut server: Box<Server>) -> Result<(), Box<Server>> {
        loop {
            let Some(place) = self.places.borrow_mut().pop_front() else { return Err(server) };
            match place.grant(pool, server) {
                Ok(()) => return Ok(()),
                Err(back) => server = back,
            }
        }
    }

    /// Refuses the request of every client for which `is_due` is true of the beginning of its wait.
    pub(super) fn refuse(&self, error: &Rc<ClientError>, is_due: impl Fn(Instant) -> bool) {
        self.places.borrow_mut().retain(|place| {
            let is_due = is_due(place.since());
            if is_due {
                place.refuse(error);
            }
            !is_due
        });
    }

    /// True when a client waits; places whose clients have left are removed from the front.
    pub(super) fn has_waiters(&self) -> bool {
        let mut places = self.places.borrow_mut();
        while places.front().is_some_and(|place| !place.is_waiting()) {
            places.pop_front();
        }
        !places.is_empty()
    }

    /// The number of waiting clients, and since when the first of them waits.
    pub(super) fn waiting(&self) -> (usize, Option<Instant>) {
        let places = self.places.borrow();
        let mut present = places.iter().filter(|place| place.is_waiting());
        let oldest = present.next().map(|place| place.since());
        (oldest.map_or(0, |_| 1 + present.count()), oldest)
    }

    /// The number of waiting clients, at most `limit`, which is all that opening servers needs.
    pub(super) fn waiting_up_to(&self, limit: usize) -> usize {
        self.places.borrow().iter().filter(|place| place.is_waiting()).take(limit).count()
    }

    /// Since when the first client in the queue waits.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.places.borrow().iter().find(|place| place.is_waiting()).map(|place| place.since())
    }
}
