//! Tokens on demand: one per (endpoint, port, user, region, identity), renewed before it is needed.
//!
//! Owns: how long a token is reused, and what happens after a refused login or without credentials.
//! Never: opens a connection, or returns an expired token.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;

use crate::backoff::jitter;
use crate::cache::{CredentialCache, CredentialStatus};
use crate::clock::{Clock, SystemClock, until};
use crate::credentials::{CredentialSource, Identity};
use crate::endpoint::region_of;
use crate::error::TokenError;
use crate::region::Region;
use crate::slots::{Slots, lock};
use crate::token::{Token, TokenRequest, sign};

/// Maximum number of cached tokens; the least recently used is evicted. A new one costs microseconds.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Minimum remaining life of a returned token: 20 seconds, the time available from the request to the end of
/// the login. Most tokens have more than five minutes; only while AWS is unreachable do they come close to
/// their expiry.
pub const MIN_TOKEN_LEFT: Duration = Duration::from_secs(20);
/// A token signed further in the future than this means that the clock was set back.
const MAX_CLOCK_STEP: Duration = Duration::from_secs(60);
/// Tokens not used for this time are no longer renewed in the background.
const IDLE_AFTER: Duration = Duration::from_secs(60 * 60);
/// Interval at which the background task checks for tokens and credentials to renew.
const REFRESH_TICK: Duration = Duration::from_secs(30);

/// What a token is for, and the identity that signs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// The RDS endpoint name, lower case.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database user.
    pub user: String,
    /// The region of the database.
    pub region: Region,
    /// The identity that signs.
    pub identity: Identity,
}

impl TokenKey {
    /// A key; without an explicit region, the endpoint's name must contain one. The host is used as given, in
    /// lower case and without a trailing dot.
    ///
    /// # Errors
    /// [`TokenError::UnknownRegion`] if there is no region. Invalid values are reported by
    /// [`TokenEngine::token`].
    pub fn new(
        host: &str,
        port: u16,
        user: &str,
        region: Option<Region>,
        identity: Identity,
    ) -> Result<Self, TokenError> {
        let region = region
            .or_else(|| region_of(host))
            .ok_or_else(|| TokenError::UnknownRegion { host: host.to_owned() })?;
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Ok(Self { host, port, user: user.to_owned(), region, identity })
    }
}

/// State of the engine for one key, without the token.
#[derive(Clone, Debug)]
pub struct TokenStatus {
    /// The key.
    pub key: TokenKey,
    /// The AWS key that signed the token, if there is one.
    pub access_key_id: Option<String>,
    /// Signing time.
    pub signed_at: Option<SystemTime>,
    /// Expiry.
    pub expires_at: Option<SystemTime>,
    /// Time of the last request for the token.
    pub last_used_at: Option<SystemTime>,
    /// Number of refused logins reported for it.
    pub refusals: u64,
    /// The error of the last renewal, if it failed.
    pub last_error: Option<TokenError>,
}

impl TokenStatus {
    /// Whether it is renewed in the background: a login has requested it within the last hour.
    pub fn is_in_use(&self, now: SystemTime) -> bool {
        is_in_use(self.last_used_at, now)
    }
}

fn is_in_use(last_used_at: Option<SystemTime>, now: SystemTime) -> bool {
    last_used_at.is_some_and(|at| until(at, now) < IDLE_AFTER)
}

/// Signs, caches and renews tokens. Clones share all state. Its methods require a tokio runtime.
#[derive(Clone)]
pub struct TokenEngine {
    inner: Arc<EngineInner>,
}

struct EngineInner {
    credentials: CredentialCache,
    clock: Arc<dyn Clock>,
    slots: Slots<TokenKey, Mutex<TokenSlot>>,
}

#[derive(Default)]
struct TokenSlot {
    held: Option<CachedToken>,
    last_used_at: Option<SystemTime>,
    refusals: u64,
    last_error: Option<TokenError>,
}

struct CachedToken {
    token: Arc<Token>,
    renew_at: SystemTime,
}

