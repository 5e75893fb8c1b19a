//! The logins of a pool that are under way at one worker. Owns their number and its bound, the host of the next one, and
//! the retry after a failure; it performs no login.

use super::acquire::Pool;
use crate::config::{Database, Host, LoadBalanceHosts};
use crate::limits::{Counter, Permit};
use crate::worker::notify::Notify;
use crate::worker::{executor, timers};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Concurrent logins per pool. More would only queue at the server.
pub(super) const MAX_PARALLEL_LOGINS: usize = 8;

/// Logins of one pool at one worker.
#[derive(Default)]
pub(super) struct ServerLogins {
    under_way: Counter,
    last_took: Cell<Duration>,
    /// Of the hosts of the database line, counted without end.
    next_host: Cell<usize>,
    retry_armed: Cell<bool>,
    /// Notified when a login finishes, successfully or not.
    ended: Notify,
}

impl ServerLogins {
    /// A login begins, and is under way until what is returned is dropped.
    pub(super) fn begin(&self) -> Option<Permit> {
        self.under_way.take(None)
    }

    /// Logins under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.taken() as usize
    }

    /// True when the maximum number of logins is under way.
    pub(super) fn is_at_maximum(&self) -> bool {
        self.under_way() >= MAX_PARALLEL_LOGINS
    }

    /// A login has succeeded after `took`.
    pub(super) fn record_success(&self, took: Duration) {
        self.last_took.set(took);
    }

    /// A login has failed: with `load_balance_hosts = disable`, the next one goes to the next host.
    pub(super) fn record_failure(&self, line: &Database) {
        if line.load_balance_hosts == LoadBalanceHosts::Disable {
            self.skip_host();
        }
    }

    /// Duration of the last login.
    pub(super) fn last_took(&self) -> Duration {
        self.last_took.get()
    }

    /// The place of the next host, counted without end, which is passed over.
    pub(super) fn skip_host(&self) -> usize {
        self.next_host.replace(self.next_host.get().wrapping_add(1))
    }

    /// The host of the next login, if the line has any.
    pub(super) fn select_host(&self, line: &Database) -> Option<Host> {
        let turn = match line.load_balance_hosts {
            LoadBalanceHosts::RoundRobin => self.skip_host(),
            LoadBalanceHosts::Disable => self.next_host.get(),
        };
        line.host.get(turn % line.host.len().max(1)).cloned()
    }

    /// Wakes the clients that wait for the end of a login.
    pub(super) fn notify_ended(&self) {
        self.ended.notify_all();
    }
}

impl Pool {
    /// Serves the waiting clients at `deadline`, unless an earlier attempt is due.
    pub(super) fn retry_at(self: &Rc<Self>, deadline: Instant) {
        if self.logins.retry_armed.replace(true) {
            return;
        }
        let pool = self.clone();
        executor::spawn(async move {
            timers::sleep_until(deadline).await;
            pool.logins.retry_armed.set(false);
            pool.connect_for_waiters();
        });
    }

    /// Waits until a login finishes, here or at another worker.
    pub async fn login_ended(&self) {
        self.logins.ended.wait().await;
    }
}
