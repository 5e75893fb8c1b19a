//! Places in the limits: those of the pool, and those of its user and its database, which other pools share. Owns which
//! limit is full, and whose idle server gives way.

use super::acquire::Pool;
use crate::limits::Permit;
use crate::worker;
use std::rc::Rc;

/// Which limit has no place left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Pool,
    User,
    Database,
    UserAndDatabase,
}

impl Full {
    /// Of the limits that pools share.
    fn among(user: bool, database: bool) -> Option<Self> {
        match (user, database) {
            (false, false) => None,
            (true, false) => Some(Self::User),
            (false, true) => Some(Self::Database),
            (true, true) => Some(Self::UserAndDatabase),
        }
    }

    pub(super) fn of_user(self) -> bool {
        matches!(self, Self::User | Self::UserAndDatabase)
    }

    pub(super) fn of_database(self) -> bool {
        matches!(self, Self::Database | Self::UserAndDatabase)
    }
}

/// Whether an idle server of another pool may be closed to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Somebody waits for the new server.
    Allowed,
    /// It would only be nice to have: two pools must not take turns closing each other's.
    Forbidden,
}

impl Pool {
    /// True when more servers are open than the pool may have: sizes were reduced, or the reserve is not needed
    /// any more.
    pub(super) fn is_above_size(&self) -> bool {
        let rules = self.rules.borrow();
        let open = self.shared.open.taken();
        // The first comparison is the one made at every release. The reserve stays as long as anybody waits.
        if open <= rules.pool_size {
            return false;
        }
        // In this order: a server that goes meanwhile gives back its place in the pool first.
        let size = rules.pool_size + self.shared.overlapping.taken();
        let open = self.shared.open.taken();
        open > size
            && (open > size + rules.reserve_pool_size
                || (self.waiting_since().is_none() && !self.is_needed_elsewhere()))
    }

    /// `pool_size`, and the reserve as long as somebody has waited for `reserve_pool_timeout`.
    pub(super) fn size_now(&self) -> u32 {
        let rules = self.rules.borrow();
        let timeout = self.context.config().settings.reserve_pool_timeout;
        let stressed = rules.reserve_pool_size > 0
            && !timeout.is_zero()
            && self.waiting_since().is_some_and(|since| worker::now() - since >= timeout);
        rules.pool_size + if stressed { rules.reserve_pool_size } else { 0 }
    }

    /// A place in each limit; `most` is the pool's. Where another limit is full, the idle server of another pool that has
    /// been idle longest gives way.
    pub(super) fn take_permits(&self, most: u32, eviction: Eviction) -> Result<Vec<Permit>, Full> {
        // First, since it is what a waiting client nearly always runs into.
        let pool = self.shared.open.take(Some(most)).ok_or(Full::Pool)?;
        if let Some(full) = self.shared_limits.go_before(self, Self::anybody_waiting_since) {
            return Err(full);
        }
        let config = self.context.config();
        let limit = |n: u32| (n > 0).then_some(n);
        let user_limit = config
            .users
            .get(&*self.user)
            .and_then(|user| user.max_user_connections)
            .unwrap_or(config.settings.max_user_connections);
        let line = self.database.line.borrow().clone();
        let database_limit = line.max_db_connections.unwrap_or(config.settings.max_db_connections);
        let (user_limit, database_limit) = (limit(user_limit), limit(database_limit));
        let (of_user, of_database) = (&self.shared.user_open, &self.database.open);
        let (user, database) = (of_user.take(user_limit), of_database.take(database_limit));
        if let Some(full) = Full::among(user.is_none(), database.is_none()) {
            let victims = self.pools_to_close_in(full).filter(|_| eviction == Eviction::Allowed);
            for pool in victims.ok_or(full)? {
                pool.close_oldest_idle();
            }
        }
        let user = user.or_else(|| of_user.take(user_limit));
        let database = database.or_else(|| of_database.take(database_limit));
        match (user, database) {
            (Some(user), Some(database)) => Ok(vec![pool, user, database]),
            (user, database) => Err(Full::among(user.is_none(), database.is_none()).unwrap_or(Full::Pool)),
        }
    }

    /// Other pools of this worker with idle servers, one for each limit that is full. `None` unless there is one for each:
    /// a place that is not enough is of no use.
    fn pools_to_close_in(&self, full: Full) -> Option<Vec<Rc<Self>>> {
        let mut found = Vec::new();
        if full.of_user() {
            found.push(self.shared_limits.longest_idle_of_user(&self.user, &self.database.name)?);
        }
        if full.of_database() {
            found.push(self.database.longest_idle_but(&self.user)?);
        }
        Some(found)
    }

    /// Clients here want a place that other pools have.
    pub(super) fn claim(self: &Rc<Self>, full: Full) {
        if full != Full::Pool && self.anybody_waiting_since().is_some() {
            self.shared_limits.claim(self, full);
        }
    }

    /// A place in a limit may be free that clients here have waited for.
    pub(super) fn try_again(self: &Rc<Self>) {
        self.connect_for_waiters();
        if self.has_arrivals() {
            self.connect_one();
            self.login_ended.notify_all();
        }
    }
}
