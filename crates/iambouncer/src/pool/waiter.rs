//! A client's place in a pool's queue. Owns the hand-over: a server is granted to exactly one waiter, and a waiter that
//! is dropped leaves the queue and returns what it was granted.

use super::acquire::Pool;
use super::lease::Lease;
use crate::client_error::ClientError;
use crate::server::Server;
use crate::worker::executor::{self, TaskKey};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// The state of a waiter.
enum WaitOutcome {
    Waiting,
    Granted(Lease),
    Refused(Rc<ClientError>),
    /// The client has the outcome, or has left; the pool skips it.
    Left,
}

/// The pool's side of a place in the queue.
pub(super) struct QueuePlace {
    task: TaskKey,
    since: Instant,
    outcome: RefCell<WaitOutcome>,
}

impl QueuePlace {
    /// Creates a place for the running task.
    pub(super) fn new(since: Instant) -> Rc<Self> {
        let outcome = RefCell::new(WaitOutcome::Waiting);
        Rc::new(Self { task: executor::current(), since, outcome })
    }

    /// When the wait began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// True while the client still waits.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.outcome.borrow(), WaitOutcome::Waiting)
    }

    /// Grants a server of the pool and wakes the task; returns the server if the client has left.
    pub(super) fn grant(&self, pool: &Rc<Pool>, server: Box<Server>) -> Result<(), Box<Server>> {
        if !self.is_waiting() {
            return Err(server);
        }
        *self.outcome.borrow_mut() = WaitOutcome::Granted(Lease::new(pool, server));
        executor::wake(self.task);
        Ok(())
    }

    /// Refuses the request.
    pub(super) fn refuse(&self, error: &Rc<ClientError>) {
        if self.is_waiting() {
            *self.outcome.borrow_mut() = WaitOutcome::Refused(error.clone());
            executor::wake(self.task);
        }
    }

    /// The client no longer waits. Returns what was decided before.
    fn leave(&self) -> WaitOutcome {
        self.outcome.replace(WaitOutcome::Left)
    }
}

/// A client's place in the queue, until this is dropped.
pub struct Waiter(Rc<QueuePlace>);

impl Waiter {
    pub(super) fn new(place: Rc<QueuePlace>) -> Self {
        Self(place)
    }

    /// When the wait began.
    pub fn since(&self) -> Instant {
        self.0.since()
    }

    /// True until the pool has decided.
    pub fn is_waiting(&self) -> bool {
        self.0.is_waiting()
    }

    /// The outcome, if there is one; called by the waiting task.
    pub fn poll(&self) -> Option<Result<Lease, Rc<ClientError>>> {
        if self.is_waiting() {
            return None;
        }
        match self.0.leave() {
            WaitOutcome::Granted(lease) => Some(Ok(lease)),
            WaitOutcome::Refused(error) => Some(Err(error)),
            WaitOutcome::Waiting | WaitOutcome::Left => None,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A server granted meanwhile goes back to the pool, which may grant it to the next waiter.
        drop(self.0.leave());
    }
}
