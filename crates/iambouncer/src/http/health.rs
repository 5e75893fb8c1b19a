//! The results of the three probes. Owns the conditions and their texts; it reads existing state and sends no
//! requests, so that a probe never waits and adds no load.

use crate::health_state::{FirstLogin, HealthState, MAX_SILENCE};
use std::time::Instant;

/// The result, with one line per condition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProbeResult {
    pub(super) is_good: bool,
    pub(super) text: String,
}

impl ProbeResult {
    fn of(conditions: &[(bool, String)]) -> Self {
        let line =
            |(is_met, words): &(bool, String)| format!("{} {words}\n", if *is_met { "ok  " } else { "FAIL" });
        Self {
            is_good: conditions.iter().all(|(is_met, _)| *is_met),
            text: conditions.iter().map(line).collect(),
        }
    }
}

/// Passes once clients are accepted.
pub(super) fn startup(health: &HealthState) -> ProbeResult {
    ProbeResult::of(&[started(health)])
}

fn started(health: &HealthState) -> (bool, String) {
    if health.is_started() { (true, "started".to_owned()) } else { (false, "starting".to_owned()) }
}

/// Passes while the loops of all workers run.
pub(super) fn liveness(health: &HealthState, now: Instant) -> ProbeResult {
    let silent = health.silent(now, MAX_SILENCE);
    let conditions: Vec<_> = (0..health.workers())
        .map(|worker| match silent.iter().find(|(known, _)| *known == worker) {
            None => (true, format!("worker {worker}")),
            Some((_, silence)) => {
                (false, format!("worker {worker} has been stuck for {} s", silence.as_secs()))
            }
        })
        .collect();
    ProbeResult::of(&conditions)
}

/// Passes while new clients are served normally. A full pool or a database that fails later does not matter: that
/// would take all poolers out of service at once, to no benefit.
pub(super) fn readiness(health: &HealthState) -> ProbeResult {
    let login = match health.first_login() {
        FirstLogin::Done => (true, "a login to a server has succeeded"),
        FirstLogin::NotNeeded => {
            (true, "no login at start: no database line has a user that can log in without a client")
        }
        FirstLogin::Awaited => (false, "no login to a server has succeeded yet"),
        // Only for the metric: a request for this page causes the login.
        FirstLogin::NotRequested => (true, "no login to a server was requested"),
    };
    let draining = if health.is_draining() {
        (false, "draining: clients should be sent elsewhere")
    } else {
        (true, "accepting new clients")
    };
    ProbeResult::of(&[started(health), (draining.0, draining.1.to_owned()), (login.0, login.1.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn startup_passes_once_started() {
        let health = HealthState::new(1, Instant::now(), FirstLogin::NotNeeded);
        assert_eq!(startup(&health), ProbeResult { is_good: false, text: "FAIL starting\n".to_owned() });
        health.start();
        assert_eq!(startup(&health), ProbeResult { is_good: true, text: "ok   started\n".to_owned() });
    }

    #[test]
    fn liveness_reports_the_stuck_worker() {
        let began = Instant::now();
        let health = HealthState::new(2, began, FirstLogin::NotNeeded);
        let later = began + MAX_SILENCE + Duration::from_secs(5);
        health.heartbeat(0, later);
        let result = liveness(&health, later);
        assert!(!result.is_good);
        assert_eq!(result.text, "ok   worker 0\nFAIL worker 1 has been stuck for 15 s\n");
        health.heartbeat(1, later);
        assert!(liveness(&health, later).is_good);
    }

    #[test]
    fn readiness_needs_startup_and_a_login_and_ends_with_draining() {
        let health = HealthState::new(1, Instant::now(), FirstLogin::Awaited);
        let is_ready = || {
            assert_eq!(readiness(&health).is_good, health.is_ready());
            readiness(&health).is_good
        };
        assert!(!is_ready());
        health.start();
        assert!(!is_ready());
        health.settle_first_login(FirstLogin::Done);
        assert!(is_ready());
        health.drain();
        assert!(!is_ready());
        assert!(readiness(&health).text.contains("FAIL draining"));
    }
}
