//! Cached secrets, kept fresh.
//!
//! Owns: when a secret is read again (with jitter, so that processes spread), the previous version, and how
//! long a refused password may be due to a rotation in progress.
//! Never: drops a secret because Secrets Manager is unreachable; a password has no expiry.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::{DatabaseSecret, SecretError, SecretKey, SecretSource};
use crate::backoff::jitter;
use crate::clock::{Clock, until};
use crate::refreshing::{Entry, Freshness, Refresh, RefreshingCache};

/// Default time until a secret is read again.
const DEFAULT_REFRESH: Duration = Duration::from_secs(600);
/// Default time for which clients may use the previous version.
const DEFAULT_GRACE: Duration = Duration::from_secs(3600);
/// Minimum interval between reads after refusals.
const REREAD_INTERVAL: Duration = Duration::from_secs(2);
/// During a rotation the database has the new password while AWSCURRENT is still the old one; observed to
/// last a minute with rotations managed by RDS. For this long, the refusal of a password that has worked
/// before counts as a rotation.
const ROTATION_LIMIT: Duration = Duration::from_secs(120);
/// Lower limit of the refresh time.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Reads are advanced by up to this fraction of the time, so that many processes do not read at the same
/// time.
const JITTER_PART: u32 = 10;
/// Maximum number of servers tracked per secret; more than any cluster has.
const MAX_SERVERS: usize = 256;
/// Maximum number of cached secrets; they come from configuration, so there are far fewer.
const MAX_SECRETS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Secrets by name and identity. Clones share all state.
#[derive(Clone, Debug)]
pub struct SecretCache(Arc<RefreshingCache<SecretRefresh>>);

/// State of the cache for one secret. Contains no secrets.
#[derive(Clone, Debug)]
pub struct SecretStatus {
    /// The secret's key.
    pub key: SecretKey,
    /// Database user of the current version.
    pub username: Option<String>,
    /// The current version.
    pub version_id: Option<String>,
    /// Time of the last successful read.
    pub read_at: Option<SystemTime>,
    /// End of the time for which clients may use the previous version.
    pub previous_until: Option<SystemTime>,
    /// Number of reads.
    pub reads: u64,
    /// Number of failed reads.
    pub failed_reads: u64,
    /// Number of version changes.
    pub rotations: u64,
    /// The error of the last read, if it failed.
    pub last_error: Option<SecretError>,
}

#[derive(Debug)]
struct SecretRefresh {
    source: Arc<dyn SecretSource>,
    refresh_ms: AtomicU64,
    grace_ms: AtomicU64,
}

#[derive(Clone, Debug)]
struct CachedSecret {
    secret: Arc<DatabaseSecret>,
    read_at: SystemTime,
    /// How much earlier than due it is read again, as a fraction of the maximum jitter.
    jitter_fraction: f64,
    /// The read returned another version than the one before.
    is_rotated: bool,
}

/// What is known about a secret besides its current version.
#[derive(Debug, Default)]
struct SecretHistory {
    /// The previous version, and the time of the change.
    previous: Option<(Arc<DatabaseSecret>, SystemTime)>,
    /// Login results by server name.
    servers: HashMap<String, ServerRecord>,
    rotations: u64,
}

/// Login results of one server.
#[derive(Clone, Copy, Debug, Default)]
struct ServerRecord {
    /// The server has accepted some version.
    has_worked: bool,
    refused_since: Option<SystemTime>,
}

impl SecretHistory {
    fn server(&mut self, name: &str) -> Option<&mut ServerRecord> {
        if self.servers.len() >= MAX_SERVERS && !self.servers.contains_key(name) {
            return None;
        }
        Some(self.servers.entry(name.to_owned()).or_default())
    }
}

impl SecretRefresh {
    fn refresh(&self) -> Duration {
        Duration::from_millis(self.refresh_ms.load(Ordering::Relaxed))
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.load(Ordering::Relaxed))
    }
}

impl Refresh for SecretRefresh {
    type Key = SecretKey;
    type Fetched = DatabaseSecret;
    type Value = CachedSecret;
    type Error = SecretError;
    type Record = SecretHistory;

    async fn fetch(&self, key: &SecretKey) -> Result<DatabaseSecret, SecretError> {
        self.source.fetch(key).await
    }

    fn unavailable(key: &SecretKey, reason: String) -> SecretError {
        SecretError::Unavailable { arn: key.arn.to_string(), reason }
    }

    fn accept(
        &self,
        fetched: DatabaseSecret,
        held: Option<&CachedSecret>,
        record: &mut SecretHistory,
        now: SystemTime,
    ) -> Result<CachedSecret, SecretError> {
        let replaced = held.filter(|held| !held.secret.same_login(&fetched));
        if let Some(replaced) = replaced {
            record.previous = Some((Arc::clone(&replaced.secret), now));
            record.servers.values_mut().for_each(|server| server.refused_since = None);
            record.rotations += 1;
        }
        Ok(CachedSecret {
            secret: Arc::new(fetched),
            read_at: now,
            jitter_fraction: jitter(Duration::from_secs(1)).as_secs_f64(),
            is_rotated: replaced.is_some(),
        })
    }

    fn freshness(&self, held: &CachedSecret, now: SystemTime) -> Freshness {
        let refresh = self.refresh();
        let due = held.read_at + refresh - (refresh / JITTER_PART).mul_f64(held.jitter_fraction);
        // A clock that was set back must not stretch the wait beyond its bound.
        if now >= due || now < held.read_at { Freshness::Due } else { Freshness::Fresh }
    }

