//! Places in the limits of the pool, of its user and of its database; other pools share the latter two. Owns which
//! limit is full, and which idle server is closed to make room.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use crate::limits::{CounterKind, Permit};
use crate::worker;
use std::rc::Rc;

/// The limit that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Pool,
    User,
    Database,
    UserAndDatabase,
}

impl Full {
    /// Among the limits that pools share.
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

/// The limits that the pool shares with others; `None` if there is none.
struct SharedLimitValues {
    user: Option<u32>,
    database: Option<u32>,
}

/// Whether an idle server of another pool may be closed to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// A client waits for the new server.
    Allowed,
    /// The new server is optional: two pools must not keep closing each other's servers.
    Forbidden,
}

impl Pool {
    /// True when the pool has more servers than it may: its size was reduced, or the reserve is no longer needed.
    pub(super) fn is_above_size(&self) -> bool {
        let rules = self.rules.current();
        let open = self.shared.open.taken();
        // This comparison is made at every release. The reserve stays as long as clients wait.
        if open <= rules.pool_size {
            return false;
        }
        // In this order: a server that closes meanwhile gives up its place in the pool first.
        let size = rules.pool_size + self.shared.overlapping.taken();
        let open = self.shared.open.taken();
        open > size
            && (open > size + rules.reserve_pool_size
                || (self.queue.waiting_since().is_none() && !self.is_needed_elsewhere()))
    }

    /// `pool_size`, plus the reserve once a client has waited for `reserve_pool_timeout`.
    pub(super) fn size_now(&self) -> u32 {
        let rules = self.rules.current();
        let timeout = self.context.config().settings.reserve_pool_timeout;
        let reserve_is_open = rules.reserve_pool_size > 0
            && !timeout.is_zero()
            && self.queue.waiting_since().is_some_and(|since| worker::now() - since >= timeout);
        rules.pool_size + if reserve_is_open { rules.reserve_pool_size } else { 0 }
    }

    /// Takes a place in each limit; `max_open` is the pool's. If another limit is full, the server of another pool that has
    /// been idle longest is closed.
    pub(super) fn take_permits(&self, max_open: u32, eviction: Eviction) -> Result<Vec<Permit>, Full> {
        // Checked first, as it is nearly always the one that is full.
        let pool = self.shared.open.take(Some(max_open)).ok_or(Full::Pool)?;
        if let Some(full) = self.shared_limits.claim_with_precedence(self, Self::first_waiting_since) {
            return Err(full);
        }
        let SharedLimitValues { user: user_limit, database: database_limit } = self.shared_limit_values();
        let (of_user, of_database) = (&self.shared.user_open, &self.database.open);
        let (user, database) = (of_user.take(user_limit), of_database.take(database_limit));
        if let Some(full) = Full::among(user.is_none(), database.is_none()) {
            let victims = self.pools_to_evict_from(full).filter(|_| eviction == Eviction::Allowed);
            for pool in victims.ok_or(full)? {
                pool.close_oldest_idle(ServerCloseReason::Evicted);
            }
        }
        let user = user.or_else(|| of_user.take(user_limit));
        let database = database.or_else(|| of_database.take(database_limit));
        match (user, database) {
            (Some(user), Some(database)) => {
                self.log_use_of_reserve();
                Ok(vec![pool, user, database])
            }
            (user, database) => Err(Full::among(user.is_none(), database.is_none()).unwrap_or(Full::Pool)),
        }
    }

    /// True if the limits allow another server besides the shared listener.
    pub fn has_room_for_listener(&self) -> bool {
        let SharedLimitValues { user, database } = self.shared_limit_values();
        let size = self.rules.current().pool_size;
        [Some(size), user, database].into_iter().flatten().all(|limit| limit > 1)
    }

    /// Takes a place among the listeners of the user and of the database. `None` if the listeners of their pools would fill a
    /// limit that these share, which leaves no server for queries.
    pub fn take_listener_places(&self) -> Option<Vec<Permit>> {
        let SharedLimitValues { user, database } = self.shared_limit_values();
        let take = |kind, name: &str, limit: Option<u32>| {
            let most = limit.map(|limit| limit.saturating_sub(1));
            self.context.process.limits.counter(kind, name).take(most)
        };
        let of_user = take(CounterKind::UserListeners, &self.user, user)?;
        let of_database = take(CounterKind::DatabaseListeners, &self.database.name, database)?;
        Some(vec![of_user, of_database])
    }

    fn shared_limit_values(&self) -> SharedLimitValues {
        let config = self.context.config();
        let limit = |n: u32| (n > 0).then_some(n);
        let of_user = config.users.get(&*self.user).and_then(|user| user.max_user_connections);
        let of_database = self.database.line.borrow().max_db_connections;
        SharedLimitValues {
            user: limit(of_user.unwrap_or(config.settings.max_user_connections)),
            database: limit(of_database.unwrap_or(config.settings.max_db_connections)),
        }
    }

    /// The limit that keeps this pool of `size` from opening another server, and its value.
    pub(super) fn full_limit(&self, size: u32) -> Option<(Full, u32)> {
        let SharedLimitValues { user, database } = self.shared_limit_values();
        let checks = [
            (Full::Pool, Some(size), self.shared.open.taken()),
            (Full::User, user, self.shared.user_open.taken()),
            (Full::Database, database, self.database.open.taken()),
        ];
        checks
            .into_iter()
            .find_map(|(full, limit, taken)| Some((full, limit.filter(|limit| taken >= *limit)?)))
    }

    /// Logs that the pool has taken a place of its reserve.
    fn log_use_of_reserve(&self) {
        let size = self.rules.current().pool_size;
        if self.size_now() > size && self.shared.open.taken() > size {
            tracing::warn!(
                event = "reserve_used",
                database = %self.database.name,
                user = %self.user,
                "taking connection from reserve_pool"
            );
        }
    }

    /// Pools of this worker with idle servers to close, one for each limit that is full. `None` unless there is one for
    /// each: a place in only one of them is useless.
    fn pools_to_evict_from(&self, full: Full) -> Option<Vec<Rc<Self>>> {
        let mut found = Vec::new();
        if full.of_user() {
            found.push(self.shared_limits.longest_idle_of_user(&self.user, &self.database.name)?);
        }
        if full.of_database() {
            found.push(self.database.longest_idle_except(&self.user)?);
        }
        Some(found)
    }

    /// Claims a place that other pools have, for the clients that wait here.
    pub(super) fn claim(self: &Rc<Self>, full: Full) {
        if full != Full::Pool && self.first_waiting_since().is_some() {
            self.shared_limits.claim(self, full);
        }
    }

    /// Tries again to log in, since a place in a limit may have become free.
    pub(super) fn try_again(self: &Rc<Self>) {
        self.connect_for_waiters();
        if self.has_arrivals() {
            self.connect_one();
            self.logins.notify_ended();
        }
    }
}
