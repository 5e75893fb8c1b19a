//! Moving servers between workers. Owns when a worker needs servers, which worker gives it one, and the transfer.
//!
//! While every worker has enough servers, none of this runs: a release reads one word that is not written meanwhile. A
//! worker in need (without a server, or with a client that has waited for [`PATIENCE`]) asks the workers with idle
//! servers and gets up to as many as it needs at once. A busy server moves on release, one at a time, only if the
//! clients here have waited much longer than those at its worker: when all workers are equally short of servers, none
//! moves.

use super::acquire::Pool;
use super::directory::Directory;
use super::places::Full;
use super::shared::{Demand, SharedPool};
use super::shared_limits::Requester;
use crate::server::Server;
use crate::server::moving::DetachedServer;
use crate::worker::mailbox::Job;
use crate::worker::{self, executor, home, timers};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client waits before its worker asks the others.
const PATIENCE: Duration = Duration::from_millis(2);
/// Waiting clients elsewhere get a busy server first if they have waited twice as long and this much longer. Waits at
/// the workers of a busy machine differ by less than this by chance.
const MARGIN: Duration = Duration::from_millis(10);
/// A demand expires unless it is renewed within this time: its worker has what it needed, or is not getting CPU time.
const DEMAND_TTL: Duration = Duration::from_millis(4);
/// Interval between requests for room in a full database.
const ROOM_PAUSE: Duration = Duration::from_millis(2);
/// Interval between attempts while clients wait.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// A server being moved to a worker.
struct InTransit {
    shared: Arc<SharedPool>,
    to: usize,
}

