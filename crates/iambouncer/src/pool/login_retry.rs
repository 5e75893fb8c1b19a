//! When the next login begins after one has failed. Owns the pauses; the tasks that log in are in [`super::connect`].

use super::acquire::Pool;
use super::shared::RecentFailure;
use crate::config::TargetSessionAttrs;
use crate::worker;
use std::time::{Duration, Instant};

/// While clients wait, the pause after a login that has failed because the server cannot be reached, unless the
/// configuration sets `server_login_retry`.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);
/// The same for a line with `target_session_attrs`: another host may be promoted at any moment.
const WRONG_ROLE_PAUSE: Duration = Duration::from_millis(250);
/// Failures that are further apart are not of the same outage.
const MAX_INTERRUPTION: Duration = Duration::from_secs(15);

impl Pool {
    /// After a failed login the next one waits for `server_login_retry`, unless a client waits for it.
    pub fn is_backing_off(&self) -> bool {
        self.shared.failure().is_some_and(|failure| {
            let retry = self.context.config().settings.server_login_retry;
            worker::now().saturating_duration_since(failure.at) < retry
        })
    }

    /// When the next login may begin if a client waits for it; `None` if one may begin now.
    pub(super) fn backs_off_until(&self) -> Option<Instant> {
        let failure = self.shared.failure()?;
        let until = failure.at + self.retry_pause(&failure);
        (worker::now() < until).then_some(until)
    }

    /// The pause before the next login for a client that waits. An early retry does not change a refusal; a server that is
    /// restarted or replaced is wanted as soon as it is there.
    pub(super) fn retry_pause(&self, failure: &RecentFailure) -> Duration {
        let config = self.context.config();
        let retry = config.settings.server_login_retry;
        let error = &failure.login.error;
        let requires_role = self.database.line.borrow().target_session_attrs != TargetSessionAttrs::Any;
        if error.is_wrong_role() || requires_role && error.is_about_reaching() {
            retry.min(WRONG_ROLE_PAUSE)
        } else if error.is_about_reaching() && !config.is_given("server_login_retry") {
            retry.min(UNREACHABLE_PAUSE)
        } else {
            retry
        }
    }

    /// When the logins began to fail without an interruption, for the failure of this moment: servers that were released
    /// since have worked, and failures that nothing has followed for a while are over.
    pub(super) fn failing_since(&self, now: Instant) -> Instant {
        let settings = &self.context.config().settings;
        let is_over_after =
            settings.server_login_retry.max(MAX_INTERRUPTION) + settings.server_connect_timeout;
        let last = self.shared.failure().filter(|last| now < last.at + is_over_after);
        last.map_or(now, |last| {
            self.queue.freed_since().map_or(last.since, |freed_at| last.since.max(freed_at))
        })
    }
}
