//! AWS identities of the pooler: ARN, credential source and clock skew of every identity that signs tokens. Owns
//! these results and when to repeat the call, which runs on the control runtime without blocking a login.

use crate::credential_causes::cause_of_caller;
use crate::login_failure::LoginFailure;
use rds_iam::{Caller, CallerAnswer, CallerError, Identity, SystemClock, TokenEngine, ask_caller};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Minimum interval between calls for an identity.
const MIN_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of identities; they come from the configuration.
const MAX_IDENTITIES: usize = 256;
/// A larger clock skew is logged as a warning.
const SKEW_WARNING_SECONDS: i64 = 60;

/// What is known about one identity.
#[derive(Debug, Clone, Default)]
pub struct IdentityInfo {
    /// The caller identity, once AWS has returned it.
    pub caller: Option<Caller>,
    /// Seconds by which the local clock is ahead of AWS's.
    pub clock_skew_seconds: Option<i64>,
    /// Why the last call failed.
    pub last_error: Option<String>,
    /// A key that AWS rejects, and the cause.
    refused_key: Option<(String, LoginFailure)>,
}

impl IdentityInfo {
    /// Why AWS rejects a key, if it has reported so.
    pub fn refused_key_cause(&self, access_key_id: &str) -> Option<LoginFailure> {
        self.refused_key.as_ref().filter(|(key_id, _)| key_id == access_key_id).map(|(_, cause)| *cause)
    }

    /// Updates the information; values missing in the answer are kept.
    fn update(&mut self, access_key_id: &str, answer: CallerAnswer) {
        let CallerAnswer { caller, clock_skew_seconds } = answer;
        let refused = caller.as_ref().err().and_then(cause_of_caller);
        self.refused_key = refused.map(|cause| (access_key_id.to_owned(), cause));
        self.last_error = caller.as_ref().err().map(ToString::to_string);
        self.caller = caller.ok().or_else(|| self.caller.take());
        self.clock_skew_seconds = clock_skew_seconds.or(self.clock_skew_seconds);
    }
}

#[derive(Default)]
struct IdentityEntry {
    known: IdentityInfo,
    asked_at: Option<Instant>,
    /// Closed when the call under way has completed.
    answer: Option<watch::Receiver<()>>,
}

/// All identities, shared between clones.
#[derive(Clone)]
pub struct Identities {
    tokens: TokenEngine,
    control: tokio::runtime::Handle,
    entries: Arc<Mutex<HashMap<Identity, IdentityEntry>>>,
}

impl Identities {
    /// No identity is known yet.
    pub fn new(tokens: TokenEngine, control: tokio::runtime::Handle) -> Self {
        Self { tokens, control, entries: Arc::default() }
    }

    /// The token engine.
    pub fn tokens(&self) -> &TokenEngine {
        &self.tokens
    }

    /// What is known about an identity.
    pub fn get(&self, identity: &Identity) -> IdentityInfo {
        locked(&self.entries).get(identity).map(|entry| entry.known.clone()).unwrap_or_default()
    }

    /// Stores an answer that the caller has received from AWS.
    pub fn remember(&self, identity: &Identity, access_key_id: &str, answer: CallerAnswer) {
        let mut entries = locked(&self.entries);
        let entry = entries.entry(identity.clone()).or_default();
        entry.asked_at = Some(Instant::now());
        entry.known.update(access_key_id, answer);
    }

    /// Calls AWS to identify an identity, unless that was done recently. Does not wait.
    pub fn look_up(&self, identity: &Identity) {
        let (answered, answer) = watch::channel(());
        {
            let mut entries = locked(&self.entries);
            if entries.len() >= MAX_IDENTITIES && !entries.contains_key(identity) {
                return;
            }
            let entry = entries.entry(identity.clone()).or_default();
            if entry.asked_at.is_some_and(|at| at.elapsed() < MIN_INTERVAL) {
                return;
            }
            entry.asked_at = Some(Instant::now());
            entry.answer = Some(answer);
        }
        let (this, identity) = (self.clone(), identity.clone());
        self.control.spawn(async move {
            this.ask(&identity).await;
            drop(answered);
        });
    }

    /// Waits until a call under way has completed. Needs a Tokio runtime.
    pub async fn settled(&self, identity: &Identity, limit: Duration) {
        let answer = locked(&self.entries).get(identity).and_then(|entry| entry.answer.clone());
        if let Some(mut answer) = answer {
            // Nothing is sent: the sender is dropped on completion.
            let _closed_or_late = tokio::time::timeout(limit, answer.changed()).await;
        }
    }

    async fn ask(&self, identity: &Identity) {
        let credentials = match self.tokens.credentials(identity).await {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::debug!(%identity, "cannot determine the AWS identity: {}", error.finding());
                return self.note(identity, |known| known.last_error = Some(error.to_string()));
            }
        };
        let CallerAnswer { caller, clock_skew_seconds } =
            ask_caller(identity, &credentials, &SystemClock).await;
        if let Some(skew) = clock_skew_seconds.filter(|skew| skew.abs() > SKEW_WARNING_SECONDS) {
            tracing::warn!("{}", skew_text(skew));
        }
        let all = self.tokens.credentials_snapshot();
        let status = all.into_iter().find(|status| status.identity == *identity);
        let provider = status.as_ref().and_then(|status| status.provider.clone()).unwrap_or_default();
        match &caller {
            Ok(Caller { arn, .. }) => {
                let until = status.and_then(|status| status.ends_at).map(text_of_time);
                let until = until.unwrap_or_else(|| "no expiry".to_owned());
                let access_key_id = credentials.access_key_id();
                tracing::info!(%identity, %arn, provider, access_key_id, until, "AWS identity");
            }
            // Normal in a private subnet, and not needed for logins.
            Err(error @ CallerError::Unavailable(_)) => {
                tracing::info!(%identity, provider, "AWS identity not available (not needed for logins): {error}");
            }
            Err(error) => tracing::warn!(%identity, provider, "cannot determine the AWS identity: {error}"),
        }
        self.note(identity, |known| {
            known.update(credentials.access_key_id(), CallerAnswer { caller, clock_skew_seconds });
        });
    }

    fn note(&self, identity: &Identity, change: impl FnOnce(&mut IdentityInfo)) {
        if let Some(entry) = locked(&self.entries).get_mut(identity) {
            change(&mut entry.known);
        }
    }
}

/// A time in UTC, for display.
pub fn text_of_time(at: std::time::SystemTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time::OffsetDateTime::from(at).format(&format).unwrap_or_default()
}

/// The text about a clock that is this many seconds ahead of AWS's.
pub fn skew_text(skew_seconds: i64) -> String {
    let direction = if skew_seconds > 0 { "ahead of" } else { "behind" };
    format!("This machine's clock is {} s {direction} AWS's.", skew_seconds.abs())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
