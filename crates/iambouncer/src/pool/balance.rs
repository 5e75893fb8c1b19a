//! Servers between workers. Owns when a worker is in need, who gives it a server, and the way there.
//!
//! While every worker has servers enough nothing of this runs: a release reads one word that nobody writes. A worker
//! in need (no server at all, or a client that has waited for [`PATIENCE`]) asks those that have idle servers, and
//! gets as many as it wants at once. A server that becomes free comes only when the clients here have waited much
//! longer than those where it is, and one at a time: when all workers are short of servers alike, none moves.

use super::directory::Directory;
use super::lending::Pool;
use super::neighbours::Asker;
use super::places::Full;
use super::shared::{Need, SharedPool};
use crate::server::Server;
use crate::server::moving::Packed;
use crate::worker::mailbox::Errand;
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
/// A need that was not told anew for so long is not believed: its worker has what it wanted, or gets no time to run.
const NEED_LIFE: Duration = Duration::from_millis(4);
/// Time between two requests for room in a full database.
const ROOM_PAUSE: Duration = Duration::from_millis(2);
/// Time between two looks while clients wait.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A place among the servers on their way to a worker.
struct Coming {
    shared: Arc<SharedPool>,
    to: usize,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.shared.needs[self.to].coming.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Need {
    /// Promises one idle server. False when enough are promised.
    fn promise(&self) -> bool {
        let wanted = &self.wanted;
        let one_less =
            wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |wanted| wanted.checked_sub(1));
        one_less.is_ok()
    }

