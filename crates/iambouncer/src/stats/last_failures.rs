//! The last failed login of each pool, with its cause and what to do, also after logins have succeeded again. Owns a bounded
//! table; the texts are those of the diagnosis.

use super::snapshot::PoolName;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Number of pools whose failures are kept; those whose failure is oldest are dropped first.
const MAX_POOLS: usize = 200;

/// A failed login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedLogin {
    /// When it failed.
    pub at: SystemTime,
    /// Host and port of the line; with IAM, those that tokens are signed for.
    pub endpoint: String,
    /// Number of the cause.
    pub cause: &'static str,
    /// Its label in the metrics.
    pub reason: &'static str,
    /// The error.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// The failures of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFailures {
    /// The last one.
    pub last: FailedLogin,
    /// Failures since the last success.
    pub count: u64,
    /// When a login succeeded again.
    pub recovered_at: Option<SystemTime>,
}

/// The failures of all pools.
#[derive(Default)]
pub struct LastFailures(Mutex<BTreeMap<PoolName, PoolFailures>>);

impl LastFailures {
    fn table(&self) -> MutexGuard<'_, BTreeMap<PoolName, PoolFailures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a failure.
    pub fn record(&self, database: &str, user: &str, login: FailedLogin) {
        let mut table = self.table();
        let key = (database.to_owned(), user.to_owned());
        let before =
            table.get(&key).filter(|known| known.recovered_at.is_none()).map_or(0, |known| known.count);
        if table.len() >= MAX_POOLS
            && !table.contains_key(&key)
            && let Some(oldest) =
                table.iter().min_by_key(|(_, known)| known.last.at).map(|(key, _)| key.clone())
        {
            table.remove(&oldest);
        }
        table.insert(key, PoolFailures { last: login, count: before + 1, recovered_at: None });
    }

    /// Records that a login has succeeded.
    pub fn recover(&self, database: &str, user: &str, at: SystemTime) {
        let key = (database.to_owned(), user.to_owned());
        if let Some(known) = self.table().get_mut(&key) {
            known.recovered_at.get_or_insert(at);
        }
    }

    /// The failures by database and user.
    pub fn list(&self) -> Vec<(PoolName, PoolFailures)> {
        self.table().iter().map(|(key, known)| (key.clone(), known.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn failed(seconds: u64) -> FailedLogin {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        FailedLogin {
            at,
            endpoint: String::new(),
            cause: "IAM003",
            reason: "policy",
            message: String::new(),
            remedy: String::new(),
        }
    }

    #[test]
    fn failures_are_counted_until_a_login_succeeds() {
        let failures = LastFailures::default();
        let count = || failures.list().iter().map(|(_, known)| known.count).collect::<Vec<_>>();
        failures.recover("app", "ann", SystemTime::UNIX_EPOCH);
        assert!(failures.list().is_empty());
        (1..=3).for_each(|at| failures.record("app", "ann", failed(at)));
        assert_eq!(count(), [3]);
        failures.recover("app", "ann", failed(4).at);
        failures.recover("app", "ann", failed(9).at);
        assert_eq!(failures.list()[0].1.recovered_at, Some(failed(4).at));
        failures.record("app", "ann", failed(10));
        assert_eq!((count(), failures.list()[0].1.recovered_at), (vec![1], None));
    }

    #[test]
    fn the_table_is_bounded() {
        let failures = LastFailures::default();
        (0..1000).for_each(|number| failures.record("app", &format!("user {number}"), failed(number)));
        let list = failures.list();
        assert_eq!(list.len(), MAX_POOLS);
        assert!(list.iter().all(|(_, known)| known.last.at >= failed(800).at));
    }
}
