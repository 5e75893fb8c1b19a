//! Reports the pools in use at this worker to the history. Owns which pools were in use when it last reported: each is
//! reported once more when it no longer is.

use crate::pool::Pool;
use crate::stats::history::{PoolReport, STEP};
use crate::worker::{self, executor};
use crate::worker_state::Worker;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// Pools that are reported before other tasks of the worker run.
const POOLS_PER_STEP: usize = 100;

/// When reports are due.
struct Schedule {
    due_at: Instant,
    reported_at: Instant,
}

impl Schedule {
    /// The first report covers a step from now.
    fn begin(now: Instant) -> Self {
        Self { due_at: now + STEP, reported_at: now }
    }

    /// The time that a report covers, if one is due.
    fn take_due(&mut self, now: Instant) -> Option<Duration> {
        let late = now.checked_duration_since(self.due_at)?;
        self.due_at = if late < STEP { self.due_at + STEP } else { now + STEP };
        Some(now.saturating_duration_since(std::mem::replace(&mut self.reported_at, now)))
    }
}

/// The reports of a worker.
pub(super) struct HistoryReporter {
    worker: Rc<Worker>,
    schedule: Schedule,
    /// The pools that were in use at the last one.
    in_use: Vec<Weak<Pool>>,
}

impl HistoryReporter {
    pub(super) fn new(worker: Rc<Worker>) -> Self {
        Self { worker, schedule: Schedule::begin(worker::now()), in_use: Vec::new() }
    }

    /// True if no pool is in use that the history takes to be.
    pub(super) fn is_complete(&self) -> bool {
        self.in_use.is_empty()
    }

    /// Continues after a time without a report in which no pool was in use.
    pub(super) fn resume(&mut self) {
        self.schedule = Schedule::begin(worker::now());
    }

    /// Reports if it is time. The first worker also takes the sample.
    pub(super) async fn report_if_due(&mut self) {
        let now = worker::now();
        let Some(covered) = self.schedule.take_due(now) else { return };
        let pools = self.reports(covered).await;
        let (history, own) = (&self.worker.context.process.history, self.worker.context.worker.index());
        history.report(own, pools);
        if own == 0 {
            history.take_sample(now);
        }
    }

    async fn reports(&mut self, covered: Duration) -> Vec<PoolReport> {
        let mut pools = self.worker.directory.maintained_pools();
        let has_ended = |pool: &Rc<Pool>| !pool.is_maintained();
        pools.extend(self.in_use.drain(..).filter_map(|pool| pool.upgrade()).filter(has_ended));
        let (mut reports, in_use) = (Vec::with_capacity(pools.len()), &mut self.in_use);
        let add = |pool: &Rc<Pool>| {
            let report = report_of(pool, covered);
            // Without servers and waiting clients, it is in the list for its minimum, which it may be unable to open.
            if report.point != Default::default() || !report.work.is_none() {
                in_use.push(Rc::downgrade(pool));
                reports.push(report);
            }
        };
        executor::for_each_in_steps(&pools, POOLS_PER_STEP, add).await;
        reports
    }
}

fn report_of(pool: &Pool, covered: Duration) -> PoolReport {
    let (mut point, work) = (pool.point(), pool.stats.take_unreported());
    if !covered.is_zero() {
        point.queries_per_second = work.totals.queries as f64 / covered.as_secs_f64();
    }
    PoolReport { name: (pool.database.name.to_string(), pool.user.to_string()), point, work }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression test: the rate of the first milliseconds after a sleep was reported as that of a step.
    #[test]
    fn a_report_covers_a_step_also_after_a_sleep() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut schedule = Schedule::begin(began);
        assert_eq!(schedule.take_due(at(4900)), None);
        assert_eq!(schedule.take_due(at(5100)), Some(Duration::from_millis(5100)));
        // The rhythm is kept.
        assert_eq!(schedule.take_due(at(10_000)), Some(Duration::from_millis(4900)));
        schedule = Schedule::begin(at(70_000));
        assert_eq!(schedule.take_due(at(70_010)), None);
        assert_eq!(schedule.take_due(at(75_010)), Some(Duration::from_millis(5010)));
    }
}
