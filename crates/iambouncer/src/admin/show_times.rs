//! SHOW LATENCIES and SHOW HISTORY: the last minute of each database, and the last five of each pool. Owns their tables;
//! the samples are taken every five seconds.

use super::columns::{PendingRecords, Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::stats::histogram::Buckets;
use crate::stats::history::{PoolPoint, RecentWork};
use crate::stats::snapshot::PoolName;
use crate::worker::executor;
use std::time::{Duration, Instant};

/// A database and its last minute.
type LatencyRecord = (String, RecentWork);

/// A count per second.
fn rate(recent: &RecentWork, count: u64) -> Option<String> {
    let seconds = recent.period.as_secs_f64();
    (seconds > 0.0).then(|| format!("{:.0}", count as f64 / seconds))
}

/// A quantile in microseconds; `None` if nothing was observed.
fn quantile(buckets: Buckets, part: f64) -> Option<String> {
    buckets.quantile(part).map(|seconds| format!("{:.0}", seconds * 1e6))
}

pub(super) static LATENCIES: Table<LatencyRecord> = Table {
    columns: &[
        text("database", |(database, _)| shown(database)),
        int4("period", |(_, recent)| shown(recent.period.as_secs())),
        int8("queries_per_s", |(_, recent)| rate(recent, recent.work.totals.queries)),
        int8("xacts_per_s", |(_, recent)| rate(recent, recent.work.totals.transactions)),
        int8("received_per_s", |(_, recent)| rate(recent, recent.work.totals.received_bytes)),
        int8("sent_per_s", |(_, recent)| rate(recent, recent.work.totals.sent_bytes)),
        int8("query_p50_us", |(_, recent)| quantile(recent.work.durations.queries, 0.5)),
        int8("query_p99_us", |(_, recent)| quantile(recent.work.durations.queries, 0.99)),
        int8("xact_p50_us", |(_, recent)| quantile(recent.work.durations.transactions, 0.5)),
        int8("xact_p99_us", |(_, recent)| quantile(recent.work.durations.transactions, 0.99)),
        int8("wait_p50_us", |(_, recent)| quantile(recent.work.durations.waits, 0.5)),
        int8("wait_p99_us", |(_, recent)| quantile(recent.work.durations.waits, 0.99)),
    ],
    records: Records::Here(latencies),
};

fn latencies(console: &Console) -> Vec<LatencyRecord> {
    console.context.process.history.last_minute().into_iter().collect()
}

/// The age of a sample, the pool, and the sample.
type HistoryRecord = (Duration, PoolName, PoolPoint);

pub(super) static HISTORY: Table<HistoryRecord> = Table {
    columns: &[
        text("database", |(_, (database, _), _)| shown(database)),
        text("user", |(_, (_, user), _)| shown(user)),
        int4("age", |(age, ..)| shown(age.as_secs())),
        int4("sv_active", |(_, _, point)| shown(point.active)),
        int4("sv_idle", |(_, _, point)| shown(point.idle)),
        int4("cl_waiting", |(_, _, point)| shown(point.waiting)),
        int8("maxwait_us", |(_, _, point)| shown(point.longest_wait.as_micros())),
        int8("queries_per_s", |(_, _, point)| shown(point.queries_per_second.round())),
    ],
    records: Records::HereInSteps(history),
};

fn history(console: &Console) -> PendingRecords<'_, HistoryRecord> {
    let process = &console.context.process;
    Box::pin(async move {
        let (mut samples, now) = (Vec::new(), Instant::now());
        while let Some(sample) = process.history.sample(samples.len(), now) {
            samples.push(sample);
            executor::yield_now().await;
        }
        samples.into_iter().flatten().collect()
    })
}
