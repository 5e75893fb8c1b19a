//! A drain: DRAIN, or SIGTERM with `drain_max_seconds`. Owns its schedule, which follows RELOAD; who is asked to leave
//! when is decided in [`crate::clients`], and what still has to end is awaited in [`super::shutdown`].

use crate::clients::{Departure, DeparturePeriod, Departures, STEP};
use crate::config::DrainPeriod;
use crate::lifecycle::Phase;
use crate::worker::{self, timers};
use crate::worker_state::Worker;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Pause between two looks at the phase and the settings.
const CHECK_PERIOD: Duration = STEP;

/// The period in force. If RELOAD removes the limit during a drain, the last one remains.
fn period(worker: &Worker, last: &mut DrainPeriod) -> DrainPeriod {
    if let Some(period) = worker.context.config().settings.drain_period() {
        *last = period;
    }
    *last
}

/// Ends the time in which clients are still accepted, at all workers. Runs at the first one.
pub(super) async fn close_listeners_in_time(worker: Rc<Worker>, since: Instant) {
    let mut last = DrainPeriod::default();
    while worker.lifecycle.phase() == Phase::DrainAnnounced(since) {
        let left = (since + period(&worker, &mut last).min).saturating_duration_since(worker::now());
        if left.is_zero() {
            return worker.console.advance(Phase::Draining(since));
        }
        timers::sleep(left.min(CHECK_PERIOD)).await;
    }
}

/// Closes the clients of this worker, spread over the time that is left, and those that remain at its end. Runs at each
/// worker.
pub(super) async fn close_clients(worker: Rc<Worker>, since: Instant) {
    let mut departures = Departures::new(Departure::Drain, worker.context.worker);
    let mut last = DrainPeriod::default();
    let begin = worker::now();
    while worker.lifecycle.phase() == Phase::Draining(since) {
        let end = since + period(&worker, &mut last).max;
        let now = worker::now();
        if now >= end {
            tracing::debug!("the drain has reached its end");
            return worker.lifecycle.advance(Phase::Now);
        }
        departures.step(&worker.clients, |_| true, &DeparturePeriod { begin, end }, now);
        timers::sleep((end - now).min(STEP)).await;
    }
}
