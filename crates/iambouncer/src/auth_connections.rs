//! Idle connections on which `auth_query` runs. Owns how many there are and when they are closed. They belong to no pool:
//! no client can change their session, so none can make the query find another table.

use crate::config::Config;
use crate::net::Stream;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// Maximum number per worker.
const MAX_IDLE: usize = 8;

struct IdleConnection {
    database: String,
    user: String,
    /// The configuration that it was opened with.
    config: Arc<Config>,
    stream: Stream,
    since: Instant,
}

/// The idle connections of one worker.
#[derive(Default)]
pub struct AuthConnections(RefCell<Vec<IdleConnection>>);

impl AuthConnections {
    /// Takes a connection to a database as a user, if one is usable.
    pub fn take(&self, database: &str, user: &str, config: &Arc<Config>) -> Option<Stream> {
        let mut idle = self.0.borrow_mut();
        let is_match = |known: &IdleConnection| {
            known.database == database && known.user == user && Arc::ptr_eq(&known.config, config)
        };
        while let Some(at) = idle.iter().rposition(is_match) {
            let found = idle.swap_remove(at);
            if !found.stream.has_hung_up() {
                return Some(found.stream);
            }
        }
        None
    }

    /// Keeps a connection for the next query.
    pub fn put(&self, database: &str, user: &str, config: Arc<Config>, stream: Stream, now: Instant) {
        let mut idle = self.0.borrow_mut();
        if idle.len() >= MAX_IDLE {
            return close(stream);
        }
        stream.clear_waker();
        let (database, user) = (database.to_owned(), user.to_owned());
        idle.push(IdleConnection { database, user, config, stream, since: now });
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Closes those that were not used for `limit`, or that were opened with another configuration.
    pub fn close_unused(&self, limit: Duration, config: &Arc<Config>, now: Instant) {
        let is_kept = |known: &mut IdleConnection| {
            Arc::ptr_eq(&known.config, config) && (limit.is_zero() || now - known.since < limit)
        };
        let unused: Vec<_> = self.0.borrow_mut().extract_if(.., |known| !is_kept(known)).collect();
        unused.into_iter().for_each(|known| close(known.stream));
    }
}

/// Sends Terminate and closes.
fn close(mut stream: Stream) {
    let mut message = Vec::new();
    wire::encode::terminate(&mut message);
    let _ = stream.poll_send(&mut Context::from_waker(Waker::noop()), &message, &[]);
}
