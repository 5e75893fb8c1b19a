//! Cached secrets, kept fresh.
//!
//! Owns: when a secret is read again (with jitter, in the background, once at a time), the previous version,
//! and how long a refused password may be due to a rotation in progress.
//! Never: drops a secret because Secrets Manager is unreachable; a password has no expiry.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::{DatabaseSecret, SecretError, SecretKey, SecretSource};
use crate::backoff::{Failures, jitter};
use crate::clock::{Clock, until};
use crate::single_flight::SingleFlight;
use crate::slots::{Slots, lock};

/// Default time until a secret is read again.
const DEFAULT_REFRESH: Duration = Duration::from_secs(600);
/// Default time for which clients may use the previous version.
const DEFAULT_GRACE: Duration = Duration::from_secs(3600);
/// Timeout of a read.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
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
pub struct SecretCache {
    source: Arc<dyn SecretSource>,
    clock: Arc<dyn Clock>,
    slots: Arc<Slots<SecretKey, SecretSlot>>,
    times: Arc<RefreshTimes>,
}

#[derive(Debug)]
struct RefreshTimes {
    refresh_ms: AtomicU64,
    grace_ms: AtomicU64,
}

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

#[derive(Debug, Default)]
struct SecretSlot {
    state: Mutex<SecretSlotState>,
    single_flight: SingleFlight,
}

#[derive(Debug, Default)]
struct SecretSlotState {
    held: Option<CachedSecret>,
    /// The previous version, and the time of the change.
    previous: Option<(Arc<DatabaseSecret>, SystemTime)>,
    failures: Option<Failures<SecretError>>,
    last_read_at: Option<SystemTime>,
    /// Login results by server name.
    servers: HashMap<String, ServerRecord>,
    reads: u64,
    failed_reads: u64,
    rotations: u64,
}

#[derive(Debug)]
struct CachedSecret {
    secret: Arc<DatabaseSecret>,
    read_at: SystemTime,
    /// How much earlier than due it is read again, as a fraction of the maximum jitter.
    jitter_fraction: f64,
}

/// Login results of one server.
#[derive(Clone, Copy, Debug, Default)]
struct ServerRecord {
    /// The server has accepted some version.
    has_worked: bool,
    refused_since: Option<SystemTime>,
}

impl CachedSecret {
    fn is_due(&self, now: SystemTime, refresh: Duration) -> bool {
        let due = self.read_at + refresh - (refresh / JITTER_PART).mul_f64(self.jitter_fraction);
        // A clock that was set back must not stretch the wait beyond its bound.
        now >= due || now < self.read_at
    }
}

/// The state of a slot at a point in time.
enum SecretState {
    Fresh(Arc<DatabaseSecret>),
    /// Usable, and due to be read again.
    Due(Arc<DatabaseSecret>),
    Missing,
    /// Nothing cached, and in backoff.
    Quiet(SecretError),
}

impl SecretCache {
    /// A cache over `source`, with the default times.
    pub fn new(source: Arc<dyn SecretSource>, clock: Arc<dyn Clock>) -> Self {
        let times = RefreshTimes { refresh_ms: AtomicU64::new(0), grace_ms: AtomicU64::new(0) };
        let cache = Self { source, clock, slots: Arc::new(Slots::new(MAX_SECRETS)), times: Arc::new(times) };
        cache.set_times(DEFAULT_REFRESH, DEFAULT_GRACE);
        cache
    }

