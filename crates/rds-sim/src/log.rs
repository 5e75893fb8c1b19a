//! What happened at the doors, for tests and for whoever wonders why a login failed.
//!
//! Owns: the list of login attempts, bounded. Never: holds a token or a password.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// How many attempts are kept; the oldest go first.
const MAX_ATTEMPTS: usize = 10_000;

/// One login attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoginAttempt {
    /// When, in seconds since 1970 on the simulator's clock.
    pub at_seconds: i64,
    /// The database user.
    pub user: String,
    /// The database; empty when the attempt came through PAM, which does not tell.
    pub database: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: LoginOutcome,
}

/// How a login attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LoginOutcome {
    /// The token was right.
    Accepted {
        /// Who signed it.
        access_key_id: String,
        /// Its age in seconds.
        age_seconds: i64,
    },
    /// The token was wrong, or a fault was switched on.
    Refused {
        /// What was wrong.
        reason: String,
    },
    /// A user who needs TLS came without.
    WithoutTls,
    /// The client went away, or sent nonsense, instead of a password.
    NoPassword,
    /// Not an IAM user: PostgreSQL itself decides.
    PassedOn,
    /// PostgreSQL could not be reached.
    NoBackend,
}

/// The attempts. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LoginLog {
    attempts: Arc<Mutex<VecDeque<LoginAttempt>>>,
}

impl LoginLog {
    /// All attempts kept, oldest first.
    pub fn attempts(&self) -> Vec<LoginAttempt> {
        self.lock().iter().cloned().collect()
    }

    /// How many of the attempts kept were accepted, and how many refused.
    pub fn accepted_and_refused(&self) -> (usize, usize) {
        let attempts = self.lock();
        let count = |wanted: fn(&LoginOutcome) -> bool| {
            attempts.iter().filter(|attempt| wanted(&attempt.outcome)).count()
        };
        let accepted = count(|outcome| matches!(outcome, LoginOutcome::Accepted { .. }));
        (accepted, count(|outcome| matches!(outcome, LoginOutcome::Refused { .. })))
    }

    /// Forgets all attempts.
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
