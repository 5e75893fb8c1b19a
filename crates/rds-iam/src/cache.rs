//! One set of credentials per identity, kept fresh.
//!
//! Owns: when credentials are fetched (once at a time per identity, early, with backoff), how long they are
//! used and which ones are rejected. The SDK's providers do not cache: each call is a request to STS or
//! instance metadata.
//! Never: signs anything, or returns credentials that have expired.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;

use crate::aws::{keep_origin, provider_of};
use crate::backoff::{Failures, jitter};
use crate::clock::{Clock, until};
use crate::credentials::{CredentialError, CredentialSource, Identity, outcome_of};
use crate::single_flight::SingleFlight;
use crate::slots::{Slots, lock};

/// Credentials with less time left are returned only if the source, asked again, has no others: a login may
/// take longer than that.
const MIN_REMAINING: Duration = Duration::from_secs(60);
/// Refresh when less than this is left, or half of their lifetime if that is shorter.
const REFRESH_MARGIN: Duration = Duration::from_secs(20 * 60);
/// Credentials without an expiry (static keys, some `credential_process` tools) are fetched again after this
/// time.
const ENDLESS_RECHECK: Duration = Duration::from_secs(15 * 60);
/// Timeout of a fetch; allows for chains of several sources with retries.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// After a refused login, credentials are fetched again unless that was tried within this time.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// Interval at which a source is asked for replacements of credentials that are about to expire.
const EXPIRING_RECHECK: Duration = Duration::from_secs(5);
/// The SDK extends the expiry of stale instance credentials by at most this.
const MAX_IMDS_EXTENSION: Duration = Duration::from_secs(15 * 60);
/// Maximum number of cached identities; configurations have far fewer.
const MAX_IDENTITIES: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Credentials by identity. Clones share all state.
#[derive(Clone, Debug)]
pub struct CredentialCache {
    source: Arc<dyn CredentialSource>,
    clock: Arc<dyn Clock>,
    slots: Arc<Slots<Identity, CredentialSlot>>,
}

/// State of the cache for one identity. Contains no secrets.
#[derive(Clone, Debug)]
pub struct CredentialStatus {
    /// The identity.
    pub identity: Identity,
    /// The current key, if any.
    pub access_key_id: Option<String>,
    /// Its source, for display, such as "instance metadata"; `None` without a key.
    pub provider: Option<String>,
    /// Expiry of the key; `None` also for keys without one.
    pub ends_at: Option<SystemTime>,
    /// Number of fetches.
    pub fetches: u64,
    /// Number of failed fetches.
    pub failed_fetches: u64,
    /// The error of the last fetch, if it failed.
    pub last_error: Option<CredentialError>,
}

#[derive(Debug, Default)]
struct CredentialSlot {
    state: Mutex<CredentialSlotState>,
    single_flight: SingleFlight,
}

#[derive(Debug, Default)]
struct CredentialSlotState {
    held: Option<CachedCredentials>,
    failures: Option<Failures<CredentialError>>,
    last_fetch_at: Option<SystemTime>,
    fetches: u64,
    failed_fetches: u64,
}

#[derive(Debug)]
struct CachedCredentials {
    credentials: Credentials,
    refresh_at: SystemTime,
}

/// The state of a slot at a point in time.
enum CredentialState {
    Fresh(Credentials),
    /// Usable, and due for a refresh.
    Due(Credentials),
    /// About to expire: usable if the source has no others.
    Expiring(Credentials),
    Missing,
    /// Nothing usable, and in backoff.
    Quiet(CredentialError),
}

impl CredentialCache {
    /// A cache over `source`.
    pub fn new(source: Arc<dyn CredentialSource>, clock: Arc<dyn Clock>) -> Self {
        Self { source, clock, slots: Arc::new(Slots::new(MAX_IDENTITIES)) }
    }

    /// Returns credentials with at least a minute left if the source has any, else ones that have not
    /// expired. Waits only if none with a minute left are cached; otherwise a due refresh runs in the
    /// background. Requires a tokio runtime.
    ///
    /// # Errors
    /// The source returned none within 30 seconds. The same error is then returned from the cache for a
    /// second to a minute.
    pub async fn get(&self, identity: &Identity) -> Result<Credentials, CredentialError> {
        let slot = self.slots.get(identity);
        match slot.state_at(self.clock.now()) {
            CredentialState::Fresh(credentials) => Ok(credentials),
            CredentialState::Due(credentials) => {
                self.fetch_in_background(identity, &slot);
                Ok(credentials)
            }
            CredentialState::Quiet(error) => Err(error),
            CredentialState::Missing => self.fetch_and_wait(identity, &slot, None).await,
            CredentialState::Expiring(credentials) => {
                let fetched = self.fetch_and_wait(identity, &slot, None).await;
                fetched.or_else(|error| {
                    if has_expired(&credentials, self.clock.now()) { Err(error) } else { Ok(credentials) }
                })
            }
        }
    }

