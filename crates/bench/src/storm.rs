//! A login storm beside clients that are logged in already: what it costs, and what they notice of it. Owns the sequence and
//! the figures; never logs in by itself.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::bulk;
use crate::load::{Length, Load, Pgbench};
use crate::metrics::ParsedMetric;
use crate::poolers::Pooler;
use crate::storm_clients::{self, StormLogins};
use crate::storm_phases;
use crate::test_bed::TestBed;

/// Clients that are logged in already when the storm begins …
const CLIENTS: u32 = 4;
/// … and their rate: low enough to leave cores idle before.
const RATE_PER_S: u32 = 400;

/// Short queries beside the storm, for `seconds`.
pub(crate) fn others(seconds: u32) -> Pgbench {
    Pgbench {
        load: Load::Select("simple"),
        clients: CLIENTS,
        tls: false,
        length: Length::Seconds(seconds),
        rate_per_s: Some(RATE_PER_S),
    }
}

/// Starts `others`, waits for `quiet`, and logs in `clients` at once while `others` continue.
pub(crate) fn measure(
    test_bed: &TestBed,
    pooler: &Pooler,
    others: &Pgbench,
    clients: u32,
    quiet: Duration,
) -> Result<Vec<(ParsedMetric, f64)>> {
    let (storm, report) = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            bulk::wait_for_other_clients(test_bed)?;
            thread::sleep(quiet);
            storm_clients::run(pooler, &test_bed.scram, clients)
        });
        // Not in the thread: a child process is killed when the thread that started it ends.
        let report = others.run(test_bed, pooler.port);
        (storm.join().unwrap_or_else(|_| Err(anyhow!("the storm panicked"))), report)
    });
    let (storm, others) = (storm.context("logging in")?, report?.latencies);
    let before_ms = others.between(storm.began - quiet, storm.began)?.p99_ms()?;
    let during_ms = others.between(storm.began, storm.began + storm.stayed)?.p99_ms()?;
    Ok(figures(&storm, before_ms, during_ms))
}

fn figures(storm: &StormLogins, before_ms: f64, during_ms: f64) -> Vec<(ParsedMetric, f64)> {
    let logins = storm.times.len() as f64;
    let us_each = storm.cpu_ns.filter(|_| logins > 0.0).map(|ns| ns as f64 / 1000.0 / logins);
    let figures = [
        (ParsedMetric::FailedLogins, f64::from(storm.failed)),
        (ParsedMetric::StormTime, storm.elapsed.as_secs_f64()),
        (ParsedMetric::P99Alone, before_ms),
        (ParsedMetric::P99Beside, during_ms),
        (ParsedMetric::P99Growth, during_ms - before_ms),
    ];
    let cpu = us_each.map(|value| (ParsedMetric::CpuPerStormLogin, value));
    cpu.into_iter().chain(figures).chain(storm_phases::summarize(&storm.times)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scram_session::LoginTimes;
    use std::time::SystemTime;

    fn storm(failed: u32, logged_in: usize) -> StormLogins {
        let ms = Duration::from_millis;
        let times = LoginTimes { answered: ms(1), challenged: ms(2), ready: ms(3) };
        StormLogins {
            began: SystemTime::now(),
            elapsed: ms(1500),
            stayed: ms(1500),
            failed,
            cpu_ns: Some(1_000_000),
            times: vec![times; logged_in],
        }
    }

    #[test]
    fn cpu_time_is_that_of_each_client_that_is_logged_in() {
        let figures = figures(&storm(1, 10), 2.0, 5.5);
        for expected in [
            (ParsedMetric::CpuPerStormLogin, 100.0),
            (ParsedMetric::FailedLogins, 1.0),
            (ParsedMetric::StormTime, 1.5),
            (ParsedMetric::P99Growth, 3.5),
        ] {
            assert!(figures.contains(&expected), "{expected:?} not in {figures:?}");
        }
    }

    #[test]
    fn a_storm_without_logins_has_no_cpu_time_per_login() {
        let figures = figures(&storm(5, 0), 2.0, 5.5);
        assert!(figures.iter().all(|(metric, _)| *metric != ParsedMetric::CpuPerStormLogin), "{figures:?}");
    }
}