/// What a slot can offer at a point in time.
enum Offer {
    Fresh(Arc<Token>),
    /// Usable, and due for renewal.
    Aging(Arc<Token>),
    Nothing,
}

impl fmt::Debug for TokenEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEngine").finish_non_exhaustive()
    }
}

impl TokenEngine {
    /// An engine that uses the system clock.
    pub fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self::with_clock(source, Arc::new(SystemClock))
    }

    /// An engine that uses this clock.
    pub fn with_clock(source: Arc<dyn CredentialSource>, clock: Arc<dyn Clock>) -> Self {
        let credentials = CredentialCache::new(source, Arc::clone(&clock));
        Self { inner: Arc::new(EngineInner { credentials, clock, slots: Slots::new(MAX_KEYS) }) }
    }

    /// A token with at least [`MIN_TOKEN_LEFT`] left. Waits only if there is neither a token nor credentials;
    /// while AWS is unreachable, a cached token is used until its expiry.
    ///
    /// # Errors
    /// There is neither a token nor credentials to sign one with, or the key contains invalid values.
    /// [`TokenError::is_transient`] is true if a retry may help.
    pub async fn token(&self, key: &TokenKey) -> Result<Arc<Token>, TokenError> {
        let slot = self.inner.slots.get(key);
        lock(&slot).last_used_at = Some(self.inner.clock.now());
        self.inner.token(key, &slot).await
    }

    /// A token after a login with `refused` was refused: that one is dropped, unless it was already replaced,
    /// and credentials are fetched again, at most twice a minute; in between, the cached ones are used. To be
    /// tried once, as [`log_in`](Self::log_in) does.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn fresh_after_refusal(
        &self,
        key: &TokenKey,
        refused: &Arc<Token>,
    ) -> Result<Arc<Token>, TokenError> {
        let slot = self.inner.slots.get(key);
        let now = self.inner.clock.now();
        {
            let mut slot = lock(&slot);
            slot.last_used_at = Some(now);
            slot.refusals += 1;
            if slot.held.as_ref().is_some_and(|held| is_same(&held.token, refused)) {
                slot.held = None;
            }
            if let Offer::Fresh(token) = slot.offer(now) {
                return Ok(token);
            }
        }
        let identity = &key.identity;
        match self.inner.credentials.after_refusal(identity, refused.access_key_id()).await {
            Ok(credentials) => self.inner.sign_token(key, &slot, &credentials),
            Err(error) => Err(lock(&slot).fail(TokenError::from_credentials(identity, error))),
        }
    }

    /// The credentials of an identity, as used to sign tokens. They have not expired.
    ///
    /// # Errors
    /// As [`token`](Self::token), except that nothing is signed.
    pub async fn credentials(&self, identity: &Identity) -> Result<Credentials, TokenError> {
        let credentials = self.inner.credentials.get(identity).await;
        credentials.map_err(|error| TokenError::from_credentials(identity, error))
    }

    /// Why the last fetch of an identity's credentials failed, if it did; the available ones may still be in use.
    pub fn credential_fault(&self, identity: &Identity) -> Option<TokenError> {
        let all = self.inner.credentials.snapshot();
        let status = all.into_iter().find(|status| status.identity == *identity)?;
        status.last_error.map(|error| TokenError::from_credentials(identity, error))
    }

    /// The credential cache, for other AWS requests with the same identities.
    pub fn credential_cache(&self) -> &CredentialCache {
        &self.inner.credentials
    }

    /// The cached state, for display; never the tokens themselves.
    pub fn snapshot(&self) -> Vec<TokenStatus> {
        let entries = self.inner.slots.entries();
        entries.into_iter().map(|(key, slot)| lock(&slot).status(key)).collect()
    }

    /// The state of the credentials, for display.
    pub fn credentials_snapshot(&self) -> Vec<CredentialStatus> {
        self.inner.credentials.snapshot()
    }

    /// Renews all due tokens that were used recently. [`spawn_refresher`](Self::spawn_refresher) calls it;
    /// callers with their own timer should call it about every 30 seconds.
    pub async fn refresh_due(&self) {
        let now = self.inner.clock.now();
        for (key, slot) in self.inner.slots.entries() {
            let last_used_at = lock(&slot).last_used_at;
            if is_in_use(last_used_at, now) {
                // A failure is stored in the slot and was logged where it occurred.
                let _outcome = self.inner.token(&key, &slot).await;
                // Even if no token is due: this call starts an early refresh of the credentials.
                let _credentials = self.inner.credentials.get_now(&key.identity);
            }
        }
    }

    /// Starts the background renewal task; it ends with the last clone of the engine.
    pub fn spawn_refresher(&self) -> tokio::task::JoinHandle<()> {
        let weak: Weak<EngineInner> = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REFRESH_TICK).await;
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                Self { inner }.refresh_due().await;
            }
        })
    }
}

