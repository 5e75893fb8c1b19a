//! What the three probes say. Owns the conditions and their words; it reads what is known and asks nobody, so that a
//! probe never waits and never adds to a load.

use crate::health_state::{FirstLogin, HealthState};
use std::time::{Duration, Instant};

/// A worker whose loop has not turned for this long is stuck: it beats every second, and no turn takes anything like it.
const MAX_SILENCE: Duration = Duration::from_secs(10);

/// An answer: good or not, and one line per condition.
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

/// Clients are accepted.
pub(super) fn startup(health: &HealthState) -> ProbeResult {
    ProbeResult::of(&[started(health)])
}

fn started(health: &HealthState) -> (bool, String) {
    if health.is_started() { (true, "started".to_owned()) } else { (false, "starting".to_owned()) }
}

/// The loops of all workers turn.
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

/// A client that comes now will be served as well as ever. Neither a full pool nor a database that has gone away later
/// changes that: it would take all poolers out at once, and help nobody.
pub(super) fn readiness(health: &HealthState) -> ProbeResult {
    let login = match health.first_login() {
        FirstLogin::Done => (true, "a server has been logged in to"),
        FirstLogin::NotNeeded => {
            (true, "no login at start: no database line names a user that can log in by itself")
        }
        FirstLogin::Awaited => (false, "no server has been logged in to yet"),
    };
    let draining =
        if health.is_draining() { (false, "draining: no new clients") } else { (true, "taking new clients") };
    ProbeResult::of(&[started(health), (draining.0, draining.1.to_owned()), (login.0, login.1.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_is_said_once_it_is_so() {
        let health = HealthState::new(1, Instant::now(), false);
        assert_eq!(startup(&health), ProbeResult { is_good: false, text: "FAIL starting\n".to_owned() });
        health.start();
        assert_eq!(startup(&health), ProbeResult { is_good: true, text: "ok   started\n".to_owned() });
    }

    #[test]
    fn liveness_names_the_worker_that_is_stuck() {
        let began = Instant::now();
        let health = HealthState::new(2, began, false);
        let later = began + MAX_SILENCE + Duration::from_secs(5);
        health.heartbeat(0, later);
        let result = liveness(&health, later);
        assert!(!result.is_good);
        assert_eq!(result.text, "ok   worker 0\nFAIL worker 1 has been stuck for 15 s\n");
        health.heartbeat(1, later);
        assert!(liveness(&health, later).is_good);
    }

    #[test]
    fn readiness_needs_the_start_and_a_login_and_ends_with_the_drain() {
        let health = HealthState::new(1, Instant::now(), true);
        let is_ready = || readiness(&health).is_good;
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