    /// Sets the time until secrets are read again and the time for which previous versions are accepted.
    pub fn set_times(&self, refresh: Duration, grace: Duration) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.times.refresh_ms.store(ms(refresh.max(MIN_REFRESH)), Ordering::Relaxed);
        self.times.grace_ms.store(ms(grace), Ordering::Relaxed);
    }

    /// Drops all other secrets: they are no longer configured.
    pub fn keep_only(&self, keys: &HashSet<SecretKey>) {
        self.slots.retain(|key| keys.contains(key));
    }

    fn refresh(&self) -> Duration {
        Duration::from_millis(self.times.refresh_ms.load(Ordering::Relaxed))
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.times.grace_ms.load(Ordering::Relaxed))
    }

    /// The cached secret. Waits only if there is none; otherwise a due read runs in the background. Requires
    /// a tokio runtime.
    ///
    /// # Errors
    /// The secret was never read and cannot be read now.
    pub async fn get(&self, key: &SecretKey) -> Result<Arc<DatabaseSecret>, SecretError> {
        let slot = self.slots.get(key);
        match slot.state_at(self.clock.now(), self.refresh()) {
            SecretState::Fresh(secret) => Ok(secret),
            SecretState::Due(secret) => {
                self.read_in_background(key, &slot);
                Ok(secret)
            }
            SecretState::Quiet(error) => Err(error),
            SecretState::Missing => self.read_and_wait(key, &slot, None).await,
        }
    }

    /// The cached secret and, for some time after a rotation, the previous version: those that clients may
    /// use.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_with_previous(&self, key: &SecretKey) -> Result<Vec<Arc<DatabaseSecret>>, SecretError> {
        let current = self.get(key).await?;
        let previous = self.slots.get(key).previous(self.clock.now(), self.grace());
        Ok(std::iter::once(current).chain(previous).collect())
    }

    /// A version other than `refused`, if there is one by now: read again, unless that was done a moment ago.
    pub async fn after_refusal(
        &self,
        key: &SecretKey,
        refused: &DatabaseSecret,
    ) -> Option<Arc<DatabaseSecret>> {
        let slot = self.slots.get(key);
        let other = |secret: &Arc<DatabaseSecret>| !secret.same_login(refused);
        if let Some(secret) = slot.held().filter(other) {
            return Some(secret);
        }
        if slot.was_read_lately(self.clock.now()) {
            return None;
        }
        self.read_and_wait(key, &slot, Some(refused)).await.ok().filter(other)
    }

    /// Records that this server has accepted the secret.
    pub fn worked(&self, key: &SecretKey, server: &str) {
        let slot = self.slots.get(key);
        if let Some(record) = lock(&slot.state).server(server) {
            *record = ServerRecord { has_worked: true, refused_since: None };
        }
    }

    /// Records that this server has refused the current version. True if that may be due to a rotation in
    /// progress: the secret has worked there before and has not been refused for long.
    pub fn may_be_in_rotation(&self, key: &SecretKey, server: &str) -> bool {
        let now = self.clock.now();
        let slot = self.slots.get(key);
        let mut state = lock(&slot.state);
        let Some(record) = state.server(server) else { return false };
        let since = *record.refused_since.get_or_insert(now);
        record.has_worked && until(since, now) < ROTATION_LIMIT
    }

    /// The cached state, for display.
    pub fn snapshot(&self) -> Vec<SecretStatus> {
        let (now, grace) = (self.clock.now(), self.grace());
        self.slots.entries().into_iter().map(|(key, slot)| slot.status(key, now, grace)).collect()
    }

    fn read_in_background(&self, key: &SecretKey, slot: &Arc<SecretSlot>) {
        let Some(permit) = slot.single_flight.try_acquire() else { return };
        let (cache, key, slot) = (self.clone(), key.clone(), Arc::clone(slot));
        permit.spawn(async move { cache.read(&key, &slot).await });
    }

    /// Waits for the single read of this secret.
    async fn read_and_wait(
        &self,
        key: &SecretKey,
        slot: &Arc<SecretSlot>,
        refused: Option<&DatabaseSecret>,
    ) -> Result<Arc<DatabaseSecret>, SecretError> {
        let permit = slot.single_flight.acquire().await;
        // Another task may have read it in the meantime.
        let now = self.clock.now();
        match slot.state_at(now, self.refresh()) {
            SecretState::Fresh(secret) | SecretState::Due(secret)
                if refused.is_none_or(|refused| !secret.same_login(refused)) || slot.was_read_lately(now) =>
            {
                return Ok(secret);
            }
            SecretState::Quiet(error) => return Err(error),
            _ => {}
        }
        let (cache, key, slot) = (self.clone(), key.clone(), Arc::clone(slot));
        let arn = key.arn.to_string();
        let read = permit.run(async move { cache.read(&key, &slot).await }).await;
        read.unwrap_or_else(|stopped| Err(SecretError::Unavailable { arn, reason: stopped.to_string() }))
    }

    async fn read(&self, key: &SecretKey, slot: &SecretSlot) -> Result<Arc<DatabaseSecret>, SecretError> {
        let answer = tokio::time::timeout(FETCH_TIMEOUT, self.source.fetch(key)).await;
        let answer = answer.unwrap_or_else(|_elapsed| {
            let reason = format!("no answer within {} s", FETCH_TIMEOUT.as_secs());
            Err(SecretError::Unavailable { arn: key.arn.to_string(), reason })
        });
        let (outcome, is_rotated) = slot.record(answer, self.clock.now());
        match &outcome {
            Ok(secret) if is_rotated => tracing::info!(
                secret = %key.arn, user = %secret.username, version = %secret.version_id, "secret rotated"
            ),
            Ok(secret) => tracing::debug!(secret = %key.arn, version = %secret.version_id, "secret read"),
            Err(error) => tracing::warn!(%error, "secret not read"),
        }
        outcome
    }
}

