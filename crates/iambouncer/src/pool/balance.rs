//! Servers between workers. Owns when a worker is in demand, who gives it a server, and the way there.
//!
//! While every worker has servers enough nothing of this runs: a release reads one word that nobody writes. A worker
//! in demand (no server at all, or a client that has waited for [`PATIENCE`]) asks those that have idle servers, and
//! gets as many as it wants at once. A server that becomes free comes only when the clients here have waited much
//! longer than those where it is, and one at a time: when all workers are short of servers alike, none moves.

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
/// Clients that wait for a busy server let others go first who have waited twice as long as they and this much more.
/// It is above what workers of a busy machine differ by for no reason of theirs.
const MARGIN: Duration = Duration::from_millis(10);
/// A demand that was not told anew for so long is not believed: its worker has what it wanted, or gets no time to run.
const DEMAND_LIFE: Duration = Duration::from_millis(4);
/// Time between two requests for room in a full database.
const ROOM_PAUSE: Duration = Duration::from_millis(2);
/// Time between two looks while clients wait.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A place among the servers on their way to a worker.
struct InTransit {
    shared: Arc<SharedPool>,
    to: usize,
}

impl Drop for InTransit {
    fn drop(&mut self) {
        self.shared.demands[self.to].coming.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Demand {
    /// Promises one idle server. False when enough are promised.
    fn promise(&self) -> bool {
        let wanted = &self.wanted;
        let one_less =
            wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |wanted| wanted.checked_sub(1));
        one_less.is_ok()
    }

    /// How long the first client has waited, if the worker has said so lately.
    fn waited_us(&self, now_us: u64) -> Option<u64> {
        let is_fresh = now_us.saturating_sub(self.told_us.load(Ordering::Acquire)) <= micros(DEMAND_LIFE);
        is_fresh.then(|| now_us.saturating_sub(self.since_us.load(Ordering::Acquire)))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// Whether clients elsewhere, the first of whom has waited for `there_us`, get a busy server that becomes free before
/// those here, the first of whom has waited for `here_us`.
fn goes_first(there_us: u64, here_us: Option<u64>) -> bool {
    here_us.is_none_or(|here_us| there_us >= 2 * here_us + micros(MARGIN))
}

impl Pool {
    fn own_bit(&self) -> u64 {
        1 << self.context.workers.index()
    }

    /// Has something done with the pool of the same name of another worker.
    fn run_on(&self, worker: usize, what: impl FnOnce(&Rc<Self>) + Send + 'static) {
        let job = with_pool(&self.database.name, &self.user, what);
        // One that has ended, or is flooded, cannot help. A server on its way to it is closed with the job.
        drop(self.context.workers.run_on(worker, job));
    }

    /// The same, at all other workers.
    pub(super) fn run_on_others(&self, what: fn(&Rc<Self>)) {
        for worker in self.context.workers.others() {
            self.run_on(worker, what);
        }
    }

    /// A client waits, and no server is there at once. With other workers there are other ways.
    pub(super) fn note_shortage(self: &Rc<Self>, full: Full) {
        if self.context.workers.is_alone() {
            return;
        }
        let waited = self.waiting_since().map(|since| worker::now().saturating_duration_since(since));
        let has_none = self.table.count() == 0 && self.logins.get() == 0;
        if has_none || waited.is_some_and(|waited| waited >= PATIENCE) {
            self.request_servers(full);
        }
        self.look_again();
    }

    /// Looks again every moment, as long as somebody waits for a server that could be there.
    fn look_again(self: &Rc<Self>) {
        if self.looks_again.replace(true) {
            return;
        }
        let pool = self.clone();
        executor::spawn(async move {
            loop {
                timers::sleep(LOOK_AGAIN).await;
                if pool.database.paused.get() || !pool.has_waiters() {
                    break;
                }
                pool.connect_for_waiters();
            }
            pool.looks_again.set(false);
            pool.clear_request();
        });
    }

    /// Says how many servers are wanted here and since when, and asks whoever has one to spare.
    fn request_servers(&self, full: Full) {
        let demand = &self.shared.demands[self.context.workers.index()];
        // Logins under way are not counted on: they may hang, or be refused.
        let wanted = self.waiting().0.saturating_sub(demand.coming.load(Ordering::Acquire) as usize);
        if wanted == 0 {
            return;
        }
        if let Some(since) = self.waiting_since() {
            demand.since_us.store(self.context.process.limits.micros(since), Ordering::Release);
        }
        demand.told_us.store(self.context.process.limits.micros(worker::now()), Ordering::Release);
        demand.wanted.store(wanted as u32, Ordering::Release);
        self.shared.starving.fetch_or(self.own_bit(), Ordering::AcqRel);
        if full != Full::Pool {
            return self.ask_for_room(full);
        }
        for worker in self.context.workers.others() {
            if self.shared.demands[worker].idle.load(Ordering::Acquire) > 0 {
                self.run_on(worker, Self::help);
            }
        }
    }

    /// Nobody waits here any more.
    fn clear_request(&self) {
        self.shared.demands[self.context.workers.index()].wanted.store(0, Ordering::Release);
        self.shared.starving.fetch_and(!self.own_bit(), Ordering::AcqRel);
    }

    /// True when another worker is in demand. One load, at every release.
    #[inline]
    pub(super) fn is_needed_elsewhere(&self) -> bool {
        self.shared.starving.load(Ordering::Relaxed) & !self.own_bit() != 0
    }

    /// Gives idle servers to workers in demand.
    fn help(self: &Rc<Self>) {
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

    /// A limit is full that other pools share. A worker that has an idle server of this pool gives it; another closes one
    /// of a pool that shares the limit. One worker is asked at a time, since each of them might close one.
    pub(super) fn ask_for_room(&self, full: Full) {
        let (workers, now) = (&self.context.workers, worker::now());
        let pausing =
            self.asked_for_room_at.get().is_some_and(|at| now.saturating_duration_since(at) < ROOM_PAUSE);
        if workers.is_alone() || pausing || full == Full::Pool {
            return;
        }
        let Some(since) = self.anybody_waiting_since() else { return };
        self.asked_for_room_at.set(Some(now));
        let requester = workers.index();
        let next = 1 + self.asked_for_room.get() % (workers.len() - 1);
        self.asked_for_room.set(next);
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        // The two servers that have to go may be at two workers. Then each closes its own.
        let may_close_one = full == Full::UserAndDatabase
            && self.shared_limits.shared_pools().could_make_room_in_both(&database, &user);
        let job = move || {
            let Some(home) = home::get::<Directory>() else { return };
            match home.known_pool(&database, &user).filter(|pool| pool.idle_count() > 0) {
                Some(pool) => pool.help(),
                None => home.make_room(
                    Requester { worker: requester, database, user, since },
                    full,
                    may_close_one,
                ),
            }
        };
        drop(workers.run_on((requester + next) % workers.len(), Box::new(job)));
    }

    /// Gives a server that has become free to the worker whose clients have waited longest, if they go before those
    /// here. One server for each time that worker has said so.
    ///
    /// # Errors
    /// They do not: the server comes back.
    pub(super) fn donate_if_fair(self: &Rc<Self>, server: Box<Server>) -> Result<(), Box<Server>> {
        if server.info.overlaps.get() {
            return Err(server);
        }
        let limits = &self.context.process.limits;
        let now_us = limits.micros(worker::now());
        let here = self.waiting_since().map(|since| now_us.saturating_sub(limits.micros(since)));
        let starving = self.shared.starving.load(Ordering::Acquire);
        let neediest = self
            .context
            .workers
            .others()
            .filter(|&worker| starving & (1 << worker) != 0)
            .filter_map(|worker| Some((self.shared.demands[worker].waited_us(now_us)?, worker)))
            .max();
        match neediest {
            Some((there, to)) if goes_first(there, here) => {
                let bit = 1 << to;
                if self.shared.starving.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
                    // Somebody else was faster.
                    return Err(server);
                }
                self.send_to(to, server);
                Ok(())
            }
            _ => Err(server),
        }
    }

    fn send_to(self: &Rc<Self>, to: usize, server: Box<Server>) {
        self.shared.demands[to].coming.fetch_add(1, Ordering::AcqRel);
        let coming = InTransit { shared: self.shared.clone(), to };
        self.leaving.set(self.leaving.get() + 1);
        let pool = self.clone();
        executor::spawn(async move {
            // A server that does not read its last bytes would hold this up for ever.
            let limit = pool.context.config().settings.server_connect_timeout;
            let packed = timers::timeout(limit, DetachedServer::pack(*server)).await;
            pool.leaving.set(pool.leaving.get() - 1);
            match packed {
                Some(Ok(packed)) => pool.run_on(to, |pool| {
                    drop(coming);
                    pool.take_in(packed);
                }),
                Some(Err(error)) => tracing::debug!(%error, "a server could not go to another worker"),
                None => tracing::warn!("a server could not go to another worker: it does not read"),
            }
            pool.changed.notify_all();
        });
    }

    /// A server has come from another worker.
    fn take_in(self: &Rc<Self>, packed: DetachedServer) {
        match packed.unpack(&self.context.parameters, &self.context.statements) {
            Ok(server) => {
                self.note_changes(&server);
                self.table.add(&server.info);
                self.admit(Box::new(server));
            }
            Err(error) => tracing::warn!(%error, "a server from another worker could not be used"),
        }
    }
}

impl Directory {
    /// Closes idle servers that take up places another worker wants, or remembers that they are wanted.
    fn make_room(&self, requester: Requester, full: Full, may_close_one: bool) {
        let of_user = full
            .of_user()
            .then(|| self.shared_limits.longest_idle_of_user(&requester.user, &requester.database));
        let of_database = full.of_database().then(|| {
            self.known(&requester.database).and_then(|database| database.longest_idle_but(&requester.user))
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

    /// The pool of another worker may find the place that its clients wait for.
    pub(super) fn try_again_at(&self, requester: &Requester) {
        let job = with_pool(&requester.database, &requester.user, Pool::try_again);
        drop(self.context.workers.run_on(requester.worker, job));
    }
}

/// An job for the pool of these names at whatever worker it comes to; without such a pool there it is dropped.
fn with_pool(database: &str, user: &str, what: impl FnOnce(&Rc<Pool>) + Send + 'static) -> Job {
    let (database, user) = (database.to_owned(), user.to_owned());
    Box::new(move || {
        if let Some(pool) = home::get::<Directory>().and_then(|home| home.known_pool(&database, &user)) {
            what(&pool);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_much_longer_goes_first() {
        assert!(goes_first(0, None));
        assert!(!goes_first(micros(MARGIN), Some(1)));
        assert!(goes_first(micros(MARGIN) + 2, Some(1)));
        // Between equals nobody goes first, so a server never goes to and fro.
        for waited in [0, 10, 1_000_000] {
            assert!(!goes_first(waited, Some(waited)));
        }
    }

    #[test]
    fn no_more_servers_are_promised_than_wanted() {
        let demand = Demand::default();
        demand.wanted.store(2, Ordering::Release);
        assert!(demand.promise() && demand.promise() && !demand.promise());
    }

    #[test]
    fn a_need_told_long_ago_is_not_believed() {
        let demand = Demand::default();
        demand.since_us.store(1_000, Ordering::Release);
        demand.told_us.store(20_000, Ordering::Release);
        assert_eq!(demand.waited_us(21_000), Some(20_000));
        assert_eq!(demand.waited_us(20_001 + micros(DEMAND_LIFE)), None);
    }
}
