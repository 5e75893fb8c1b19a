//! Process-wide exact counters, and permits for places in them. Owns no limits: callers pass their current value,
//! since RELOAD may change it. Used when a connection is opened or closed, never per query.

mod permits;
mod swept_table;

pub use permits::{Counter, Permit};
pub use swept_table::SweptTable;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is counted per name.
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
    /// Shared listeners of a database.
    DatabaseListeners,
    /// Shared listeners of a user.
    UserListeners,
    /// Schema changes of a database by clients of this process.
    SchemaChanges,
}

type NamedCounters = SweptTable<(CounterKind, String), Counter>;

/// All process-wide counters.
pub struct Limits {
    began: Instant,
    /// Clients connected, including those that are logging in.
    pub clients: Counter,
    /// Clients of databases that have logged in.
    pub sessions: Counter,
    /// Workers that are running.
    pub running: Counter,
    /// Workers that shutdown still waits for: their servers are in use.
    pub serving: Counter,
    /// Time when a server was last closed, in µs since the process started.
    closed_us: AtomicU64,
    named: Mutex<NamedCounters>,
}

impl Limits {
    /// Counters at zero.
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            clients: Counter::default(),
            sessions: Counter::default(),
            running: Counter::default(),
            serving: Counter::default(),
            closed_us: AtomicU64::new(0),
            named: Mutex::default(),
        }
    }

    fn named(&self) -> MutexGuard<'_, NamedCounters> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter of a name, shared by all workers while any of them holds it or a permit of it.
    pub fn counter(&self, kind: CounterKind, name: &str) -> Counter {
        let mut named = self.named();
        let key = (kind, name.to_owned());
        if let Some(known) = named.get(&key) {
            return known.clone();
        }
        let counter = Counter::default();
        named.insert(key, counter.clone(), Counter::is_shared);
        counter
    }

    /// Removes counters that are not in use.
    pub fn forget_unused(&self) {
        self.named().retain(Counter::is_shared);
    }

    /// Records that a server was closed.
    pub fn note_closed(&self, at: Instant) {
        self.closed_us.store(self.micros(at), Ordering::Relaxed);
    }

    /// True if a server was closed within this time before `now`.
    pub fn has_closed_within(&self, time: Duration, now: Instant) -> bool {
        let closed_us = self.closed_us.load(Ordering::Relaxed);
        closed_us > 0 && self.micros(now).saturating_sub(closed_us) < time.as_micros() as u64
    }

    /// A time as exchanged between workers: µs since the process started.
    pub fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::swept_table::SWEEP_EVERY;
    use super::*;

    #[test]
    fn workers_share_counters() {
        let limits = Limits::new(Instant::now());
        let permit = limits.counter(CounterKind::UserClients, "a").take(None);
        assert_eq!(limits.counter(CounterKind::UserClients, "a").taken(), 1);
        assert_eq!(limits.counter(CounterKind::UserServers, "a").taken(), 0);
        drop(permit);
    }

    #[test]
    fn unused_names_are_removed_and_counters_in_use_are_kept() {
        let limits = Limits::new(Instant::now());
        let permit = limits.counter(CounterKind::DatabaseClients, "kept").take(None);
        for i in 0..=2 * SWEEP_EVERY {
            limits.counter(CounterKind::DatabaseClients, &i.to_string());
        }
        assert!(limits.named().iter().count() <= SWEEP_EVERY + 2);
        assert_eq!(limits.counter(CounterKind::DatabaseClients, "kept").taken(), 1);
        drop(permit);
    }
}