    fn log(&self, key: &SecretKey, outcome: Result<&CachedSecret, &SecretError>) {
        match outcome {
            Ok(CachedSecret { secret, is_rotated: true, .. }) => tracing::info!(
                secret = %key.arn, user = %secret.username, version = %secret.version_id, "secret rotated"
            ),
            Ok(CachedSecret { secret, .. }) => {
                tracing::debug!(secret = %key.arn, version = %secret.version_id, "secret read");
            }
            Err(error) => tracing::warn!(%error, "secret not read"),
        }
    }
}

impl SecretCache {
    /// A cache over `source`, with the default times.
    pub fn new(source: Arc<dyn SecretSource>, clock: Arc<dyn Clock>) -> Self {
        let rules = SecretRefresh { source, refresh_ms: AtomicU64::new(0), grace_ms: AtomicU64::new(0) };
        let cache = Self(RefreshingCache::new(rules, clock, MAX_SECRETS));
        cache.set_times(DEFAULT_REFRESH, DEFAULT_GRACE);
        cache
    }

    /// Sets the time until secrets are read again and the time for which previous versions are accepted.
    pub fn set_times(&self, refresh: Duration, grace: Duration) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let rules = &self.0.rules;
        rules.refresh_ms.store(ms(refresh.max(MIN_REFRESH)), Ordering::Relaxed);
        rules.grace_ms.store(ms(grace), Ordering::Relaxed);
    }

    /// Drops all other secrets: they are no longer configured.
    pub fn keep_only(&self, keys: &HashSet<SecretKey>) {
        self.0.retain(|key| keys.contains(key));
    }

    /// The cached secret. Waits only if there is none; otherwise a due read runs in the background. Requires
    /// a tokio runtime.
    ///
    /// # Errors
    /// The secret was never read and cannot be read now.
    pub async fn get(&self, key: &SecretKey) -> Result<Arc<DatabaseSecret>, SecretError> {
        Ok(self.0.get(key).await?.secret)
    }

    /// The cached secret and, for some time after a rotation, the previous version: those that clients may
    /// use.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_with_previous(&self, key: &SecretKey) -> Result<Vec<Arc<DatabaseSecret>>, SecretError> {
        let current = self.get(key).await?;
        let grace = self.0.rules.grace();
        let previous = self.0.with_entry(key, |entry, now| {
            // Once its time is over, it is dropped.
            entry.record.previous.take_if(|(_, changed_at)| now >= *changed_at + grace);
            entry.record.previous.as_ref().map(|(secret, _)| Arc::clone(secret))
        });
        Ok(std::iter::once(current).chain(previous).collect())
    }

    /// A version other than `refused`, if there is one by now: read again, unless that was done a moment ago.
    pub async fn after_refusal(
        &self,
        key: &SecretKey,
        refused: &DatabaseSecret,
    ) -> Option<Arc<DatabaseSecret>> {
        let is_other = |held: &CachedSecret| !held.secret.same_login(refused);
        let known = |entry: &Entry<SecretRefresh>, now| {
            let read_lately = entry.was_fetched_within(REREAD_INTERVAL, now);
            match &entry.held {
                Some(held) => (is_other(held) || read_lately).then(|| Ok(held.clone())),
                None => {
                    let is_early = read_lately || entry.quiet_error(now).is_some();
                    entry.last_error().filter(|_| is_early).cloned().map(Err)
                }
            }
        };
        let held = self.0.fetch_unless(key, known).await.ok().filter(is_other)?;
        Some(held.secret)
    }

    /// Records that this server has accepted the secret.
    pub fn worked(&self, key: &SecretKey, server: &str) {
        self.0.with_entry(key, |entry, _| {
            if let Some(record) = entry.record.server(server) {
                *record = ServerRecord { has_worked: true, refused_since: None };
            }
        });
    }

    /// Records that this server has refused the current version. True if that may be due to a rotation in
    /// progress: the secret has worked there before and has not been refused for long.
    pub fn may_be_in_rotation(&self, key: &SecretKey, server: &str) -> bool {
        self.0.with_entry(key, |entry, now| {
            let Some(record) = entry.record.server(server) else { return false };
            let since = *record.refused_since.get_or_insert(now);
            record.has_worked && until(since, now) < ROTATION_LIMIT
        })
    }

    /// The cached state, for display.
    pub fn snapshot(&self) -> Vec<SecretStatus> {
        let grace = self.0.rules.grace();
        self.0.read_all(|key, entry, now| status(key, entry, grace, now))
    }
}

fn status(key: SecretKey, entry: &Entry<SecretRefresh>, grace: Duration, now: SystemTime) -> SecretStatus {
    let held = entry.held.as_ref();
    let record = &entry.record;
    SecretStatus {
        key,
        username: held.map(|held| held.secret.username.clone()),
        version_id: held.map(|held| held.secret.version_id.clone()),
        read_at: held.map(|held| held.read_at),
        previous_until: record.previous.as_ref().map(|(_, at)| *at + grace).filter(|end| now < *end),
        reads: entry.fetches,
        failed_reads: entry.failed_fetches,
        rotations: record.rotations,
        last_error: entry.last_error().cloned(),
    }
}
