//! A client's place in a pool's queue. Owns the hand-over: a server is given to exactly one waiter, and one that
//! has left gives it back.

use crate::client_error::ClientError;
use crate::server::Server;
use crate::worker::executor::{self, TaskKey};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

/// What a waiter has got so far.
enum WaitOutcome {
    Waiting,
    Granted(Box<Server>),
    Refused(Rc<ClientError>),
    Left,
}

/// One place in the queue, shared by the pool and the client that waits.
pub struct Waiter {
    task: TaskKey,
    /// Since when.
    pub since: Instant,
    outcome: RefCell<WaitOutcome>,
    /// False once it has left: the pool then passes over it.
    present: Cell<bool>,
}

impl Waiter {
    /// A place for the running task.
    pub fn new(since: Instant) -> Rc<Self> {
        Rc::new(Self {
            task: executor::current(),
            since,
            outcome: RefCell::new(WaitOutcome::Waiting),
            present: Cell::new(true),
        })
    }

    /// True while it still wants a server.
    pub fn is_waiting(&self) -> bool {
        self.present.get() && matches!(*self.outcome.borrow(), WaitOutcome::Waiting)
    }

    /// Gives it a server and wakes its task; hands the server back if nobody is there.
    pub fn grant(&self, server: Box<Server>) -> Result<(), Box<Server>> {
        if !self.is_waiting() {
            return Err(server);
        }
        *self.outcome.borrow_mut() = WaitOutcome::Granted(server);
        executor::wake(self.task);
        Ok(())
    }

    /// Tells it that there will be no server.
    pub fn refuse(&self, error: &Rc<ClientError>) {
        if self.is_waiting() {
            *self.outcome.borrow_mut() = WaitOutcome::Refused(error.clone());
            executor::wake(self.task);
        }
    }

    /// What has come, if anything; called by the task that waits.
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

    /// Leaves the queue. A server granted meanwhile is the caller's to give back.
    pub fn leave(&self) -> Option<Box<Server>> {
        self.present.set(false);
        match std::mem::replace(&mut *self.outcome.borrow_mut(), WaitOutcome::Left) {
            WaitOutcome::Granted(server) => Some(server),
            _ => None,
        }
    }
}
