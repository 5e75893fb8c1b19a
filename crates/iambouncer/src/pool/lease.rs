//! A server that a client has acquired. Owns its return: however the lease ends, the server goes back to its pool or is
//! closed by it. What is known about the server's state belongs to the holder.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::lingering::UnfinishedWork;
use crate::server::{Activity, Server};
use crate::worker;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Removes all state of a session.
const DISCARD: &str = "DISCARD ALL";

/// A server on loan from its pool. The verbs end the lease with what the holder knows. A lease that is dropped instead,
/// by an error or with its task, returns a server that was not used, and closes one whose state is unknown.
pub struct Lease {
    /// `None` once the lease has ended.
    server: Option<Box<Server>>,
    pool: Rc<Pool>,
}

impl Lease {
    pub(super) fn new(pool: &Rc<Pool>, server: Box<Server>) -> Self {
        Self { server: Some(server), pool: pool.clone() }
    }

    /// Returns a server that is in step, owes nothing and has a clean session.
    #[inline]
    pub fn release(mut self) {
        if let Some(server) = self.server.take() {
            self.pool.release(server);
        }
    }

    /// Returns a server that is in step and owes nothing, but whose session may be dirty: it runs the reset query first.
    pub fn release_dirty(mut self) {
        if let Some(server) = self.server.take() {
            self.pool.release_dirty(server);
        }
    }

    /// Returns a server that is in step and owes nothing, with state that only its client could use.
    pub fn release_discarding(mut self) {
        if let Some(server) = self.server.take() {
            self.pool.release_with(server, DISCARD.to_owned());
        }
    }

    /// Returns a server that only the pooler has used.
    pub(super) fn admit_again(mut self) {
        if let Some(server) = self.server.take() {
            self.pool.admit(server, worker::now());
        }
    }

    /// Returns a server that has just been checked.
    pub(super) fn admit_checked(mut self) {
        if let Some(server) = self.server.take() {
            self.pool.admit_checked(server);
        }
    }

    /// Ends the lease without returning the server, which moves to another worker with its client.
    pub fn into_server(mut self) -> Option<Box<Server>> {
        self.server.take()
    }

    /// Closes a server that is of no use.
    pub(super) fn close(mut self, reason: ServerCloseReason) {
        if let Some(server) = self.server.take() {
            self.pool.close(server, reason);
        }
    }

    /// Closes a server that may still be working.
    pub fn abandon(mut self, unfinished: UnfinishedWork) {
        if let Some(server) = self.server.take() {
            self.pool.abandon(server, unfinished);
        }
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            return_unended(&self.pool, server);
        }
    }
}

/// The holder has not said in which state the server is.
#[cold]
fn return_unended(pool: &Rc<Pool>, server: Box<Server>) {
    let is_unused = server.info.activity.get() == Activity::Idle;
    // A task that panics may hold what a release needs.
    if is_unused && !std::thread::panicking() {
        pool.release(server);
    } else {
        pool.abandon(server, UnfinishedWork { owes_answers: true, between_messages: false });
    }
}

impl Deref for Lease {
    type Target = Server;

    #[inline]
    fn deref(&self) -> &Server {
        match &self.server {
            Some(server) => server,
            None => unreachable!("the verbs that take the server consume the lease"),
        }
    }
}

impl DerefMut for Lease {
    #[inline]
    fn deref_mut(&mut self) -> &mut Server {
        match &mut self.server {
            Some(server) => server,
            None => unreachable!("the verbs that take the server consume the lease"),
        }
    }
}
