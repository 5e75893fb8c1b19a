//! Moving servers between workers. Owns when a worker needs servers, and the transfer; `demand` chooses who gets one.
//!
//! While every worker has enough servers, none of this runs: a release reads one word that is not written meanwhile. A
//! worker in need (without a server, or with a client that has waited for [`PATIENCE`]) asks the workers with idle
//! servers and gets up to as many as it needs at once. A busy server moves on release, one at a time, only if the
//! clients here have waited much longer than those at its worker: when all workers are equally short of servers, none
//! moves.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::demand::InTransit;
use super::directory::Directory;
use super::lease::Lease;
use super::places::Full;
use super::shared_limits::Requester;
use crate::net::Inbound;
use crate::server::Server;
use crate::server::moving::DetachedServer;
use crate::worker::{self, executor, timers};
use std::rc::Rc;
use std::time::Duration;

/// How long a client waits before its worker asks the others.
const PATIENCE: Duration = Duration::from_millis(2);
/// Interval between attempts while clients wait.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

impl Pool {
    /// Runs a function on the pool with the same name at another worker.
    fn run_on(&self, worker: usize, action: impl FnOnce(&Rc<Self>) + Send + 'static) {
        self.rebalancer.run_on(worker, with_pool(&self.database.name, &self.user, action));
    }

    /// The same at all other workers.
    pub(super) fn run_on_others(&self, action: fn(&Rc<Self>)) {
        for worker in self.context.worker.others() {
            self.run_on(worker, action);
        }
    }

    /// A client waits and no server is available at once: with several workers, others may have one.
    pub(super) fn handle_shortage(self: &Rc<Self>, full: Full) {
        if self.context.worker.is_alone() || (full == Full::Pool && self.has_all_servers()) {
            return;
        }
        let waited = self.queue.waiting_since().map(|since| worker::now().saturating_duration_since(since));
        let has_none = self.table.count() == 0 && self.logins.under_way() == 0;
        if has_none || waited.is_some_and(|waited| waited >= PATIENCE) {
            self.request_servers(full);
        }
        self.retry_while_waiting();
    }

    /// True if no other worker has a server of the pool, or is opening one.
    fn has_all_servers(&self) -> bool {
        self.table.count() + self.logins.under_way() == self.shared.open.taken() as usize
    }

    /// Retries at short intervals as long as a client waits for a server that may become available.
    fn retry_while_waiting(self: &Rc<Self>) {
        if !self.rebalancer.begin_retrying() {
            return;
        }
        let pool = self.clone();
        executor::spawn(async move {
            loop {
                timers::sleep(RETRY_INTERVAL).await;
                if pool.database.is_paused() || !pool.queue.has_waiters() {
                    break;
                }
                pool.connect_for_waiters();
            }
            pool.rebalancer.end_retrying();
            pool.shared.demands.withdraw(pool.context.worker.index());
        });
    }

    /// Publishes how many servers are needed here and since when, and asks workers with idle ones.
    fn request_servers(&self, full: Full) {
        let (limits, demands) = (&self.context.process.limits, &self.shared.demands);
        let (waiting, since) = self.queue.waiting();
        let since_us = since.map(|since| limits.micros(since));
        let now_us = limits.micros(worker::now());
        if !demands.publish(self.context.worker.index(), waiting, since_us, now_us) {
            return;
        }
        if full != Full::Pool {
            return self.request_room(full);
        }
        for worker in self.context.worker.others().filter(|&worker| demands.has_idle(worker)) {
            self.run_on(worker, Self::donate_idle);
        }
    }

    /// True when another worker needs servers.
    #[inline]
    pub(super) fn is_needed_elsewhere(&self) -> bool {
        self.shared.demands.are_elsewhere(self.context.worker.index())
    }

    /// Gives idle servers to workers that need them.
    fn donate_idle(self: &Rc<Self>) {
        let demands = &self.shared.demands;
        while !self.queue.has_waiters() && !self.database.is_paused() {
            let Some(to) = demands.first_in_need(self.context.worker.others()) else { return };
            let Some(server) = self.take_idle() else { return };
            if server.info.overlap.is_login_under_way() {
                return self.keep(server);
            }
            if self.checks.is_due(&server) {
                // It is given away afterwards.
                return self.check(server);
            }
            if demands.promise(to) { self.send_to(to, server) } else { self.keep(server) }
        }
    }

