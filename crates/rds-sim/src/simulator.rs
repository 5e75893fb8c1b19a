//! State shared by doors and endpoints: one clock, one set of keys, one set of faults, one log.
//!
//! Owns: the decision about a login. Never: listens anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::fault_injection::Faults;
use crate::keys::KeyStore;
use crate::log::{LoginAttempt, LoginLog, LoginOutcome};
use crate::time::{SimClock, unix_seconds};
use crate::verify::{Refusal, TokenTarget, ValidToken, verify};

/// The shared state of a simulated RDS. Clones share all state.
#[derive(Clone, Debug, Default)]
pub struct Simulator {
    clock: SimClock,
    keys: KeyStore,
    faults: Faults,
    log: LoginLog,
    logging_in: Arc<LoginCount>,
}

/// Counts IAM logins between token and decision.
#[derive(Debug, Default)]
struct LoginCount {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A login in progress, until dropped.
pub(crate) struct LoginGuard(Arc<LoginCount>);

impl Drop for LoginGuard {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Simulator {
    /// Maximum number of concurrent IAM logins so far.
    pub fn most_logins_at_once(&self) -> usize {
        self.logging_in.most.load(Ordering::SeqCst)
    }

    pub(crate) fn begin_login(&self) -> LoginGuard {
        let now = 1 + self.logging_in.now.fetch_add(1, Ordering::SeqCst);
        self.logging_in.most.fetch_max(now, Ordering::SeqCst);
        LoginGuard(Arc::clone(&self.logging_in))
    }

    /// The clock.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// The known keys.
    pub fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// The faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The log of logins.
    pub fn log(&self) -> &LoginLog {
        &self.log
    }

    /// Decides about a login with a token, including faults, and logs it.
    pub(crate) fn check_login(
        &self,
        token: &str,
        user: &str,
        database: &str,
        target: &TokenTarget,
    ) -> Result<ValidToken, Refusal> {
        // One reading of the clock: the log derives from it when the token was signed.
        let now = self.clock.now();
        let decision = self.decision(token, user, target, now);
        let outcome = match &decision {
            Ok(ValidToken { access_key_id, age_seconds }) => {
                LoginOutcome::Accepted { access_key_id: access_key_id.clone(), age_seconds: *age_seconds }
            }
            Err(refusal) => LoginOutcome::Refused { reason: refusal.to_string() },
        };
        self.record_at(now, user, database, outcome);
        decision
    }

    pub(crate) fn record(&self, user: &str, database: &str, outcome: LoginOutcome) {
        self.record_at(self.clock.now(), user, database, outcome);
    }

    fn record_at(&self, now: SystemTime, user: &str, database: &str, outcome: LoginOutcome) {
        let at_seconds = unix_seconds(now);
        self.log.push(LoginAttempt {
            at_seconds,
            user: user.to_owned(),
            database: database.to_owned(),
            outcome,
        });
    }

    fn decision(
        &self,
        token: &str,
        user: &str,
        target: &TokenTarget,
        now: SystemTime,
    ) -> Result<ValidToken, Refusal> {
        // Invalid tokens count as well: the limit is that of RDS's requests to IAM.
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
