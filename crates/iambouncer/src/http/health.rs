//! What the three probes say. Owns the conditions and their words; it reads what is known and asks nobody, so that a
//! probe never waits and never adds to a load.

use crate::vitals::{FirstLogin, Vitals};
use std::time::{Duration, Instant};

/// A worker whose loop has not turned for this long is stuck: it beats every second, and no turn takes anything like it.
const MAX_SILENCE: Duration = Duration::from_secs(10);

/// An answer: good or not, and one line per condition.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) is_good: bool,
    pub(super) text: String,
}

impl Health {
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
pub(super) fn startup(vitals: &Vitals) -> Health {
    Health::of(&[started(vitals)])
}

fn started(vitals: &Vitals) -> (bool, String) {
    if vitals.is_started() { (true, "started".to_owned()) } else { (false, "starting".to_owned()) }
}

/// The loops of all workers turn.
pub(super) fn liveness(vitals: &Vitals, now: Instant) -> Health {
    let silent = vitals.silent(now, MAX_SILENCE);
    let conditions: Vec<_> = (0..vitals.workers())
        .map(|worker| match silent.iter().find(|(known, _)| *known == worker) {
            None => (true, format!("worker {worker}")),
            Some((_, silence)) => {
                (false, format!("worker {worker} has been stuck for {} s", silence.as_secs()))
            }
        })
        .collect();
    Health::of(&conditions)
}

/// A client that comes now will be served as well as ever. Neither a full pool nor a database that has gone away later
/// changes that: it would take all poolers out at once, and help nobody.
pub(super) fn readiness(vitals: &Vitals) -> Health {
    let login = match vitals.first_login() {
        FirstLogin::Done => (true, "a server has been logged in to"),
        FirstLogin::NotNeeded => {
            (true, "no login at start: no database line names a user that can log in by itself")
        }
        FirstLogin::Awaited => (false, "no server has been logged in to yet"),
    };
    let draining =
        if vitals.is_draining() { (false, "draining: no new clients") } else { (true, "taking new clients") };
    Health::of(&[started(vitals), (draining.0, draining.1.to_owned()), (login.0, login.1.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_is_said_once_it_is_so() {
        let vitals = Vitals::new(1, Instant::now(), false);
        assert_eq!(startup(&vitals), Health { is_good: false, text: "FAIL starting\n".to_owned() });
        vitals.start();
        assert_eq!(startup(&vitals), Health { is_good: true, text: "ok   started\n".to_owned() });
    }

    #[test]
    fn liveness_names_the_worker_that_is_stuck() {
        let began = Instant::now();
        let vitals = Vitals::new(2, began, false);
        let later = began + MAX_SILENCE + Duration::from_secs(5);
        vitals.beat(0, later);
        let health = liveness(&vitals, later);
        assert!(!health.is_good);
        assert_eq!(health.text, "ok   worker 0\nFAIL worker 1 has been stuck for 15 s\n");
        vitals.beat(1, later);
        assert!(liveness(&vitals, later).is_good);
    }

    #[test]
    fn readiness_needs_the_start_and_a_login_and_ends_with_the_drain() {
        let vitals = Vitals::new(1, Instant::now(), true);
        let is_ready = || readiness(&vitals).is_good;
        assert!(!is_ready());
        vitals.start();
        assert!(!is_ready());
        vitals.settle_first_login(FirstLogin::Done);
        assert!(is_ready());
        vitals.drain();
        assert!(!is_ready());
        assert!(readiness(&vitals).text.contains("FAIL draining"));
    }
}
