//! Servers between workers. Owns when a worker is in need, who gives it a server, and the way there.
//!
//! While every worker has servers enough nothing of this runs: a release reads one word that nobody writes. A worker
//! in need (no server at all, or a client that has waited for [`PATIENCE`]) says so, and asks those that have idle
//! servers. These come at once; a server that becomes free comes when the clients here have waited much longer than
//! those where it is.

use super::directory::Directory;
use super::growth::Full;
use super::lending::Pool;
use super::shared::{Need, SharedPool};
use crate::server::Server;
use crate::server::moving::Packed;
use crate::worker::{self, executor, home, timers};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client waits before its worker asks the others.
pub(super) const PATIENCE: Duration = Duration::from_millis(2);
/// Time between two requests for room in a full database.
const ROOM_PAUSE: Duration = Duration::from_millis(10);
/// Time between two looks while clients wait.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(1);

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
    /// Promises one server. False when enough are promised.
    fn promise(&self) -> bool {
        let promised = self
            .wanted
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |wanted| wanted.checked_sub(1))
            .is_ok();
        if promised {
            self.coming.fetch_add(1, Ordering::AcqRel);
        }
        promised
    }
}

/// Whether clients elsewhere, the first of whom has waited for `there_us`, get a server before those here, the first of
/// whom has waited for `here_us`: when nobody waits here, or they have waited twice as long and some more. The margin
/// keeps servers from going to and fro between workers whose clients wait about equally long.
fn goes_first(there_us: u64, here_us: Option<u64>) -> bool {
    here_us.is_none_or(|here_us| there_us >= 2 * here_us + PATIENCE.as_micros() as u64)
}

impl Pool {
    fn my_bit(&self) -> u64 {
        1 << self.context.team.me()
    }

    /// Has something done with the pool of the same name of another worker.
    fn tell(&self, worker: usize, what: fn(&Rc<Self>)) {
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        let errand = move || {
            if let Some(pool) = home::get::<Directory>().and_then(|home| home.known_pool(&database, &user)) {
                what(&pool);
            }
        };
        // One that has ended, or is flooded, cannot help.
        drop(self.context.team.tell(worker, Box::new(errand)));
    }

    /// The same, at all other workers.
    pub(super) fn tell_others(&self, what: fn(&Rc<Self>)) {
        for worker in (0..self.context.team.len()).filter(|&worker| worker != self.context.team.me()) {
            self.tell(worker, what);
        }
    }

