//! Free servers for which a cancel request is under way. Owns them until the request is done, so that it does not hit
//! the next client's query.

use super::acquire::Pool;
use crate::server::{Activity, Server};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Those of one pool at one worker.
#[derive(Default)]
pub(super) struct CancelingServers(RefCell<VecDeque<Box<Server>>>);

impl CancelingServers {
    /// Keeps a server until [`Pool::cancel_ended`].
    pub(super) fn keep(&self, server: Box<Server>) {
        server.info.activity.set(Activity::BeingCanceled);
        server.stream.clear_waker();
        self.0.borrow_mut().push_back(server);
    }

    /// Takes those whose cancel requests are done.
    fn take_free(&self) -> VecDeque<Box<Server>> {
        let mut servers = self.0.borrow_mut();
        let all = std::mem::take(&mut *servers).into_iter();
        let (busy, free) = all.partition(|server| server.info.cancels_in_flight.get() > 0);
        *servers = busy;
        free
    }
}

impl Pool {
    /// Called when a cancel request is done: servers that only waited for it are free.
    pub fn cancel_ended(self: &Rc<Self>) {
        for server in self.canceling.take_free() {
            self.release(server);
        }
        // The request kept its server in the table, even if the server has been closed meanwhile.
        self.changed.notify_all();
    }
}