    /// Like [`get`](Self::get), but never waits: `None` if nothing is cached (a fetch is then in progress).
    pub(crate) fn get_now(&self, identity: &Identity) -> Option<Credentials> {
        let slot = self.slots.get(identity);
        match slot.state_at(self.clock.now()) {
            CredentialState::Fresh(credentials) => Some(credentials),
            CredentialState::Due(credentials) | CredentialState::Expiring(credentials) => {
                self.fetch_in_background(identity, &slot);
                Some(credentials)
            }
            CredentialState::Missing => {
                self.fetch_in_background(identity, &slot);
                None
            }
            CredentialState::Quiet(_) => None,
        }
    }

    /// Returns credentials after a login with `refused_key_id` was refused: fetched again, unless others are
    /// already cached or the last fetch was a moment ago. If that fails, returns the cached ones if they have
    /// not expired, else the error.
    pub async fn after_refusal(
        &self,
        identity: &Identity,
        refused_key_id: &str,
    ) -> Result<Credentials, CredentialError> {
        let slot = self.slots.get(identity);
        if let Some(credentials) = slot.answer_after_refusal(refused_key_id, self.clock.now()) {
            return Ok(credentials);
        }
        match self.fetch_and_wait(identity, &slot, Some(refused_key_id)).await {
            Ok(credentials) => Ok(credentials),
            Err(error) => slot.usable(self.clock.now()).ok_or(error),
        }
    }

    /// The cached state, for display.
    pub fn snapshot(&self) -> Vec<CredentialStatus> {
        self.slots.entries().into_iter().map(|(identity, slot)| slot.status(identity)).collect()
    }

    fn fetch_in_background(&self, identity: &Identity, slot: &Arc<CredentialSlot>) {
        let Some(permit) = slot.single_flight.try_acquire() else { return };
        let (cache, identity, slot) = (self.clone(), identity.clone(), Arc::clone(slot));
        permit.spawn(async move { cache.fetch(&identity, &slot).await });
    }

    /// Waits for the single fetch of this identity.
    async fn fetch_and_wait(
        &self,
        identity: &Identity,
        slot: &Arc<CredentialSlot>,
        refused_key_id: Option<&str>,
    ) -> Result<Credentials, CredentialError> {
        let permit = slot.single_flight.acquire().await;
        let now = self.clock.now();
        // Another task may have fetched them in the meantime.
        match refused_key_id {
            Some(key_id) => {
                if let Some(credentials) = slot.answer_after_refusal(key_id, now) {
                    return Ok(credentials);
                }
            }
            None => match slot.state_at(now) {
                CredentialState::Fresh(credentials) | CredentialState::Due(credentials) => {
                    return Ok(credentials);
                }
                CredentialState::Quiet(error) => return Err(error),
                CredentialState::Missing | CredentialState::Expiring(_) => {}
            },
        }
        let (cache, identity, slot) = (self.clone(), identity.clone(), Arc::clone(slot));
        let fetched = permit.run(async move { cache.fetch(&identity, &slot).await }).await;
        fetched.unwrap_or_else(|stopped| Err(CredentialError::Unavailable { reason: stopped.to_string() }))
    }

    async fn fetch(
        &self,
        identity: &Identity,
        slot: &CredentialSlot,
    ) -> Result<Credentials, CredentialError> {
        let answer = tokio::time::timeout(FETCH_TIMEOUT, outcome_of(self.source.fetch(identity))).await;
        let answer = answer.unwrap_or_else(|_elapsed| {
            let reason = format!("no answer within {} s", FETCH_TIMEOUT.as_secs());
            Err(CredentialError::Unavailable { reason })
        });
        let outcome = slot.record(answer, self.clock.now());
        match &outcome {
            Ok(credentials) => tracing::debug!(
                %identity, access_key_id = credentials.access_key_id(), "AWS credentials fetched"
            ),
            Err(error) => tracing::warn!(%identity, %error, "AWS credentials not refreshed"),
        }
        outcome
    }
}

impl CredentialSlot {
    fn state_at(&self, now: SystemTime) -> CredentialState {
        let state = lock(&self.state);
        let failures = state.failures.as_ref().filter(|failures| failures.is_quiet(now));
        match (&state.held, failures) {
            (Some(held), quiet) if held.is_usable(now) => {
                if now >= held.refresh_at && quiet.is_none() {
                    CredentialState::Due(held.credentials.clone())
                } else {
                    CredentialState::Fresh(held.credentials.clone())
                }
            }
            (Some(held), quiet) if !has_expired(&held.credentials, now) => {
                if quiet.is_some() || state.was_fetched_within(EXPIRING_RECHECK, now) {
                    CredentialState::Fresh(held.credentials.clone())
                } else {
                    CredentialState::Expiring(held.credentials.clone())
                }
            }
            (_, Some(failures)) => CredentialState::Quiet(failures.last_error.clone()),
            (_, None) => CredentialState::Missing,
        }
    }

