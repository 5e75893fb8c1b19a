//! Counts how the login of a client ends, once. Owns the rule that a login without another result was abandoned.

use crate::stats::client_counters::ClientLoginResult;
use crate::worker_state::Worker;
use std::cell::Cell;
use std::rc::Rc;

/// A login that has not been counted yet.
pub(super) struct LoginRecord {
    worker: Rc<Worker>,
    is_counted: Cell<bool>,
}

impl LoginRecord {
    pub(super) fn new(worker: Rc<Worker>) -> Self {
        Self { worker, is_counted: Cell::new(false) }
    }

    /// Counts the result, unless one has been counted.
    pub(super) fn end(&self, result: ClientLoginResult) {
        if !self.is_counted.replace(true) {
            self.worker.context.process.client_counters.count_login(result);
        }
    }

    /// It is no login: a cancel request, or a connection of a health check.
    pub(super) fn discard(&self) {
        self.is_counted.set(true);
    }
}

impl Drop for LoginRecord {
    fn drop(&mut self) {
        self.end(ClientLoginResult::Abandoned);
    }
}
