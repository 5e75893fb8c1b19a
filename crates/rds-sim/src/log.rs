//! The log of login attempts, for tests and for finding out why a login failed.
//!
//! Owns: the bounded list of login attempts. Never: contains a token or a password.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Maximum number of attempts; the oldest are dropped first.
const MAX_ATTEMPTS: usize = 10_000;

/// One login attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoginAttempt {
    /// Time in seconds since 1970, on the simulator's clock.
    pub at_seconds: i64,
    /// The database user.
    pub user: String,
    /// The database; empty for an attempt through PAM, which does not provide it.
    pub database: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: LoginOutcome,
}

/// The outcome of a login attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LoginOutcome {
    /// The token was valid.
    Accepted {
        /// The key that signed it.
        access_key_id: String,
        /// Its age in seconds.
        age_seconds: i64,
    },
    /// The token was invalid, or a fault was switched on.
    Refused {
        /// The reason.
        reason: String,
    },
    /// A user who must use TLS connected without it.
    WithoutTls,
    /// The client disconnected or sent something other than a password.
    NoPassword,
    /// Not an IAM user: the login was forwarded to PostgreSQL.
    PassedOn,
    /// PostgreSQL could not be reached.
    NoBackend,
}

/// The attempts. Clones share all state.
#[derive(Clone, Debug, Default)]
pub struct LoginLog {
    attempts: Arc<Mutex<VecDeque<LoginAttempt>>>,
}

impl LoginLog {
    /// All logged attempts, oldest first.
    pub fn attempts(&self) -> Vec<LoginAttempt> {
        self.lock().iter().cloned().collect()
    }

    /// Numbers of logged attempts that were accepted and refused.
    pub fn accepted_and_refused(&self) -> (usize, usize) {
        let attempts = self.lock();
        let count = |wanted: fn(&LoginOutcome) -> bool| {
            attempts.iter().filter(|attempt| wanted(&attempt.outcome)).count()
        };
        let accepted = count(|outcome| matches!(outcome, LoginOutcome::Accepted { .. }));
        (accepted, count(|outcome| matches!(outcome, LoginOutcome::Refused { .. })))
    }

    /// Clears the log.
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn push(&self, attempt: LoginAttempt) {
        let LoginAttempt { user, database, outcome, .. } = &attempt;
        tracing::info!(user, database, ?outcome, "login");
        let mut attempts = self.lock();
        if attempts.len() == MAX_ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(attempt);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<LoginAttempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