    /// A client waits, and no server can be opened. With other workers there are other ways.
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
                if pool.database.paused.get() || pool.is_backing_off() || !pool.has_waiters() {
                    break;
                }
                pool.grow();
            }
            pool.looks_again.set(false);
            pool.calm_down();
        });
    }

    /// Says how many servers are wanted here and since when, and asks whoever has one to spare.
    fn cry(self: &Rc<Self>, full: Full) {
        let need = &self.shared.needs[self.context.team.me()];
        let coming = need.coming.load(Ordering::Acquire) as usize + self.logins.get();
        let wanted = self.waiting().0.saturating_sub(coming);
        if wanted == 0 {
            return;
        }
        if let Some(since) = self.waiting_since() {
            need.since_us.store(self.context.registry.micros(since), Ordering::Release);
        }
        need.wanted.store(wanted as u32, Ordering::Release);
        self.shared.hungry.fetch_or(self.my_bit(), Ordering::AcqRel);
        if full == Full::Database {
            return self.ask_for_room();
        }
        for worker in 0..self.shared.needs.len() {
            let has_idle = self.shared.needs[worker].idle.load(Ordering::Acquire) > 0;
            if has_idle && worker != self.context.team.me() {
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
        while self.is_needed_elsewhere() && !self.has_waiters() && !self.database.paused.get() {
            let Some(server) = self.take_idle() else { return };
            match self.donate_if_fair(server) {
                Ok(()) => {}
                // Enough are on their way.
                Err(server) => return self.hand_on(server),
            }
        }
    }

    /// The database is full. A worker that has an idle server of this pool gives it; another closes one of another
    /// user's, whatever pools it has.
    pub(super) fn ask_for_room(&self) {
        if self.context.team.is_alone() {
            return;
        }
        let now = worker::now();
        if self.asked_for_room_at.get().is_some_and(|at| now.saturating_duration_since(at) < ROOM_PAUSE) {
            return;
        }
        self.asked_for_room_at.set(Some(now));
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        let asker = self.context.team.me();
        self.context.team.tell_others(move || {
            let Some(home) = home::get::<Directory>() else { return };
            match home.known_pool(&database, &user).filter(|pool| pool.idle_count() > 0) {
                Some(pool) => pool.help(),
                None => home.make_room(&database, &user, asker),
            }
        });
    }

    /// Gives a free server to the worker whose clients have waited longest, if they go before those here.
    ///
    /// # Errors
    /// They do not: the server comes back.
    pub(super) fn donate_if_fair(self: &Rc<Self>, server: Box<Server>) -> Result<(), Box<Server>> {
        let me = self.context.team.me();
        let now_us = self.context.registry.micros(worker::now());
        let here =
            self.waiting_since().map(|since| now_us.saturating_sub(self.context.registry.micros(since)));
        let hungry = self.shared.hungry.load(Ordering::Acquire);
        let neediest = (0..self.shared.needs.len())
            .filter(|&worker| worker != me && hungry & (1 << worker) != 0)
            .filter(|&worker| self.shared.needs[worker].wanted.load(Ordering::Acquire) > 0)
            .min_by_key(|&worker| self.shared.needs[worker].since_us.load(Ordering::Acquire));
        let Some(to) = neediest else { return Err(server) };
        let there = now_us.saturating_sub(self.shared.needs[to].since_us.load(Ordering::Acquire));
        if !goes_first(there, here) || !self.shared.needs[to].promise() {
            return Err(server);
        }
        self.send_to(to, server);
        Ok(())
    }

    fn send_to(self: &Rc<Self>, to: usize, server: Box<Server>) {
        let coming = Coming { shared: self.shared.clone(), to };
        let retirements = self.shared.retirements.load(Ordering::Acquire);
        self.leaving.set(self.leaving.get() + 1);
        let pool = self.clone();
        executor::spawn(async move {
            let packed = Packed::pack(*server).await;
            pool.leaving.set(pool.leaving.get() - 1);
            match packed {
                Ok(packed) => pool.post(packed, coming, retirements),
                Err(error) => tracing::debug!(%error, "a server could not go to another worker"),
            }
            pool.changed.notify_all();
        });
    }

    fn post(&self, packed: Packed, coming: Coming, retirements: u64) {
        let (database, user) = (self.database.name.to_string(), self.user.to_string());
        let to = coming.to;
        let errand = move || {
            let Some(pool) = home::get::<Directory>().and_then(|home| home.known_pool(&database, &user))
            else {
                return;
            };
            drop(coming);
            pool.take_in(packed, retirements);
        };
        // A worker that has ended drops it, which closes it and gives its places back.
        drop(self.context.team.tell(to, Box::new(errand)));
    }

    /// A server has come from another worker.
    fn take_in(self: &Rc<Self>, packed: Packed, retirements: u64) {
        match packed.unpack(&self.context.parameters, &self.context.statements) {
            Ok(server) => {
                if self.shared.retirements.load(Ordering::Acquire) != retirements {
                    server.info.close_needed.set(true);
                }
                self.table.add(&server.info);
                self.give_back(Box::new(server));
            }
            Err(error) => tracing::warn!(%error, "a server from another worker could not be used"),
        }
    }
}

impl Directory {
    /// Closes an idle server of a full database and tells the worker that asked for room.
    fn make_room(&self, database: &str, user: &str, asker: usize) {
        if !self.known(database).is_some_and(|database| database.close_oldest_idle()) {
            return;
        }
        let (database, user) = (database.to_owned(), user.to_owned());
        let errand = move || {
            if let Some(pool) = home::get::<Self>().and_then(|home| home.known_pool(&database, &user)) {
                pool.grow();
                // A client may wait to be greeted.
                pool.login_ended.notify_all();
            }
        };
        drop(self.context.team.tell(asker, Box::new(errand)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_much_longer_goes_first() {
        let patience = PATIENCE.as_micros() as u64;
        assert!(goes_first(0, None));
        assert!(!goes_first(patience, Some(1)));
        assert!(goes_first(patience + 2, Some(1)));
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
        assert_eq!(need.coming.load(Ordering::Acquire), 2);
    }
}
