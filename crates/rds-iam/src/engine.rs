//! Tokens on demand: one per (endpoint, port, user, region, identity), renewed before anybody needs it.
//!
//! Owns: how long a token is reused, what happens when a login was refused and when credentials cannot be had.
//! Never: opens a connection, never hands out a token past its end.

use std::fmt;
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

/// How many tokens are kept. Beyond it the least recently used one goes; a new one costs microseconds.
const MAX_KEYS: usize = 4096;
/// What is left of a token at least when it is handed out: 20 seconds. Between asking for it and the end of the login,
/// less has to pass. Most have more than five minutes; only while AWS is out of reach do they come close to their end.
pub const MIN_TOKEN_LEFT: Duration = Duration::from_secs(20);
/// A token signed further ahead than this means that the clock was set back.
const MAX_CLOCK_STEP: Duration = Duration::from_secs(60);
/// Tokens that nobody asked for in this time are no longer renewed in the background.
const IDLE_AFTER: Duration = Duration::from_secs(60 * 60);
/// How often the background task looks for tokens and credentials to renew.
const REFRESH_TICK: Duration = Duration::from_secs(30);

/// What a token is for and who signs it.
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
    /// Who signs.
    pub identity: Identity,
}

impl TokenKey {
    /// A key; without a region given it must be in the endpoint's name. The host is taken as it is but for its case and
    /// a final dot.
    ///
    /// # Errors
    /// [`TokenError::UnknownRegion`] if neither tells a region. What cannot be signed for, [`TokenEngine::token`] tells.
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

/// What the engine holds for one key, without the token.
#[derive(Clone, Debug)]
pub struct TokenStatus {
    /// What it is for.
    pub key: TokenKey,
    /// Which AWS key signed it, if there is one.
    pub access_key_id: Option<String>,
    /// When it was signed.
    pub signed_at: Option<SystemTime>,
    /// When it ends.
    pub expires_at: Option<SystemTime>,
    /// When somebody last asked for it.
    pub last_used_at: Option<SystemTime>,
    /// How many logins with it were reported as refused.
    pub refusals: u64,
    /// Why the last attempt to renew it failed, if it did.
    pub last_error: Option<TokenError>,
}

/// Makes, keeps and renews tokens. Clones share everything. Its methods need a tokio runtime.
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

/// What a slot offers at a moment.
enum Offer {
    Fresh(Arc<Token>),
    /// Usable, and it is time for the next one.
    Aging(Arc<Token>),
    Nothing,
}

impl fmt::Debug for TokenEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEngine").finish_non_exhaustive()
    }
}

impl TokenEngine {
    /// An engine on the machine's clock.
    pub fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self::with_clock(source, Arc::new(SystemClock))
    }

    /// An engine on a clock of your own.
    pub fn with_clock(source: Arc<dyn CredentialSource>, clock: Arc<dyn Clock>) -> Self {
        let credentials = CredentialCache::new(source, Arc::clone(&clock));
        Self { inner: Arc::new(EngineInner { credentials, clock, slots: Slots::new(MAX_KEYS) }) }
    }

    /// A token with at least [`MIN_TOKEN_LEFT`] left. Waits only when there is neither a token nor credentials; while
    /// AWS is out of reach, a token at hand serves until its end.
    ///
    /// # Errors
    /// There is neither a token nor credentials to sign one with, or what the key says cannot be signed for.
    /// [`TokenError::is_transient`] tells whether asking again may help.
    pub async fn token(&self, key: &TokenKey) -> Result<Arc<Token>, TokenError> {
        let slot = self.inner.slots.get(key);
        lock(&slot).last_used_at = Some(self.inner.clock.now());
        self.inner.token(key, &slot).await
    }

    /// A token after a login with `refused` was refused: that one is dropped – unless another has replaced it
    /// already – and credentials are fetched anew, at most twice a minute; in between, those at hand sign. Meant to be
    /// tried once; [`log_in`](Self::log_in) does so.
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
            Ok(credentials) => self.inner.mint(key, &slot, &credentials),
            Err(error) => Err(lock(&slot).fail(TokenError::from_credentials(identity, error))),
        }
    }

    /// Credentials of an identity, as tokens are signed with them. They have not expired.
    ///
    /// # Errors
    /// As [`token`](Self::token), except that nothing is signed.
    pub async fn credentials(&self, identity: &Identity) -> Result<Credentials, TokenError> {
        let credentials = self.inner.credentials.get(identity).await;
        credentials.map_err(|error| TokenError::from_credentials(identity, error))
    }

    /// Why the last fetch of an identity's credentials failed, if it did; those at hand may serve all the same.
    pub fn credential_fault(&self, identity: &Identity) -> Option<TokenError> {
        let all = self.inner.credentials.snapshot();
        let status = all.into_iter().find(|status| status.identity == *identity)?;
        status.last_error.map(|error| TokenError::from_credentials(identity, error))
    }

    /// The cache behind it, for whoever asks AWS for something else as the same identities.
    pub fn credential_cache(&self) -> &CredentialCache {
        &self.inner.credentials
    }

    /// What is held, for a console; never the tokens themselves.
    pub fn snapshot(&self) -> Vec<TokenStatus> {
        let entries = self.inner.slots.entries();
        entries.into_iter().map(|(key, slot)| lock(&slot).status(key)).collect()
    }

    /// The credentials behind the tokens, for a console.
    pub fn credentials_snapshot(&self) -> Vec<CredentialStatus> {
        self.inner.credentials.snapshot()
    }

    /// Renews whatever is due and was used lately. [`spawn_refresher`](Self::spawn_refresher) calls it; whoever has
    /// a timer of their own calls it every half minute or so.
    pub async fn refresh_due(&self) {
        let now = self.inner.clock.now();
        for (key, slot) in self.inner.slots.entries() {
            let in_use = lock(&slot).last_used_at.is_some_and(|at| until(at, now) < IDLE_AFTER);
            if in_use {
                // A failure is kept in the slot and logged where it arose.
                let _outcome = self.inner.token(&key, &slot).await;
                // Not only when a token is due: asking is what starts an early refresh of the credentials.
                let _credentials = self.inner.credentials.get_now(&key.identity);
            }
        }
    }

    /// Starts the task that renews in the background; it ends with the last clone of the engine.
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
                // An aging token is better than none: an error stays in the slot for the console.
                Some(credentials) => Ok(self.mint(key, slot, &credentials).unwrap_or(token)),
                None => Ok(token),
            },
            Offer::Nothing => match self.credentials.get(&key.identity).await {
                Ok(credentials) => self.mint(key, slot, &credentials),
                Err(error) => Err(lock(slot).fail(TokenError::from_credentials(&key.identity, error))),
            },
        }
    }

    /// Signs under the slot's lock: of many who come at once, one signs and the others take what it signed.
    fn mint(
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

/// At two thirds of its life – ten minutes for most – and up to a tenth earlier at random.
fn renewal_time(token: &Token) -> SystemTime {
    let reuse = until(token.signed_at(), token.expires_at()) * 2 / 3;
    token.signed_at() + (reuse - jitter(reuse / 10))
}

fn is_same(held: &Arc<Token>, refused: &Arc<Token>) -> bool {
    Arc::ptr_eq(held, refused) || held.expose() == refused.expose()
}