impl SecretSlotState {
    fn server(&mut self, name: &str) -> Option<&mut ServerRecord> {
        if self.servers.len() >= MAX_SERVERS && !self.servers.contains_key(name) {
            return None;
        }
        Some(self.servers.entry(name.to_owned()).or_default())
    }
}

impl SecretSlot {
    fn state_at(&self, now: SystemTime, refresh: Duration) -> SecretState {
        let state = lock(&self.state);
        let failures = state.failures.as_ref().filter(|failures| failures.is_quiet(now));
        match (&state.held, failures) {
            (Some(held), None) if held.is_due(now, refresh) => SecretState::Due(Arc::clone(&held.secret)),
            (Some(held), _) => SecretState::Fresh(Arc::clone(&held.secret)),
            (None, Some(failures)) => SecretState::Quiet(failures.last_error.clone()),
            (None, None) => SecretState::Missing,
        }
    }

    fn held(&self) -> Option<Arc<DatabaseSecret>> {
        lock(&self.state).held.as_ref().map(|held| Arc::clone(&held.secret))
    }

    /// The previous version, unless its time is over; then it is dropped.
    fn previous(&self, now: SystemTime, grace: Duration) -> Option<Arc<DatabaseSecret>> {
        let mut state = lock(&self.state);
        state.previous.take_if(|(_, changed_at)| now >= *changed_at + grace);
        state.previous.as_ref().map(|(secret, _)| Arc::clone(secret))
    }

    /// Many causes of a refusal are not fixed by a read; refusals must not cause a stream of calls.
    fn was_read_lately(&self, now: SystemTime) -> bool {
        let last = lock(&self.state).last_read_at;
        last.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < REREAD_INTERVAL))
    }

    /// Stores the result of a read. True if the version differs from the previous one.
    fn record(
        &self,
        answer: Result<DatabaseSecret, SecretError>,
        now: SystemTime,
    ) -> (Result<Arc<DatabaseSecret>, SecretError>, bool) {
        let mut state = lock(&self.state);
        state.reads += 1;
        state.last_read_at = Some(now);
        let read = match answer {
            Ok(read) => Arc::new(read),
            Err(error) => {
                state.failed_reads += 1;
                state.failures = Some(Failures::after(state.failures.as_ref(), error.clone(), now));
                return (Err(error), false);
            }
        };
        state.failures = None;
        let before = state.held.take().map(|held| held.secret);
        let is_rotated = before.as_ref().is_some_and(|before| !before.same_login(&read));
        if let Some(before) = before.filter(|_| is_rotated) {
            state.previous = Some((before, now));
            state.servers.values_mut().for_each(|record| record.refused_since = None);
            state.rotations += 1;
        }
        let jitter_fraction = jitter(Duration::from_secs(1)).as_secs_f64();
        state.held = Some(CachedSecret { secret: Arc::clone(&read), read_at: now, jitter_fraction });
        (Ok(read), is_rotated)
    }

    fn status(&self, key: SecretKey, now: SystemTime, grace: Duration) -> SecretStatus {
        let state = lock(&self.state);
        let held = state.held.as_ref();
        SecretStatus {
            key,
            username: held.map(|held| held.secret.username.clone()),
            version_id: held.map(|held| held.secret.version_id.clone()),
            read_at: held.map(|held| held.read_at),
            previous_until: state.previous.as_ref().map(|(_, at)| *at + grace).filter(|end| now < *end),
            reads: state.reads,
            failed_reads: state.failed_reads,
            rotations: state.rotations,
            last_error: state.failures.as_ref().map(|failures| failures.last_error.clone()),
        }
    }
}