    fn usable(&self, now: SystemTime) -> Option<Credentials> {
        let state = lock(&self.state);
        let held = state.held.as_ref().filter(|held| !has_expired(&held.credentials, now));
        held.map(|held| held.credentials.clone())
    }

    /// Credentials to try next without a fetch, if a fetch would not help.
    fn answer_after_refusal(&self, refused_key_id: &str, now: SystemTime) -> Option<Credentials> {
        let state = lock(&self.state);
        let held = state.held.as_ref().filter(|held| !has_expired(&held.credentials, now))?;
        let is_other_key = held.credentials.access_key_id() != refused_key_id;
        // Many causes of a refusal are not fixed by a fetch; refusals must not cause a stream of calls to STS.
        let fetched_lately = state.was_fetched_within(REFETCH_INTERVAL, now);
        let is_quiet = state.failures.as_ref().is_some_and(|failures| failures.is_quiet(now));
        (is_other_key || fetched_lately || is_quiet).then(|| held.credentials.clone())
    }

    /// Stores the result of a fetch.
    fn record(
        &self,
        answer: Result<Credentials, CredentialError>,
        now: SystemTime,
    ) -> Result<Credentials, CredentialError> {
        let mut state = lock(&self.state);
        state.fetches += 1;
        state.last_fetch_at = Some(now);
        let accepted = answer.and_then(|credentials| accept(credentials, state.held.as_ref(), now));
        match accepted {
            Ok(credentials) => {
                let refresh_at = refresh_time(credentials.expiry(), now);
                state.held = Some(CachedCredentials { credentials: credentials.clone(), refresh_at });
                state.failures = None;
                Ok(credentials)
            }
            Err(error) => {
                state.failed_fetches += 1;
                state.failures = Some(Failures::after(state.failures.as_ref(), error.clone(), now));
                Err(error)
            }
        }
    }

    fn status(&self, identity: Identity) -> CredentialStatus {
        let state = lock(&self.state);
        let credentials = state.held.as_ref().map(|held| &held.credentials);
        CredentialStatus {
            identity,
            access_key_id: credentials.map(|credentials| credentials.access_key_id().to_owned()),
            provider: credentials.map(provider_of),
            ends_at: credentials.and_then(Credentials::expiry),
            fetches: state.fetches,
            failed_fetches: state.failed_fetches,
            last_error: state.failures.as_ref().map(|failures| failures.last_error.clone()),
        }
    }
}

impl CredentialSlotState {
    fn was_fetched_within(&self, interval: Duration, now: SystemTime) -> bool {
        self.last_fetch_at.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < interval))
    }
}

fn has_expired(credentials: &Credentials, now: SystemTime) -> bool {
    credentials.expiry().is_some_and(|end| end <= now)
}

impl CachedCredentials {
    fn is_usable(&self, now: SystemTime) -> bool {
        self.credentials.expiry().is_none_or(|end| until(now, end) >= MIN_REMAINING)
    }
}

/// Checks the expiry of fetched credentials, and corrects expiry and source where the SDK is known to alter
/// them.
fn accept(
    mut credentials: Credentials,
    held: Option<&CachedCredentials>,
    now: SystemTime,
) -> Result<Credentials, CredentialError> {
    let known = held.map(|held| &held.credentials);
    let known = known.filter(|known| known.access_key_id() == credentials.access_key_id());
    keep_origin(&mut credentials, known);
    let known_end = known.and_then(Credentials::expiry);
    // The expiry of a key never changes. The SDK changes it when the instance metadata service returns
    // expired keys ("static stability"); RDS would refuse them without a reason.
    match (known_end, credentials.expiry()) {
        (Some(known), Some(reported)) if reported > known => {
            let access_key_id = credentials.access_key_id().to_owned();
            tracing::warn!(
                access_key_id,
                "source extended the expiry of a known AWS key; keeping the original one"
            );
            *credentials.expiry_mut() = Some(known);
        }
        (Some(known), None) => *credentials.expiry_mut() = Some(known),
        _ => {}
    }
    let Some(end) = credentials.expiry() else {
        return Ok(credentials);
    };
    let left = until(now, end);
    if left.is_zero() {
        let access_key_id = credentials.access_key_id().to_owned();
        return Err(CredentialError::Expired { access_key_id });
    }
    if left <= MAX_IMDS_EXTENSION {
        let (access_key_id, left_seconds) = (credentials.access_key_id(), left.as_secs());
        tracing::info!(
            access_key_id,
            left_seconds,
            "AWS credentials expire soon, or are stale and were extended"
        );
    }
    Ok(credentials)
}

fn refresh_time(end: Option<SystemTime>, now: SystemTime) -> SystemTime {
    match end {
        None => now + (ENDLESS_RECHECK - jitter(ENDLESS_RECHECK / 10)),
        Some(end) => {
            let left = until(now, end);
            let margin = REFRESH_MARGIN.min(left / 2);
            // Up to a tenth earlier, so that many processes do not refresh at the same time.
            now + (left - margin).saturating_sub(jitter(margin / 10))
        }
    }
}