    /// A limit that other pools share is full. A worker with an idle server of this pool gives it; another closes a
    /// server of a pool that shares the limit. One worker is asked at a time, since each of them might close one.
    pub(super) fn request_room(&self, full: Full) {
        let (workers, now) = (&self.context.worker, worker::now());
        if workers.is_alone() || self.rebalancer.is_pausing(now) || full == Full::Pool {
            return;
        }
        let Some(since) = self.first_waiting_since() else { return };
        let requester = workers.index();
        let next = self.rebalancer.next_to_ask(requester, workers.count(), now);
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        // The two servers to close may be at two workers; each then closes its own.
        let may_close_one = full == Full::UserAndDatabase
            && self.shared_limits.shared_pools().could_make_room_in_both(&database, &user);
        self.rebalancer.run_on(next, move |directory| {
            match directory.known_pool(&database, &user).filter(|pool| pool.idle_count() > 0) {
                Some(pool) => pool.donate_idle(),
                None => directory.make_room(
                    Requester { worker: requester, database, user, since },
                    full,
                    may_close_one,
                ),
            }
        });
    }

    /// Gives a released server to the worker whose clients have waited longest, if they precede those here. One server
    /// per published demand.
    ///
    /// # Errors
    /// Returns the server if the clients here precede.
    pub(super) fn donate_if_fair(self: &Rc<Self>, server: Box<Server>) -> Result<(), Box<Server>> {
        if server.info.overlap.is_login_under_way() {
            return Err(server);
        }
        let limits = &self.context.process.limits;
        let now_us = limits.micros(worker::now());
        let local_us = self.queue.waiting_since().map(|since| now_us.saturating_sub(limits.micros(since)));
        let demands = &self.shared.demands;
        let Some(to) = demands.take_precedence(self.context.worker.others(), now_us, local_us) else {
            return Err(server);
        };
        self.send_to(to, server);
        Ok(())
    }

    pub(super) fn send_to(self: &Rc<Self>, to: usize, server: Box<Server>) {
        let incoming = InTransit::begin(&self.shared, to);
        let outgoing = self.rebalancer.send();
        let pool = self.clone();
        executor::spawn(async move {
            // A server that does not read its last bytes would block this forever.
            let limit = pool.context.config().settings.server_connect_timeout;
            let packed = timers::timeout(limit, DetachedServer::pack(*server)).await;
            drop(outgoing);
            match packed {
                Some(Ok(packed)) => {
                    let (database, user) = (pool.database.name.to_string(), pool.user.to_string());
                    pool.rebalancer.run_on(to, move |directory| {
                        drop(incoming);
                        // The pool may be new there.
                        if let Some(database) = directory.database(&database) {
                            directory.pool(&database, &user).add_moved(packed);
                        }
                    });
                }
                Some(Err(error)) => tracing::debug!(%error, "could not move a server to another worker"),
                None => tracing::warn!("could not move a server to another worker: it does not read"),
            }
            pool.changed.notify_all();
        });
    }

    /// Adds a server that was moved from another worker. Returns it with what it had sent before.
    ///
    /// # Errors
    /// The worker cannot register the connection.
    pub fn adopt(self: &Rc<Self>, packed: DetachedServer) -> std::io::Result<(Lease, Inbound)> {
        let (server, received) = packed.unpack(&self.context.parameters, &self.context.statements)?;
        self.mark_if_outdated(&server);
        self.add_to_table(&server.info);
        Ok((Lease::new(self, Box::new(server)), received))
    }

    /// A lease of a server that [`Lease::into_server`] has taken.
    pub fn lend(self: &Rc<Self>, server: Box<Server>) -> Lease {
        Lease::new(self, server)
    }

    /// Adds an idle server that was moved from another worker.
    fn add_moved(self: &Rc<Self>, packed: DetachedServer) {
        match self.adopt(packed) {
            Ok((lease, _)) => lease.admit_again(),
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
            pool.close_oldest_idle(ServerCloseReason::Evicted);
        }
        self.shared_limits.try_again_at(&requester);
    }
}

/// A job for the pool with these names at the worker that runs it, which does nothing if there is no such pool.
pub(super) fn with_pool(
    database: &str,
    user: &str,
    action: impl FnOnce(&Rc<Pool>) + Send + 'static,
) -> impl FnOnce(&Rc<Directory>) + Send + 'static {
    let (database, user) = (database.to_owned(), user.to_owned());
    move |directory| {
        if let Some(pool) = directory.known_pool(&database, &user) {
            action(&pool);
        }
    }
}
