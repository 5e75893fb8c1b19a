//! One set of credentials per identity, kept fresh.
//!
//! Owns: how long credentials are used, when they are fetched early, and which ones are rejected. The SDK's
//! providers do not cache: each call is a request to STS or instance metadata.
//! Never: signs anything, or returns credentials that have expired.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;

use crate::aws::{keep_origin, provider_of};
use crate::backoff::jitter;
use crate::clock::{Clock, until};
use crate::credentials::{CredentialError, CredentialSource, Identity, outcome_of};
use crate::refreshing::{Entry, Freshness, Refresh, RefreshingCache};

/// Credentials with less time left are returned only if the source, asked again, has no others: a login may
/// take longer than that.
const MIN_REMAINING: Duration = Duration::from_secs(60);
/// Refresh when less than this is left, or half of their lifetime if that is shorter.
const REFRESH_MARGIN: Duration = Duration::from_secs(20 * 60);
/// Credentials without an expiry (static keys, some `credential_process` tools) are fetched again after this
/// time.
const ENDLESS_RECHECK: Duration = Duration::from_secs(15 * 60);
/// After a refused login, credentials are fetched again unless that was tried within this time.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// The SDK extends the expiry of stale instance credentials by at most this.
const MAX_IMDS_EXTENSION: Duration = Duration::from_secs(15 * 60);
/// Maximum number of cached identities; configurations have far fewer.
const MAX_IDENTITIES: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Credentials by identity. Clones share all state.
#[derive(Clone, Debug)]
pub struct CredentialCache(Arc<RefreshingCache<CredentialRefresh>>);

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

#[derive(Debug)]
struct CredentialRefresh {
    source: Arc<dyn CredentialSource>,
}

#[derive(Clone, Debug)]
struct CachedCredentials {
    credentials: Credentials,
    refresh_at: SystemTime,
}

impl Refresh for CredentialRefresh {
    type Key = Identity;
    type Fetched = Credentials;
    type Value = CachedCredentials;
    type Error = CredentialError;
    type Record = ();

    async fn fetch(&self, identity: &Identity) -> Result<Credentials, CredentialError> {
        outcome_of(self.source.fetch(identity)).await
    }

    fn unavailable(_: &Identity, reason: String) -> CredentialError {
        CredentialError::Unavailable { reason }
    }

    fn accept(
        &self,
        fetched: Credentials,
        held: Option<&CachedCredentials>,
        (): &mut (),
        now: SystemTime,
    ) -> Result<CachedCredentials, CredentialError> {
        let credentials = accept(fetched, held, now)?;
        Ok(CachedCredentials { refresh_at: refresh_time(credentials.expiry(), now), credentials })
    }

    fn freshness(&self, held: &CachedCredentials, now: SystemTime) -> Freshness {
        let left = held.credentials.expiry().map(|end| until(now, end));
        match left {
            Some(Duration::ZERO) => Freshness::Expired,
            Some(left) if left < MIN_REMAINING => Freshness::Expiring,
            _ if now >= held.refresh_at => Freshness::Due,
            _ => Freshness::Fresh,
        }
    }

    fn log(&self, identity: &Identity, outcome: Result<&CachedCredentials, &CredentialError>) {
        match outcome {
            Ok(held) => tracing::debug!(
                %identity, access_key_id = held.credentials.access_key_id(), "AWS credentials fetched"
            ),
            Err(error) => tracing::warn!(%identity, %error, "AWS credentials not refreshed"),
        }
    }
}

impl CredentialCache {
    /// A cache over `source`.
    pub fn new(source: Arc<dyn CredentialSource>, clock: Arc<dyn Clock>) -> Self {
        Self(RefreshingCache::new(CredentialRefresh { source }, clock, MAX_IDENTITIES))
    }

    /// Returns credentials with at least a minute left if the source has any, else ones that have not
    /// expired. Waits only if none with a minute left are cached; otherwise a due refresh runs in the
    /// background. Requires a tokio runtime.
    ///
    /// # Errors
    /// The source returned none within 30 seconds. The same error is then returned from the cache for a
    /// second to a minute.
    pub async fn get(&self, identity: &Identity) -> Result<Credentials, CredentialError> {
        Ok(self.0.get(identity).await?.credentials)
    }

    /// Like [`get`](Self::get), but never waits: `None` if nothing is cached (a fetch is then in progress).
    pub(crate) fn get_now(&self, identity: &Identity) -> Option<Credentials> {
        self.0.get_now(identity).map(|held| held.credentials)
    }

    /// Returns credentials after a login with `refused_key_id` was refused: fetched again, unless others are
    /// already cached or the last fetch was a moment ago. If that fails, returns the cached ones if they have
    /// not expired, else the error.
    pub async fn after_refusal(
        &self,
        identity: &Identity,
        refused_key_id: &str,
    ) -> Result<Credentials, CredentialError> {
        let known = |entry: &Entry<_>, now| answer_after_refusal(entry, refused_key_id, now).map(Ok);
        match self.0.fetch_unless(identity, known).await {
            Ok(held) => Ok(held.credentials),
            Err(error) => self.0.with_entry(identity, |entry, now| {
                usable(entry, now).map(|held| held.credentials.clone()).ok_or(error)
            }),
        }
    }

    /// The cached state, for display.
    pub fn snapshot(&self) -> Vec<CredentialStatus> {
        self.0.read_all(|identity, entry, _| status(identity, entry))
    }
}

fn usable(entry: &Entry<CredentialRefresh>, now: SystemTime) -> Option<&CachedCredentials> {
    entry.held.as_ref().filter(|held| held.credentials.expiry().is_none_or(|end| end > now))
}

/// Credentials to try next without a fetch, if a fetch would not help.
fn answer_after_refusal(
    entry: &Entry<CredentialRefresh>,
    refused_key_id: &str,
    now: SystemTime,
) -> Option<CachedCredentials> {
    let held = usable(entry, now)?;
    let is_other_key = held.credentials.access_key_id() != refused_key_id;
    let fetched_lately = entry.was_fetched_within(REFETCH_INTERVAL, now);
    (is_other_key || fetched_lately || entry.quiet_error(now).is_some()).then(|| held.clone())
}

fn status(identity: Identity, entry: &Entry<CredentialRefresh>) -> CredentialStatus {
    let credentials = entry.held.as_ref().map(|held| &held.credentials);
    CredentialStatus {
        identity,
        access_key_id: credentials.map(|credentials| credentials.access_key_id().to_owned()),
        provider: credentials.map(provider_of),
        ends_at: credentials.and_then(Credentials::expiry),
        fetches: entry.fetches,
        failed_fetches: entry.failed_fetches,
        last_error: entry.last_error().cloned(),
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
