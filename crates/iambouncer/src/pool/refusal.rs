//! What a refused login means for clients that wait. Owns the decision to whom a refusal is reported, and when: every
//! report goes through one function.

use super::acquire::Pool;
use super::shared::RecentFailure;
use crate::client_error::ClientError;
use crate::worker;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// While servers are busy, a refusal is reported to clients that have waited for so long, if no server has become free
/// for so long either.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of a pool as far as the decision demands it.
struct Situation {
    now: Instant,
    /// Servers that are not on their way out, and logins.
    serving: u32,
    /// When a server became free last.
    freed_at: Instant,
    /// `server_login_retry`.
    retry: Duration,
}

impl Situation {
    /// Whether a client that waits since `since` is told of a refusal at `refused_at`.
    fn is_due(&self, since: Instant, refused_at: Instant) -> bool {
        let passed = |since: Instant| self.now.saturating_duration_since(since);
        // Asking again now would only be refused again.
        let is_known = refused_at >= since || passed(refused_at) < self.retry;
        is_known && (self.serving == 0 || (passed(since) >= PATIENCE && passed(self.freed_at) >= PATIENCE))
    }
}

impl Pool {
    /// The refusal that is reported to a client which waits since `since`. `None`: it goes on waiting.
    pub fn refusal_for(&self, since: Instant) -> Option<Rc<ClientError>> {
        self.refusals_due().and_then(|(situation, failure)| {
            situation.is_due(since, failure.at).then(|| Rc::new(failure.login.to_fault()))
        })
    }

    fn refusals_due(&self) -> Option<(Situation, RecentFailure)> {
        let failure = self.shared.failure().filter(|failure| failure.login.error.is_refusal())?;
        let situation = Situation {
            now: worker::now(),
            serving: self.shared.serving(),
            freed_at: self.freed_at.get(),
            retry: self.context.config().settings.server_login_retry,
        };
        Some((situation, failure))
    }

    /// ReportedParameters a refusal to the clients in the queue that are to be told.
    pub(super) fn report_refusals(&self) {
        let Some((situation, failure)) = self.refusals_due() else { return };
        let error = Rc::new(failure.login.to_fault());
        self.waiters.borrow_mut().retain(|waiter| {
            let is_due = situation.is_due(waiter.since, failure.at);
            if is_due {
                waiter.refuse(&error);
            }
            !is_due
        });
    }

    /// Why the last login failed, while that is the last thing known.
    pub fn last_failure(&self) -> Option<ClientError> {
        self.shared.failure().map(|failure| failure.login.to_fault())
    }

    /// What the failure was about may have changed: the next client makes another login.
    pub(super) fn forget_failure(&self) {
        self.shared.set_failure(None);
        self.login_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_at_once_without_a_server_and_after_a_while_beside_busy_ones() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let situation = |serving: u32, freed_at: u64| Situation {
            now: at(100),
            serving,
            freed_at: at(freed_at),
            retry: Duration::from_secs(15),
        };
        // Nobody is there to wait for.
        assert!(situation(0, 0).is_due(at(100), at(90)));
        assert!(!situation(0, 0).is_due(at(100), at(80)), "it is time to try again");
        assert!(situation(0, 0).is_due(at(70), at(80)), "it has waited all along");
        // A server is busy, and nothing has moved since.
        assert!(situation(1, 50).is_due(at(98), at(99)));
        assert!(!situation(1, 50).is_due(at(100), at(99)));
        assert!(!situation(1, 100).is_due(at(98), at(99)), "servers become free");
    }
}