impl EngineInner {
    async fn token(&self, key: &TokenKey, slot: &Mutex<TokenSlot>) -> Result<Arc<Token>, TokenError> {
        let offer = lock(slot).offer(self.clock.now());
        match offer {
            Offer::Fresh(token) => Ok(token),
            Offer::Aging(token) => match self.credentials.get_now(&key.identity) {
                // An aging token is better than none; the error is kept in the slot for display.
                Some(credentials) => Ok(self.sign_token(key, slot, &credentials).unwrap_or(token)),
                None => Ok(token),
            },
            Offer::Nothing => match self.credentials.get(&key.identity).await {
                Ok(credentials) => self.sign_token(key, slot, &credentials),
                Err(error) => Err(lock(slot).fail(TokenError::from_credentials(&key.identity, error))),
            },
        }
    }

    /// Signs while holding the slot's lock: of several concurrent callers, one signs and the others use its
    /// token.
    fn sign_token(
        &self,
        key: &TokenKey,
        slot: &Mutex<TokenSlot>,
        credentials: &Credentials,
    ) -> Result<Arc<Token>, TokenError> {
        let now = self.clock.now();
        let mut slot = lock(slot);
        if let Offer::Fresh(token) = slot.offer(now) {
            return Ok(token);
        }
        let request = TokenRequest { host: &key.host, port: key.port, user: &key.user, region: &key.region };
        match sign(&request, credentials, now) {
            Ok(token) => {
                let token = Arc::new(token);
                slot.held = Some(CachedToken { renew_at: renewal_time(&token), token: Arc::clone(&token) });
                slot.last_error = None;
                Ok(token)
            }
            Err(error) => Err(slot.fail(TokenError::Sign(error))),
        }
    }
}

impl TokenSlot {
    fn offer(&self, now: SystemTime) -> Offer {
        let Some(held) = &self.held else {
            return Offer::Nothing;
        };
        let is_from_future = until(now, held.token.signed_at()) > MAX_CLOCK_STEP;
        if is_from_future || until(now, held.token.expires_at()) < MIN_TOKEN_LEFT {
            Offer::Nothing
        } else if now < held.renew_at {
            Offer::Fresh(Arc::clone(&held.token))
        } else {
            Offer::Aging(Arc::clone(&held.token))
        }
    }

    fn fail(&mut self, error: TokenError) -> TokenError {
        self.last_error = Some(error.clone());
        error
    }

    fn status(&self, key: TokenKey) -> TokenStatus {
        let token = self.held.as_ref().map(|held| &held.token);
        TokenStatus {
            key,
            access_key_id: token.map(|token| token.access_key_id().to_owned()),
            signed_at: token.map(|token| token.signed_at()),
            expires_at: token.map(|token| token.expires_at()),
            last_used_at: self.last_used_at,
            refusals: self.refusals,
            last_error: self.last_error.clone(),
        }
    }
}

/// At two thirds of its life (ten minutes for most), minus up to a tenth at random.
fn renewal_time(token: &Token) -> SystemTime {
    let reuse = until(token.signed_at(), token.expires_at()) * 2 / 3;
    token.signed_at() + (reuse - jitter(reuse / 10))
}

fn is_same(held: &Arc<Token>, refused: &Arc<Token>) -> bool {
    Arc::ptr_eq(held, refused) || held.expose() == refused.expose()
}