impl Drop for InTransit {
    fn drop(&mut self) {
        self.shared.demands[self.to].incoming.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Demand {
    /// Promises one idle server. False when all demand has been promised.
    fn promise(&self) -> bool {
        let wanted = &self.wanted;
        let one_less =
            wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |wanted| wanted.checked_sub(1));
        one_less.is_ok()
    }

    /// How long the first client has waited, if the demand has not expired.
    fn waited_us(&self, now_us: u64) -> Option<u64> {
        let is_fresh = now_us.saturating_sub(self.published_us.load(Ordering::Acquire)) <= micros(DEMAND_TTL);
        is_fresh.then(|| now_us.saturating_sub(self.since_us.load(Ordering::Acquire)))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// True if clients elsewhere, the first of which has waited for `remote_us`, get a busy server on release before those
/// here, the first of which has waited for `local_us`.
fn takes_precedence(remote_us: u64, local_us: Option<u64>) -> bool {
    local_us.is_none_or(|local_us| remote_us >= 2 * local_us + micros(MARGIN))
}

impl Pool {
    fn own_bit(&self) -> u64 {
        1 << self.context.workers.index()
    }

    /// Runs a function on the pool with the same name at another worker.
    fn run_on(&self, worker: usize, action: impl FnOnce(&Rc<Self>) + Send + 'static) {
        let job = with_pool(&self.database.name, &self.user, action);
        // A worker that has stopped or is overloaded cannot help. A server in the job is closed with it.
        drop(self.context.workers.run_on(worker, job));
    }

    /// The same at all other workers.
    pub(super) fn run_on_others(&self, action: fn(&Rc<Self>)) {
        for worker in self.context.workers.others() {
            self.run_on(worker, action);
        }
    }

    /// A client waits and no server is available at once: with several workers, others may have one.
    pub(super) fn handle_shortage(self: &Rc<Self>, full: Full) {
        if self.context.workers.is_alone() {
            return;
        }
        let waited = self.waiting_since().map(|since| worker::now().saturating_duration_since(since));
        let has_none = self.table.count() == 0 && self.logins.get() == 0;
        if has_none || waited.is_some_and(|waited| waited >= PATIENCE) {
            self.request_servers(full);
        }
        self.retry_while_waiting();
    }

    /// Retries at short intervals as long as a client waits for a server that may become available.
    fn retry_while_waiting(self: &Rc<Self>) {
        if self.is_retrying.replace(true) {
            return;
        }
        let pool = self.clone();
        executor::spawn(async move {
            loop {
                timers::sleep(RETRY_INTERVAL).await;
                if pool.database.paused.get() || !pool.has_waiters() {
                    break;
                }
                pool.connect_for_waiters();
            }
            pool.is_retrying.set(false);
            pool.clear_request();
        });
    }

    /// Publishes how many servers are needed here and since when, and asks workers with idle ones.
    fn request_servers(&self, full: Full) {
        let demand = &self.shared.demands[self.context.workers.index()];
        // Logins under way are not counted: they may hang or be refused.
        let wanted = self.waiting().0.saturating_sub(demand.incoming.load(Ordering::Acquire) as usize);
        if wanted == 0 {
            return;
        }
        if let Some(since) = self.waiting_since() {
            demand.since_us.store(self.context.process.limits.micros(since), Ordering::Release);
        }
        demand.published_us.store(self.context.process.limits.micros(worker::now()), Ordering::Release);
        demand.wanted.store(wanted as u32, Ordering::Release);
        self.shared.starving.fetch_or(self.own_bit(), Ordering::AcqRel);
        if full != Full::Pool {
            return self.request_room(full);
        }
        for worker in self.context.workers.others() {
            if self.shared.demands[worker].idle.load(Ordering::Acquire) > 0 {
                self.run_on(worker, Self::donate_idle);
            }
        }
    }

    /// No client waits here any more.
    fn clear_request(&self) {
        self.shared.demands[self.context.workers.index()].wanted.store(0, Ordering::Release);
        self.shared.starving.fetch_and(!self.own_bit(), Ordering::AcqRel);
    }

    /// True when another worker needs servers. One load, at every release.
    #[inline]
    pub(super) fn is_needed_elsewhere(&self) -> bool {
        self.shared.starving.load(Ordering::Relaxed) & !self.own_bit() != 0
    }

    /// Gives idle servers to workers that need them.
    fn donate_idle(self: &Rc<Self>) {
        while !self.has_waiters() && !self.database.paused.get() {
            let demands = &self.shared.demands;
            let Some(to) = self
                .context
                .workers
                .others()
                .filter(|&worker| demands[worker].wanted.load(Ordering::Acquire) > 0)
                .min_by_key(|&worker| demands[worker].since_us.load(Ordering::Acquire))
            else {
                return;
            };
            let Some(server) = self.take_idle() else { return };
            if server.info.overlaps.get() {
                return self.keep(server);
            }
            if demands[to].promise() { self.send_to(to, server) } else { self.keep(server) }
        }
    }

    /// A limit that other pools share is full. A worker with an idle server of this pool gives it; another closes a
    /// server of a pool that shares the limit. One worker is asked at a time, since each of them might close one.
    pub(super) fn request_room(&self, full: Full) {
        let (workers, now) = (&self.context.workers, worker::now());
        let is_pausing =
            self.room_requested_at.get().is_some_and(|at| now.saturating_duration_since(at) < ROOM_PAUSE);
        if workers.is_alone() || is_pausing || full == Full::Pool {
            return;
        }
        let Some(since) = self.first_waiting_since() else { return };
        self.room_requested_at.set(Some(now));
        let requester = workers.index();
        let next = 1 + self.room_requested_from.get() % (workers.len() - 1);
        self.room_requested_from.set(next);
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        // The two servers to close may be at two workers; each then closes its own.
        let may_close_one = full == Full::UserAndDatabase
            && self.shared_limits.shared_pools().could_make_room_in_both(&database, &user);
        let job = move || {
            let Some(home) = home::get::<Directory>() else { return };
            match home.known_pool(&database, &user).filter(|pool| pool.idle_count() > 0) {
                Some(pool) => pool.donate_idle(),
                None => home.make_room(
                    Requester { worker: requester, database, user, since },
                    full,
                    may_close_one,
                ),
            }
        };
        drop(workers.run_on((requester + next) % workers.len(), Box::new(job)));
    }

    /// Gives a released server to the worker whose clients have waited longest, if they precede those here. One server
    /// per published demand.
    ///
    /// # Errors
    /// Returns the server if the clients here precede.
    pub(super) fn donate_if_fair(self: &Rc<Self>, server: Box<Server>) -> Result<(), Box<Server>> {
        if server.info.overlaps.get() {
            return Err(server);
        }
        let limits = &self.context.process.limits;
        let now_us = limits.micros(worker::now());
        let local_us = self.waiting_since().map(|since| now_us.saturating_sub(limits.micros(since)));
        let starving = self.shared.starving.load(Ordering::Acquire);
        let neediest = self
            .context
            .workers
            .others()
            .filter(|&worker| starving & (1 << worker) != 0)
            .filter_map(|worker| Some((self.shared.demands[worker].waited_us(now_us)?, worker)))
            .max();
        match neediest {
            Some((remote_us, to)) if takes_precedence(remote_us, local_us) => {
                let bit = 1 << to;
                if self.shared.starving.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
                    // Another worker was faster.
                    return Err(server);
                }
                self.send_to(to, server);
                Ok(())
            }
            _ => Err(server),
        }
    }

    fn send_to(self: &Rc<Self>, to: usize, server: Box<Server>) {
        self.shared.demands[to].incoming.fetch_add(1, Ordering::AcqRel);
        let incoming = InTransit { shared: self.shared.clone(), to };
        self.outgoing.set(self.outgoing.get() + 1);
        let pool = self.clone();
        executor::spawn(async move {
            // A server that does not read its last bytes would block this forever.
            let limit = pool.context.config().settings.server_connect_timeout;
            let packed = timers::timeout(limit, DetachedServer::pack(*server)).await;
            pool.outgoing.set(pool.outgoing.get() - 1);
            match packed {
                Some(Ok(packed)) => pool.run_on(to, |pool| {
                    drop(incoming);
                    pool.add_moved(packed);
                }),
                Some(Err(error)) => tracing::debug!(%error, "could not move a server to another worker"),
                None => tracing::warn!("could not move a server to another worker: it does not read"),
            }
            pool.changed.notify_all();
        });
    }

    /// Adds a server that was moved from another worker.
    fn add_moved(self: &Rc<Self>, packed: DetachedServer) {
        match packed.unpack(&self.context.parameters, &self.context.statements) {
            Ok(server) => {
                self.mark_if_outdated(&server);
                self.table.add(&server.info);
                self.admit(Box::new(server), worker::now());
            }
            Err(error) => tracing::warn!(%error, "could not use a server moved from another worker"),
        }
    }
}

impl Directory {
    /// Closes idle servers that hold places another worker needs, or records its claim.
    fn make_room(&self, requester: Requester, full: Full, may_close_one: bool) {
        let of_user = full
            .of_user()
            .then(|| self.shared_limits.longest_idle_of_user(&requester.user, &requester.database));
        let of_database = full.of_database().then(|| {
            self.known(&requester.database).and_then(|database| database.longest_idle_except(&requester.user))
        });
        let wanted: Vec<_> = of_user.into_iter().chain(of_database).collect();
        let found: Vec<_> = wanted.iter().flatten().collect();
        if found.is_empty() || (found.len() < wanted.len() && !may_close_one) {
            return self.shared_limits.claim_elsewhere(requester, full);
        }
        for pool in found {
            pool.close_oldest_idle();
        }
        self.try_again_at(&requester);
    }

    /// Lets a pool of another worker try to get the place that its clients wait for.
    pub(super) fn try_again_at(&self, requester: &Requester) {
        let job = with_pool(&requester.database, &requester.user, Pool::try_again);
        drop(self.context.workers.run_on(requester.worker, job));
    }
}

/// A job for the pool with these names at the worker that runs it; dropped if there is no such pool.
fn with_pool(database: &str, user: &str, action: impl FnOnce(&Rc<Pool>) + Send + 'static) -> Job {
    let (database, user) = (database.to_owned(), user.to_owned());
    Box::new(move || {
        if let Some(pool) = home::get::<Directory>().and_then(|home| home.known_pool(&database, &user)) {
            action(&pool);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_longer_waits_take_precedence() {
        assert!(takes_precedence(0, None));
        assert!(!takes_precedence(micros(MARGIN), Some(1)));
        assert!(takes_precedence(micros(MARGIN) + 2, Some(1)));
        // Equal waits never move a server, so it cannot go back and forth.
        for waited in [0, 10, 1_000_000] {
            assert!(!takes_precedence(waited, Some(waited)));
        }
    }

    #[test]
    fn promised_servers_do_not_exceed_the_demand() {
        let demand = Demand::default();
        demand.wanted.store(2, Ordering::Release);
        assert!(demand.promise() && demand.promise() && !demand.promise());
    }

    #[test]
    fn an_old_demand_expires() {
        let demand = Demand::default();
        demand.since_us.store(1_000, Ordering::Release);
        demand.published_us.store(20_000, Ordering::Release);
        assert_eq!(demand.waited_us(21_000), Some(20_000));
        assert_eq!(demand.waited_us(20_001 + micros(DEMAND_TTL)), None);
    }
}
