//! What the workers' pools of one database and user have in common: limits, the greeting, the last failure, and which
//! worker is in need of a server. Owns values that are exact for the process; it moves nothing and opens nothing.
//!
//! Locks here are taken when a server logs in or a pool is made, never while queries flow.

use super::permits::Counter;
use crate::auth::scram::keys::ClientKeys;
use crate::health_state::HealthState;
use crate::server::Diagnosis;
use crate::stats::logins::LoginCounters;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Names nobody uses are dropped from a table when this many were added since the last look.
const SWEEP_EVERY: usize = 256;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names and values a server reported at its login, in its order.
pub type ReportedParameters = Arc<[(String, String)]>;

/// The last login that failed.
#[derive(Clone)]
pub(super) struct RecentFailure {
    pub(super) at: Instant,
    pub(super) login: Diagnosis,
}

/// What a worker demands and has, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Demand {
    /// Idle servers it still wants from others.
    pub(super) wanted: AtomicU32,
    /// Servers on their way to it.
    pub(super) coming: AtomicU32,
    /// Since when its first client waits, in µs after the process began.
    pub(super) since_us: AtomicU64,
    /// When it said so last, likewise.
    pub(super) told_us: AtomicU64,
    /// Idle servers it has.
    pub(super) idle: AtomicU32,
}

/// Shared by the pools of one database and user.
pub struct SharedPool {
    /// Servers open or being opened.
    pub(super) open: Counter,
    /// Servers above the size for the moment in which one takes over from another.
    pub(super) overlapping: Counter,
    /// Of the open ones, those that only end.
    pub(super) lingering: Counter,
    /// The same, over all databases of the user.
    pub(super) user_open: Counter,
    /// One bit for each worker in need: it would take a server that becomes free.
    pub(super) starving: AtomicU64,
    pub(super) demands: Box<[Demand]>,
    /// Counts what makes all servers old, once for each worker that marks its own. One that is logging in or on its
    /// way between workers meanwhile is not used again.
    pub(super) retirements: AtomicU64,
    /// When it was last in use at any worker, in µs after the process began.
    used_us: AtomicU64,
    /// Nobody has used it for long: the workers drop their part, and whoever asks for it gets another.
    is_forgotten: AtomicBool,
    has_failed: AtomicBool,
    failure: Mutex<Option<RecentFailure>>,
    server_parameters: Mutex<Option<ReportedParameters>>,
    scram_keys: Mutex<Option<ClientKeys>>,
}

impl SharedPool {
    fn new(workers: usize, user_open: Counter, now_us: u64) -> Self {
        Self {
            open: Counter::default(),
            overlapping: Counter::default(),
            lingering: Counter::default(),
            user_open,
            starving: AtomicU64::new(0),
            demands: (0..workers).map(|_| Demand::default()).collect(),
            retirements: AtomicU64::new(0),
            used_us: AtomicU64::new(now_us),
            is_forgotten: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
            server_parameters: Mutex::default(),
            scram_keys: Mutex::default(),
        }
    }

    /// Servers that are open or being opened, without those that only end.
    pub(super) fn serving(&self) -> u32 {
        // In this order: one that ends meanwhile is never counted as serving.
        let open = self.open.taken();
        open.saturating_sub(self.lingering.taken())
    }

    /// It is in use. False when it was forgotten meanwhile: the registry knows whether there is another.
    pub(super) fn note_use(&self, now_us: u64) -> bool {
        // Before the look at the flag; whoever sets the flag looks here after that.
        self.used_us.store(now_us, Ordering::SeqCst);
        !self.is_forgotten()
    }

