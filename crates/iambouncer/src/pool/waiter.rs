//! A client's place in a pool's queue. Owns the hand-over: a server is granted to exactly one waiter, and a waiter that
//! leaves returns it.

use crate::client_error::ClientError;
use crate::server::Server;
use crate::worker::executor::{self, TaskKey};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

/// The state of a waiter.
enum WaitOutcome {
    Waiting,
    Granted(Box<Server>),
    Refused(Rc<ClientError>),
    Left,
}

/// A place in the queue, shared by the pool and the waiting client.
pub struct Waiter {
    task: TaskKey,
    /// When the wait began.
    pub since: Instant,
    outcome: RefCell<WaitOutcome>,
    /// False once the client has left; the pool then skips it.
    present: Cell<bool>,
}

impl Waiter {
    /// Creates a place for the running task.
    pub fn new(since: Instant) -> Rc<Self> {
        Rc::new(Self {
            task: executor::current(),
            since,
            outcome: RefCell::new(WaitOutcome::Waiting),
            present: Cell::new(true),
        })
    }

    /// True while the client still waits.
    pub fn is_waiting(&self) -> bool {
        self.present.get() && matches!(*self.outcome.borrow(), WaitOutcome::Waiting)
    }

    /// Grants a server and wakes the task; returns the server if the client has left.
    pub fn grant(&self, server: Box<Server>) -> Result<(), Box<Server>> {
        if !self.is_waiting() {
            return Err(server);
        }
        *self.outcome.borrow_mut() = WaitOutcome::Granted(server);
        executor::wake(self.task);
        Ok(())
    }

    /// Refuses the request.
    pub fn refuse(&self, error: &Rc<ClientError>) {
        if self.is_waiting() {
            *self.outcome.borrow_mut() = WaitOutcome::Refused(error.clone());
            executor::wake(self.task);
        }
    }

    /// The outcome, if there is one; called by the waiting task.
    pub fn poll(&self) -> Option<Result<Box<Server>, Rc<ClientError>>> {
        let mut outcome = self.outcome.borrow_mut();
        match std::mem::replace(&mut *outcome, WaitOutcome::Left) {
            WaitOutcome::Granted(server) => Some(Ok(server)),
            WaitOutcome::Refused(error) => Some(Err(error)),
            other => {
                *outcome = other;
                None
            }
        }
    }

    /// Leaves the queue. Returns a server that was granted meanwhile.
    pub fn leave(&self) -> Option<Box<Server>> {
        self.present.set(false);
        match std::mem::replace(&mut *self.outcome.borrow_mut(), WaitOutcome::Left) {
            WaitOutcome::Granted(server) => Some(server),
            _ => None,
        }
    }
}
