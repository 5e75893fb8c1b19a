//! The effect of a refused login on waiting clients. Owns which clients receive the refusal, and when; every report is
//! decided by one function.

use super::acquire::Pool;
use super::shared::RecentFailure;
use crate::client_error::ClientError;
use crate::worker;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// While servers are busy, clients receive a refusal after waiting this long, if no server has become free for as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of a pool, as far as the decision depends on it.
struct Situation {
    now: Instant,
    /// Servers that are not being closed, and logins.
    serving: u32,
    /// When a server last became free.
    freed_at: Instant,
    /// Pause until the next login.
    retry: Duration,
    /// How long a client waits while servers are busy: [`PATIENCE`], or `server_unreachable_timeout` if another login may
    /// succeed.
    patience: Duration,
}

impl Situation {
    /// True if a client that has waited since `since` receives a refusal that happened at `refused_at`.
    fn is_due(&self, since: Instant, refused_at: Instant) -> bool {
        let passed = |since: Instant| self.now.saturating_duration_since(since);
        // Another login now would be refused as well.
        let is_known = refused_at >= since || passed(refused_at) < self.retry;
        // Logins count as serving, and one may always be under way.
        let is_over = passed(since) >= self.patience && passed(self.freed_at) >= self.patience;
        is_known && (self.serving == 0 || is_over)
    }
}

impl Pool {
    /// The refusal for a client that has waited since `since`; `None` if it has to keep waiting.
    pub fn refusal_for(&self, since: Instant) -> Option<Rc<ClientError>> {
        self.due_refusals().and_then(|(situation, failure)| {
            situation.is_due(since, failure.at).then(|| Rc::new(failure.login.to_fault()))
        })
    }

    fn due_refusals(&self) -> Option<(Situation, RecentFailure)> {
        let failure = self.shared.failure()?;
        let settings = &self.context.config().settings;
        let (now, limit) = (worker::now(), settings.server_unreachable_timeout);
        let is_too_long = !limit.is_zero() && now.saturating_duration_since(failure.since) >= limit;
        let patience = match failure.login.error.is_refusal() {
            true => PATIENCE,
            false if is_too_long => limit,
            false => return None,
        };
        let situation = Situation {
            now,
            serving: self.shared.serving(),
            freed_at: self.queue.freed_at(),
            retry: self.retry_pause(&failure),
            patience,
        };
        Some((situation, failure))
    }

    /// Reports a refusal to the clients in the queue that have to receive it.
    pub(super) fn report_refusals(&self) {
        let Some((situation, failure)) = self.due_refusals() else { return };
        let error = Rc::new(failure.login.to_fault());
        self.queue.refuse(&error, |since| situation.is_due(since, failure.at));
    }

    /// Why the last login failed, until one succeeds.
    pub fn last_failure(&self) -> Option<ClientError> {
        self.shared.failure().map(|failure| failure.login.to_fault())
    }

    /// True if the last login has failed.
    pub fn is_login_failing(&self) -> bool {
        self.shared.has_failed()
    }

    /// The cause of the failure may be gone: the next client starts another login.
    pub(super) fn forget_failure(&self) {
        self.shared.set_failure(None);
        self.logins.notify_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_at_once_without_servers_and_later_with_busy_ones() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let situation = |serving: u32, freed_at: u64| Situation {
            now: at(100),
            serving,
            freed_at: at(freed_at),
            retry: Duration::from_secs(15),
            patience: PATIENCE,
        };
        // No server is busy, so there is nothing to wait for.
        assert!(situation(0, 0).is_due(at(100), at(90)));
        assert!(!situation(0, 0).is_due(at(100), at(80)), "the retry interval has passed");
        assert!(situation(0, 0).is_due(at(70), at(80)), "it was already waiting");
        // A server is busy, and none has become free since.
        assert!(situation(1, 50).is_due(at(98), at(99)));
        assert!(!situation(1, 50).is_due(at(100), at(99)));
        assert!(!situation(1, 100).is_due(at(98), at(99)), "servers are being released");
    }
}
