//! Unused pools and databases. Owns when all workers drop them: `autodb_idle_timeout` after their last use, pools also
//! after `pool_idle_timeout`, or at once
//! if no server has ever logged in. Their counters stay with the database for as long as it exists.

use super::acquire::Pool;
use super::directory::{DatabaseState, Directory};
use crate::stats::Totals;
use crate::worker;
use std::ops::Bound;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// References to a pool that is not in use: only the directory's.
const UNUSED_HOLDERS: usize = 1;

impl Pool {
    /// True while a client, a task or a server uses it, here or at another worker, or while a failure is remembered.
    fn is_needed(self: &Rc<Self>, holders: usize) -> bool {
        Rc::strong_count(self) > holders || self.shared.open.taken() > 0 || self.is_backing_off()
    }

    /// True if the workers are about to drop it.
    pub fn is_forgotten(&self) -> bool {
        self.shared.is_forgotten()
    }

    /// True if there is nothing to remember about it. Any client that may log in can request pools for names that no
    /// server accepts.
    fn has_no_history(&self) -> bool {
        self.stats.totals() == Totals::default() && self.shared.server_parameters().is_none()
    }
}

impl DatabaseState {
    /// Counters of its dropped pools at this worker.
    pub fn retired(&self) -> Totals {
        self.retired.get()
    }

    fn is_needed(&self) -> bool {
        let is_used = self.clients.taken() > 0 || self.open.taken() > 0;
        if is_used {
            self.used_at.set(worker::now());
        }
        is_used || self.paused.get() || self.disabled.get() || !self.is_auto.get()
    }
}

fn is_over(timeout: Duration, now: Instant, last_use: Instant) -> bool {
    !timeout.is_zero() && now.saturating_duration_since(last_use) >= timeout
}

/// The shorter of two time limits, of which zero means none.
fn shorter(a: Duration, b: Duration) -> Duration {
    if a.is_zero() || b.is_zero() { a.max(b) } else { a.min(b) }
}

impl Directory {
    /// How long a pool may be unused before it is dropped; zero means forever.
    pub fn time_to_forget(&self) -> Duration {
        let config = self.context.config();
        shorter(config.settings.autodb_idle_timeout, config.settings.pool_idle_timeout)
    }

    /// True if this pool is the one that all workers have registered under its name.
    pub(super) fn is_still_known(&self, pool: &Rc<Pool>) -> bool {
        let limits = &self.context.process.limits;
        let current = || self.shared_limits.shared_pools().pool(limits, &pool.database.name, &pool.user);
        pool.shared.record_use(limits.micros(worker::now()))
            || std::sync::Arc::ptr_eq(&current(), &pool.shared)
    }

    /// Removes a pool; its counters are kept.
    pub(super) fn drop_pool(&self, pool: &Rc<Pool>) {
        let database = &pool.database;
        database.retired.set(database.retired.get() + pool.stats.totals());
        // Its counters have been added already.
        database.pools.borrow_mut().retain(|other| !std::ptr::eq(other.as_ptr(), Rc::as_ptr(pool)));
        self.pools.borrow_mut().remove(&(database.name.clone(), pool.user.clone()));
    }

    /// Drops unused pools, of the next `most` in turn, and likewise databases that were created from the `*` line.
    pub fn forget_unused(&self, most: usize) {
        let gone = self.unused_pools(self.time_to_forget(), most);
        for pool in &gone {
            self.drop_pool(pool);
        }
        let any_dropped = !gone.is_empty();
        drop(gone);
        self.forget_databases(self.context.config().settings.autodb_idle_timeout, most);
        if any_dropped {
            self.shared_limits.forget_gone();
            self.shared_limits.shared_pools().forget_gone();
            self.context.process.limits.forget_unused();
        }
    }

    fn forget_databases(&self, timeout: Duration, most: usize) {
        let now = worker::now();
        let is_kept = |database: &Rc<DatabaseState>| {
            let has_no_history = || database.retired.get() == Totals::default();
            database.is_needed()
                || !database.pools.borrow().is_empty()
                || !(has_no_history() || is_over(timeout, now, database.used_at.get()))
        };
        let mut databases = self.databases.borrow_mut();
        let from = self.last_database.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut next = databases.range::<Rc<str>, _>((from, Bound::Unbounded));
        let checked: Vec<_> =
            next.by_ref().take(most).map(|(name, state)| (name.clone(), is_kept(state))).collect();
        if next.next().is_some() {
            *self.last_database.borrow_mut() = checked.last().map(|(name, _)| name.clone());
        }
        for (name, _) in checked.iter().filter(|(_, is_kept)| !is_kept) {
            databases.remove(name);
        }
    }

    /// The pools to drop now, of the next `most`. A pool is marked first and dropped one round later, so that sums over all
    /// workers include all of it or nothing.
    fn unused_pools(&self, timeout: Duration, most: usize) -> Vec<Rc<Pool>> {
        let limits = &self.context.process.limits;
        let now_us = limits.micros(worker::now());
        let timeout_us = timeout.as_micros() as u64;
        let mut gone = Vec::new();
        let pools = self.pools.borrow();
        let from = self.last_checked.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut next = pools.range((from, Bound::Unbounded));
        let mut last = None;
        for (key, pool) in next.by_ref().take(most) {
            last = Some(key);
            if pool.is_needed(UNUSED_HOLDERS) {
                pool.shared.record_use(now_us);
            } else if pool.has_no_history() || pool.shared.is_forgotten() {
                gone.push(pool.clone());
            } else if timeout_us > 0
                && let Some(oldest_us) = now_us.checked_sub(timeout_us)
                && pool.shared.last_use_us() <= oldest_us
            {
                self.shared_limits.shared_pools().forget(
                    &pool.database.name,
                    &pool.user,
                    &pool.shared,
                    oldest_us,
                );
            }
        }
        if next.next().is_some() {
            *self.last_checked.borrow_mut() = last.cloned();
        }
        gone
    }
}