    /// How long the first client has waited, if the worker has said so lately.
    fn waited_us(&self, now_us: u64) -> Option<u64> {
        let is_fresh = now_us.saturating_sub(self.told_us.load(Ordering::Acquire)) <= micros(NEED_LIFE);
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
    fn my_bit(&self) -> u64 {
        1 << self.context.team.me()
    }

    /// Has something done with the pool of the same name of another worker.
    fn tell(&self, worker: usize, what: impl FnOnce(&Rc<Self>) + Send + 'static) {
        let errand = with_pool(&self.database.name, &self.user, what);
        // One that has ended, or is flooded, cannot help. A server on its way to it is closed with the errand.
        drop(self.context.team.tell(worker, errand));
    }

    /// The same, at all other workers.
    pub(super) fn tell_others(&self, what: fn(&Rc<Self>)) {
        for worker in self.context.team.others() {
            self.tell(worker, what);
        }
    }

    /// A client waits, and no server is there at once. With other workers there are other ways.
    pub(super) fn note_shortage(self: &Rc<Self>, full: Full) {
        if self.context.team.is_alone() {
            return;
        }
        let waited = self.waiting_since().map(|since| worker::now().saturating_duration_since(since));
        let has_none = self.table.count() == 0 && self.logins.get() == 0;
        if has_none || waited.is_some_and(|waited| waited >= PATIENCE) {
            self.cry(full);
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
                pool.grow();
            }
            pool.looks_again.set(false);
            pool.calm_down();
        });
    }

    /// Says how many servers are wanted here and since when, and asks whoever has one to spare.
    fn cry(&self, full: Full) {
        let need = &self.shared.needs[self.context.team.me()];
        // Logins under way are not counted on: they may hang, or be refused.
        let wanted = self.waiting().0.saturating_sub(need.coming.load(Ordering::Acquire) as usize);
        if wanted == 0 {
            return;
        }
        if let Some(since) = self.waiting_since() {
            need.since_us.store(self.context.registry.micros(since), Ordering::Release);
        }
        need.told_us.store(self.context.registry.micros(worker::now()), Ordering::Release);
        need.wanted.store(wanted as u32, Ordering::Release);
        self.shared.hungry.fetch_or(self.my_bit(), Ordering::AcqRel);
        if full != Full::Pool {
            return self.ask_for_room(full);
        }
        for worker in self.context.team.others() {
            if self.shared.needs[worker].idle.load(Ordering::Acquire) > 0 {
                self.tell(worker, Self::help);
            }
        }
    }

    /// Nobody waits here any more.
    fn calm_down(&self) {
        self.shared.needs[self.context.team.me()].wanted.store(0, Ordering::Release);
        self.shared.hungry.fetch_and(!self.my_bit(), Ordering::AcqRel);
    }

    /// True when another worker is in need. One load, at every release.
    #[inline]
    pub(super) fn is_needed_elsewhere(&self) -> bool {
        self.shared.hungry.load(Ordering::Relaxed) & !self.my_bit() != 0
    }

    /// Gives idle servers to workers in need.
    fn help(self: &Rc<Self>) {
        while !self.has_waiters() && !self.database.paused.get() {
            let needs = &self.shared.needs;
            let Some(to) = self
                .context
                .team
                .others()
                .filter(|&worker| needs[worker].wanted.load(Ordering::Acquire) > 0)
                .min_by_key(|&worker| needs[worker].since_us.load(Ordering::Acquire))
            else {
                return;
            };
            let Some(server) = self.take_idle() else { return };
            if server.info.yields.get() {
                return self.keep(server);
            }
            if needs[to].promise() { self.send_to(to, server) } else { self.keep(server) }
        }
    }

    /// A limit is full that other pools share. A worker that has an idle server of this pool gives it; another closes one
    /// of a pool that shares the limit. One worker is asked at a time, since each of them might close one.
    pub(super) fn ask_for_room(&self, full: Full) {
        let (team, now) = (&self.context.team, worker::now());
        let pausing =
            self.asked_for_room_at.get().is_some_and(|at| now.saturating_duration_since(at) < ROOM_PAUSE);
        if team.is_alone() || pausing || full == Full::Pool {
            return;
        }
        let Some(since) = self.anybody_waiting_since() else { return };
        self.asked_for_room_at.set(Some(now));
        let asker = team.me();
        let next = 1 + self.asked_for_room.get() % (team.len() - 1);
        self.asked_for_room.set(next);
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        // The two servers that have to go may be at two workers. Then each closes its own.
        let may_close_one =
            full == Full::UserAndDatabase && self.context.registry.could_make_room_in_both(&database, &user);
        let errand = move || {
            let Some(home) = home::get::<Directory>() else { return };
            match home.known_pool(&database, &user).filter(|pool| pool.idle_count() > 0) {
                Some(pool) => pool.help(),
                None => home.make_room(Asker { worker: asker, database, user, since }, full, may_close_one),
            }
        };
        drop(team.tell((asker + next) % team.len(), Box::new(errand)));
    }

    /// Gives a server that has become free to the worker whose clients have waited longest, if they go before those
    /// here. One server for each time that worker has said so.
    ///
    /// # Errors
    /// They do not: the server comes back.
    pub(super) fn donate_if_fair(self: &Rc<Self>, server: Box<Server>) -> Result<(), Box<Server>> {
        if server.info.yields.get() {
            return Err(server);
        }
        let registry = &self.context.registry;
        let now_us = registry.micros(worker::now());
        let here = self.waiting_since().map(|since| now_us.saturating_sub(registry.micros(since)));
        let hungry = self.shared.hungry.load(Ordering::Acquire);
        let neediest = self
            .context
            .team
            .others()
            .filter(|&worker| hungry & (1 << worker) != 0)
            .filter_map(|worker| Some((self.shared.needs[worker].waited_us(now_us)?, worker)))
            .max();
        match neediest {
            Some((there, to)) if goes_first(there, here) => {
                let bit = 1 << to;
                if self.shared.hungry.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
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
        self.shared.needs[to].coming.fetch_add(1, Ordering::AcqRel);
        let coming = Coming { shared: self.shared.clone(), to };
        self.leaving.set(self.leaving.get() + 1);
        let pool = self.clone();
        executor::spawn(async move {
            // A server that does not read its last bytes would hold this up for ever.
            let limit = pool.context.config().settings.server_connect_timeout;
            let packed = timers::timeout(limit, Packed::pack(*server)).await;
            pool.leaving.set(pool.leaving.get() - 1);
            match packed {
                Some(Ok(packed)) => pool.tell(to, |pool| {
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
    fn take_in(self: &Rc<Self>, packed: Packed) {
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
    fn make_room(&self, asker: Asker, full: Full, may_close_one: bool) {
        let of_user =
            full.of_user().then(|| self.neighbours.longest_idle_of_user(&asker.user, &asker.database));
        let of_database = full
            .of_database()
            .then(|| self.known(&asker.database).and_then(|database| database.longest_idle_but(&asker.user)));
        let wanted: Vec<_> = of_user.into_iter().chain(of_database).collect();
        let found: Vec<_> = wanted.iter().flatten().collect();
        if found.is_empty() || (found.len() < wanted.len() && !may_close_one) {
            return self.neighbours.claim_elsewhere(asker, full);
        }
        for pool in found {
            pool.close_oldest_idle();
        }
        self.try_again_at(&asker);
    }

    /// The pool of another worker may find the place that its clients wait for.
    pub(super) fn try_again_at(&self, asker: &Asker) {
        let errand = with_pool(&asker.database, &asker.user, Pool::try_again);
        drop(self.context.team.tell(asker.worker, errand));
    }
}

/// An errand for the pool of these names at whatever worker it comes to; without such a pool there it is dropped.
fn with_pool(database: &str, user: &str, what: impl FnOnce(&Rc<Pool>) + Send + 'static) -> Errand {
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
        let need = Need::default();
        need.wanted.store(2, Ordering::Release);
        assert!(need.promise() && need.promise() && !need.promise());
    }

    #[test]
    fn a_need_told_long_ago_is_not_believed() {
        let need = Need::default();
        need.since_us.store(1_000, Ordering::Release);
        need.told_us.store(20_000, Ordering::Release);
        assert_eq!(need.waited_us(21_000), Some(20_000));
        assert_eq!(need.waited_us(20_001 + micros(NEED_LIFE)), None);
    }
}