    pub(super) fn last_use_us(&self) -> u64 {
        self.used_us.load(Ordering::SeqCst)
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::SeqCst)
    }

    /// True when a server is idle at any worker.
    fn has_idle(&self) -> bool {
        self.demands.iter().any(|need| need.idle.load(Ordering::Acquire) > 0)
    }

    /// The last login's failure, until one succeeds.
    pub(super) fn failure(&self) -> Option<RecentFailure> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        locked(&self.failure).clone()
    }

    pub(super) fn set_failure(&self, failure: Option<RecentFailure>) {
        if failure.is_none() && !self.has_failed.load(Ordering::Acquire) {
            return;
        }
        let mut slot = locked(&self.failure);
        self.has_failed.store(failure.is_some(), Ordering::Release);
        *slot = failure;
    }

    /// What the newest server reported at its login.
    pub(super) fn server_parameters(&self) -> Option<ReportedParameters> {
        locked(&self.server_parameters).clone()
    }

    /// Returns true when it is the first.
    pub(super) fn set_server_parameters(&self, reports: ReportedParameters) -> bool {
        locked(&self.server_parameters).replace(reports).is_none()
    }

    /// Nothing is known of a server any more.
    pub(super) fn forget_server_parameters(&self) {
        *locked(&self.server_parameters) = None;
    }

    /// Keys a client's SCRAM login revealed.
    pub(super) fn scram_keys(&self) -> Option<ClientKeys> {
        locked(&self.scram_keys).clone()
    }

    pub(super) fn set_scram_keys(&self, keys: ClientKeys) {
        *locked(&self.scram_keys) = Some(keys);
    }
}

/// What is counted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CounterKind {
    /// Servers of a database.
    DatabaseServers,
    /// Clients of a database.
    DatabaseClients,
    /// Servers of a user.
    UserServers,
    /// Clients of a user.
    UserClients,
    /// Changes of a database's schema, by clients of ours.
    SchemaChanges,
}

/// A table that forgets what nobody uses.
struct NameTable<K, V> {
    entries: HashMap<K, V>,
    added: usize,
}

impl<K: Eq + Hash, V: Clone> NameTable<K, V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), added: 0 }
    }

    fn insert(&mut self, key: K, value: V, is_used: impl Fn(&V) -> bool) {
        self.added += 1;
        if self.added > SWEEP_EVERY {
            self.added = 0;
            self.entries.retain(|_, value| is_used(value));
        }
        self.entries.insert(key, value);
    }
}

/// Everything the workers count together.
pub struct Registry {
    workers: usize,
    began: Instant,
    /// Clients connected, those logging in included.
    pub clients: Counter,
    /// Clients of databases: logged in, and not on the console.
    pub sessions: Counter,
    /// Workers that have not ended.
    pub running: Counter,
    /// Clients of each worker: new ones go where there are fewest.
    pub loads: Box<[Counter]>,
    /// When a server was closed last, in µs after the process began.
    closed_us: AtomicU64,
    /// Logins to servers.
    pub logins: LoginCounters,
    /// What probes ask for.
    pub health: HealthState,
    counters: Mutex<NameTable<(CounterKind, String), Counter>>,
    pools: Mutex<NameTable<(String, String), Weak<SharedPool>>>,
}

impl Registry {
    /// Nothing counted yet, for so many workers. `awaits_login` if readiness is to wait for a login.
    pub fn new(workers: usize, awaits_login: bool) -> Self {
        let began = Instant::now();
        Self {
            workers,
            began,
            closed_us: AtomicU64::new(0),
            logins: LoginCounters::new(began),
            health: HealthState::new(workers, began, awaits_login),
            clients: Counter::default(),
            sessions: Counter::default(),
            running: Counter::default(),
            loads: (0..workers).map(|_| Counter::default()).collect(),
            counters: Mutex::new(NameTable::new()),
            pools: Mutex::new(NameTable::new()),
        }
    }

    /// The counter of a name, for all workers the same as long as one of them holds it or a permit of it.
    pub fn counter(&self, what: CounterKind, name: &str) -> Counter {
        let mut table = locked(&self.counters);
        let key = (what, name.to_owned());
        if let Some(known) = table.entries.get(&key) {
            return known.clone();
        }
        let counter = Counter::default();
        table.insert(key, counter.clone(), Counter::is_shared);
        counter
    }

