//! State that the workers' pools of one database and user share: limits, server parameters, the last failure, and the
//! workers' demand. Owns values that are exact for the process; it neither moves nor opens servers.
//!
//! Locks are taken only when a server logs in or a pool is created, never for a query.

use super::demand::Demands;
use super::shared_listener::Registry;
use crate::limits::{Counter, CounterKind, Limits, SweptTable};
use crate::server::Diagnosis;
use crate::server::target::LearnedCredential;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names and values that a server reported at its login, in its order.
pub type ReportedParameters = Arc<[(String, String)]>;

/// The last failed login.
#[derive(Clone)]
pub(super) struct RecentFailure {
    pub(super) at: Instant,
    /// When the first login failed since the last one that succeeded.
    pub(super) since: Instant,
    /// When the same failure was last logged.
    pub(super) logged_at: Instant,
    pub(super) login: Diagnosis,
}

/// Shared by the pools of one database and user.
pub struct SharedPool {
    /// Servers open or being opened.
    pub(super) open: Counter,
    /// Servers above the pool's size during a replacement.
    pub(super) overlapping: Counter,
    /// Open servers that are being closed.
    pub(super) lingering: Counter,
    /// Open servers over all databases of the user.
    pub(super) user_open: Counter,
    /// Which workers need servers.
    pub(super) demands: Demands,
    /// Clients that share one connection for their notifications.
    pub(super) listener: Arc<Registry>,
    /// Advanced at each worker by RECONNECT or a configuration change; a server that was logging in or moving between
    /// workers at that time is closed.
    generation: AtomicU64,
    /// When it was last in use at any worker, in µs since the process started.
    used_us: AtomicU64,
    /// Unused for too long: the workers drop their part, and the next request creates another.
    is_forgotten: AtomicBool,
    has_failed: AtomicBool,
    failure: Mutex<Option<RecentFailure>>,
    /// The host that has served the last login for which a writer was required.
    writer: Mutex<Option<Arc<str>>>,
    server_parameters: Mutex<Option<ReportedParameters>>,
    learned: Mutex<Option<LearnedCredential>>,
    /// Advanced when a client has shown another password than the previous one.
    password_version: AtomicU64,
}

impl SharedPool {
    fn new(workers: usize, user_open: Counter, now_us: u64) -> Self {
        Self {
            open: Counter::default(),
            overlapping: Counter::default(),
            lingering: Counter::default(),
            user_open,
            demands: Demands::new(workers),
            listener: Arc::default(),
            generation: AtomicU64::new(0),
            used_us: AtomicU64::new(now_us),
            is_forgotten: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
            writer: Mutex::default(),
            server_parameters: Mutex::default(),
            learned: Mutex::default(),
            password_version: AtomicU64::new(0),
        }
    }

    /// Servers that are open or being opened, except those being closed.
    pub(super) fn serving(&self) -> u32 {
        // In this order: a server that closes meanwhile is never counted as serving.
        let open = self.open.taken();
        open.saturating_sub(self.lingering.taken())
    }

    /// The generation that servers logging in now belong to.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// No server of an earlier generation is used again.
    pub(super) fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Records a use. False when it was dropped meanwhile: the registry may have another.
    pub(super) fn record_use(&self, now_us: u64) -> bool {
        // Before reading the flag; the task that sets the flag reads this time afterwards.
        self.used_us.store(now_us, Ordering::SeqCst);
        !self.is_forgotten()
    }

