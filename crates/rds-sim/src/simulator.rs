//! What doors and endpoints share: one clock, one set of keys, one set of faults, one log.
//!
//! Owns: the decision about a login. Never: listens anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fault_injection::Faults;
use crate::keys::KeyStore;
use crate::log::{LoginAttempt, LoginLog, LoginOutcome};
use crate::time::{SimClock, unix_seconds};
use crate::verify::{Refusal, TokenTarget, ValidToken, verify};

/// The shared state of a simulated RDS. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Simulator {
    clock: SimClock,
    keys: KeyStore,
    faults: Faults,
    log: LoginLog,
    logging_in: Arc<LoginGuard>,
}

/// IAM logins between their token and its verdict.
#[derive(Debug, Default)]
struct LoginGuard {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One of them, as long as it is there.
pub(crate) struct LoginUnderWay(Arc<LoginGuard>);

impl Drop for LoginUnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Simulator {
    /// How many IAM logins have been under way at a time, at the most.
    pub fn most_logins_at_once(&self) -> usize {
        self.logging_in.most.load(Ordering::SeqCst)
    }

    pub(crate) fn login_under_way(&self) -> LoginUnderWay {
        let now = 1 + self.logging_in.now.fetch_add(1, Ordering::SeqCst);
        self.logging_in.most.fetch_max(now, Ordering::SeqCst);
        LoginUnderWay(Arc::clone(&self.logging_in))
    }

    /// The clock, to be moved.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// The keys that are known.
    pub fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// The faults, to be switched.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The log of logins.
    pub fn log(&self) -> &LoginLog {
        &self.log
    }

    /// Decides about a login with a token, faults included, and records it.
    pub(crate) fn check_login(
        &self,
        token: &str,
        user: &str,
        database: &str,
        target: &TokenTarget,
    ) -> Result<ValidToken, Refusal> {
        let verdict = self.verdict(token, user, target);
        let outcome = match &verdict {
            Ok(ValidToken { access_key_id, age_seconds }) => {
                LoginOutcome::Accepted { access_key_id: access_key_id.clone(), age_seconds: *age_seconds }
            }
            Err(refusal) => LoginOutcome::Refused { reason: refusal.to_string() },
        };
        self.record(user, database, outcome);
        verdict
    }

    pub(crate) fn record(&self, user: &str, database: &str, outcome: LoginOutcome) {
        let at_seconds = unix_seconds(self.clock.now());
        self.log.push(LoginAttempt {
            at_seconds,
            user: user.to_owned(),
            database: database.to_owned(),
            outcome,
        });
    }

    fn verdict(&self, token: &str, user: &str, target: &TokenTarget) -> Result<ValidToken, Refusal> {
        let now = self.clock.now();
        // Wrong tokens count as well: what is limited is how often RDS asks IAM.
        if self.faults.is_throttled() {
            return Err(Refusal::Throttled);
        }
        let accepted = verify(token, user, target, &self.keys, now)?;
        let signed_at = unix_seconds(now) - accepted.age_seconds;
        if self.faults.settings().expire_signed_until.is_some_and(|until| signed_at <= until) {
            return Err(Refusal::Expired { age_seconds: accepted.age_seconds });
        }
        if self.faults.take_refusal() {
            return Err(Refusal::OnDemand);
        }
        Ok(accepted)
    }
}