    /// The shared part of a pool.
    pub fn pool(&self, database: &str, user: &str) -> Arc<SharedPool> {
        let user_open = self.counter(CounterKind::UserServers, user);
        let mut table = locked(&self.pools);
        let key = (database.to_owned(), user.to_owned());
        if let Some(known) = table.entries.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let now_us = self.micros(Instant::now());
        let pool = Arc::new(SharedPool::new(self.workers, user_open, now_us));
        table.insert(key, Arc::downgrade(&pool), |weak| weak.strong_count() > 0);
        pool
    }

    /// Forgets a pool that nobody has used since `oldest_us`. Exactly one of this and of [`SharedPool::note_use`] at another
    /// worker comes first.
    pub(super) fn forget(&self, database: &str, user: &str, pool: &Arc<SharedPool>, oldest_us: u64) {
        let mut table = locked(&self.pools);
        pool.is_forgotten.store(true, Ordering::SeqCst);
        if pool.used_us.load(Ordering::SeqCst) > oldest_us {
            pool.is_forgotten.store(false, Ordering::SeqCst);
            return;
        }
        let key = (database.to_owned(), user.to_owned());
        if table.entries.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pool))) {
            table.entries.remove(&key);
        }
    }

    /// Gives back what is kept of pools that are gone.
    pub(super) fn forget_gone(&self) {
        locked(&self.pools).entries.retain(|_, pool| pool.strong_count() > 0);
        locked(&self.counters).entries.retain(|_, counter| counter.is_shared());
    }

    /// Whether idle servers could make room for this pool both for its user and in its database, at whatever workers.
    pub(super) fn could_make_room_in_both(&self, database: &str, user: &str) -> bool {
        let table = locked(&self.pools);
        let (mut for_user, mut in_database) = (false, false);
        for ((its_database, its_user), pool) in &table.entries {
            let (same_database, same_user) = (its_database == database, its_user == user);
            if same_database != same_user && pool.upgrade().is_some_and(|pool| pool.has_idle()) {
                for_user |= same_user;
                in_database |= same_database;
            }
        }
        for_user && in_database
    }

    /// A server was closed.
    pub(super) fn note_closed(&self, at: Instant) {
        self.closed_us.store(self.micros(at), Ordering::Relaxed);
    }

    /// Whether any was closed in this time.
    pub(super) fn has_closed_within(&self, time: Duration, now: Instant) -> bool {
        let closed_us = self.closed_us.load(Ordering::Relaxed);
        closed_us > 0 && self.micros(now).saturating_sub(closed_us) < time.as_micros() as u64
    }

    /// A moment as the workers tell it to each other: µs after the process began.
    pub(super) fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_the_same_counters_and_pools() {
        let registry = Registry::new(2, false);
        let permit = registry.counter(CounterKind::UserClients, "a").take(None);
        assert_eq!(registry.counter(CounterKind::UserClients, "a").taken(), 1);
        assert_eq!(registry.counter(CounterKind::UserServers, "a").taken(), 0);
        drop(permit);
        let one = registry.pool("d", "u");
        assert!(Arc::ptr_eq(&one, &registry.pool("d", "u")));
    }

    #[test]
    fn names_nobody_uses_are_forgotten_and_counts_in_use_are_not() {
        let registry = Registry::new(1, false);
        let permit = registry.counter(CounterKind::DatabaseClients, "kept").take(None);
        for i in 0..=2 * SWEEP_EVERY {
            registry.counter(CounterKind::DatabaseClients, &i.to_string());
        }
        assert!(locked(&registry.counters).entries.len() <= SWEEP_EVERY + 2);
        assert_eq!(registry.counter(CounterKind::DatabaseClients, "kept").taken(), 1);
        drop(permit);
    }
}
