//! Checking idle servers before a client gets them: `server_check_query`, and whether the functions of the database are
//! those that are known. Owns which servers need the query, and the tasks that run it; a server that has failed is closed,
//! and its client gets another one.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::lease::Lease;
use crate::config::Settings;
use crate::limits::Counter;
use crate::server::{Activity, Server};
use crate::worker::{executor, timers};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The value of `server_check_query` that stands for an empty query; an empty value stands for none.
const EMPTY_QUERY: &str = "<empty>";
/// Later than any use of a server that is compared with it.
const NEVER_FRESH: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The checks of one pool at one worker.
#[derive(Default)]
pub(super) struct ServerChecks {
    /// A server that was last used then, or earlier, is checked; `None` if none is. Renewed by the janitor, so that
    /// acquiring a server costs one comparison.
    stale_at: Cell<Option<Instant>>,
    under_way: Counter,
}

impl ServerChecks {
    /// Applies the settings, and the passing of time.
    pub(super) fn renew(&self, settings: &Settings, now: Instant) {
        let delay = settings.server_check_delay;
        self.stale_at.set(match settings.server_check_query.is_empty() {
            true => None,
            false if delay.is_zero() => now.checked_add(NEVER_FRESH),
            false => now.checked_sub(delay),
        });
    }

    /// True if the check query is to be run on this idle server before a client gets it.
    #[inline]
    pub(super) fn is_due(&self, server: &Server) -> bool {
        Some(server.info.touched_at.get()) <= self.stale_at.get()
    }

    /// Checks under way. Each is for a client that waits.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.taken() as usize
    }
}

impl Pool {
    /// Runs the check query on an idle server, and compares the functions of the database. The server is then free for the client that has waited longest.
    pub(super) fn check(self: &Rc<Self>, server: Box<Server>) {
        let settings = self.context.config();
        let query = &settings.settings.server_check_query;
        let sql = if query == EMPTY_QUERY { String::new() } else { query.clone() };
        let limit = settings.settings.server_connect_timeout;
        let runs_query = self.checks.is_due(&server);
        self.begin_check_of_functions();
        server.info.activity.set(Activity::Tested);
        let under_way = self.checks.under_way.take(None);
        let mut lease = Lease::new(self, server);
        let pool = self.clone();
        executor::spawn(async move {
            let mut passed = true;
            if runs_query {
                let run = crate::server::reset::check(&mut lease, &pool.context.parameters, &sql);
                passed = timers::timeout(limit, run).await.unwrap_or(false);
            }
            let passed = passed && pool.check_functions(&mut lease).await;
            drop(under_way);
            if passed {
                lease.admit_checked();
            } else {
                lease.close(ServerCloseReason::CheckFailed);
            }
            // Another idle server, or a new one, takes the place of one that has failed.
            pool.serve_waiters();
        });
    }

    /// True if more clients wait than checks are under way.
    pub(super) fn has_unserved_waiters(&self) -> bool {
        let expected = self.checks.under_way();
        self.queue.waiting_up_to(expected + 1) > expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker;

    #[test]
    fn a_server_is_stale_after_the_delay_unless_the_query_is_empty() {
        let now = worker::now() + Duration::from_secs(100);
        let stale_at = |query: &str, delay: u64| {
            let settings = Settings {
                server_check_query: query.to_owned(),
                server_check_delay: Duration::from_secs(delay),
                ..Settings::default()
            };
            let checks = ServerChecks::default();
            checks.renew(&settings, now);
            checks.stale_at.get()
        };
        assert_eq!(stale_at("<empty>", 30), Some(now - Duration::from_secs(30)));
        assert_eq!(stale_at("", 30), None);
        assert!(stale_at("SELECT 1", 0) > Some(now));
    }
}