    pub(super) fn last_use_us(&self) -> u64 {
        self.used_us.load(Ordering::SeqCst)
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::SeqCst)
    }

    /// True if the last login has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
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

    /// The host that is the writer.
    pub(super) fn writer(&self) -> Option<Arc<str>> {
        locked(&self.writer).clone()
    }

    /// True if another host was the writer before.
    pub(super) fn set_writer(&self, host: &Arc<str>) -> bool {
        let before = locked(&self.writer).replace(host.clone());
        before.is_some_and(|before| before != *host)
    }

    /// Parameters reported by the newest server at its login.
    pub(super) fn server_parameters(&self) -> Option<ReportedParameters> {
        locked(&self.server_parameters).clone()
    }

    /// True if these are the first.
    pub(super) fn set_server_parameters(&self, reports: ReportedParameters) -> bool {
        locked(&self.server_parameters).replace(reports).is_none()
    }

    /// Discards the server parameters.
    pub(super) fn forget_server_parameters(&self) {
        *locked(&self.server_parameters) = None;
    }

    /// What a client's login has revealed.
    pub(super) fn learned(&self) -> Option<LearnedCredential> {
        locked(&self.learned).clone()
    }

    /// True if this is another password than before.
    pub(super) fn set_learned(&self, credential: LearnedCredential) -> bool {
        let mut learned = locked(&self.learned);
        let is_new_password = match (&*learned, &credential) {
            (Some(LearnedCredential::Password(before)), LearnedCredential::Password(now)) => before != now,
            _ => false,
        };
        *learned = Some(credential);
        if is_new_password {
            self.password_version.fetch_add(1, Ordering::AcqRel);
        }
        is_new_password
    }

    /// Changes when clients show another password.
    pub(super) fn password_version(&self) -> u64 {
        self.password_version.load(Ordering::Acquire)
    }
}

/// The shared parts of all pools.
pub struct SharedPools {
    workers: usize,
    table: Mutex<PoolTable>,
}

type PoolTable = SweptTable<(String, String), Weak<SharedPool>>;

fn exists(pool: &Weak<SharedPool>) -> bool {
    pool.strong_count() > 0
}

impl SharedPools {
    /// Creates an empty registry for this number of workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, table: Mutex::default() }
    }

    /// The shared part of a pool.
    pub(super) fn pool(&self, limits: &Limits, database: &str, user: &str) -> Arc<SharedPool> {
        let user_open = limits.counter(CounterKind::UserServers, user);
        let mut table = locked(&self.table);
        let key = (database.to_owned(), user.to_owned());
        if let Some(known) = table.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let pool = Arc::new(SharedPool::new(self.workers, user_open, limits.micros(Instant::now())));
        table.insert(key, Arc::downgrade(&pool), exists);
        pool
    }

    /// Drops a pool that was not used since `oldest_us`. Either this or a concurrent [`SharedPool::record_use`] at
    /// another worker takes effect first, never both.
    pub(super) fn forget(&self, database: &str, user: &str, pool: &Arc<SharedPool>, oldest_us: u64) {
        let mut table = locked(&self.table);
        pool.is_forgotten.store(true, Ordering::SeqCst);
        if pool.used_us.load(Ordering::SeqCst) > oldest_us {
            pool.is_forgotten.store(false, Ordering::SeqCst);
            return;
        }
        let key = (database.to_owned(), user.to_owned());
        if table.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pool))) {
            table.remove(&key);
        }
    }

    /// Removes the entries of pools that no longer exist.
    pub(super) fn forget_gone(&self) {
        locked(&self.table).retain(exists);
    }

    /// True if closing idle servers of other pools, at any worker, could make room for this pool in both its user's and
    /// its database's limit.
    pub(super) fn could_make_room_in_both(&self, database: &str, user: &str) -> bool {
        let table = locked(&self.table);
        let (mut for_user, mut in_database) = (false, false);
        for ((its_database, its_user), pool) in table.iter() {
            let (same_database, same_user) = (its_database == database, its_user == user);
            if same_database != same_user && pool.upgrade().is_some_and(|pool| pool.demands.any_has_idle()) {
                for_user |= same_user;
                in_database |= same_database;
            }
        }
        for_user && in_database
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn workers_get_the_same_pools() {
        let (limits, pools) = (Limits::new(Instant::now()), SharedPools::new(2));
        let one = pools.pool(&limits, "d", "u");
        assert!(Arc::ptr_eq(&one, &pools.pool(&limits, "d", "u")));
    }

    #[test]
    fn another_password_is_noticed() {
        let pool = SharedPools::new(1).pool(&Limits::new(Instant::now()), "d", "u");
        let learn = |text: &str| pool.set_learned(LearnedCredential::Password(Secret::new(text)));
        let first = pool.password_version();
        assert!(!learn("old") && !learn("old"));
        assert_eq!(pool.password_version(), first);
        assert!(learn("new") && !learn("new"));
        assert_ne!(pool.password_version(), first);
    }
}
