//! A pooler at one size: the figures that most sections share, and how idle CPU time and CPU time per query are measured.
//! Owns the pairing of poolers within a round; never starts one.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::GrowthSettings;
use super::bouncer::GrowthBouncer;
use super::delays::QueryDelay;
use crate::load::{Length, Load, Pgbench};
use crate::summary::Summary;
use crate::test_bed::TestBed;

/// Clients that query while CPU time is measured.
pub(super) const ACTIVE_CLIENTS: u32 = 16;
/// Transactions that fill the pool before the first round.
const WARM_UP: Length = Length::Transactions(2000);

/// The figures of one pooler at one size.
#[derive(Debug, Clone, Default)]
pub(super) struct LevelRow {
    /// The pooler.
    pub(super) pooler: &'static str,
    /// Number of databases, users, clients or statements.
    pub(super) count: u32,
    /// CPU time without any query, in percent of a core.
    pub(super) idle_percent: Option<f64>,
    /// Memory per configured database or user, in KiB.
    pub(super) entry_kib: Option<f64>,
    /// Memory per pool, client or statement, in KiB.
    pub(super) each_kib: Option<f64>,
    /// CPU time per query, in µs.
    pub(super) cpu_us: Option<Summary>,
    /// The same as a ratio to the smallest size of this pooler.
    pub(super) cpu_ratio: Option<f64>,
    /// Commands and what they delay.
    pub(super) delays: Vec<QueryDelay>,
}

/// The load whose CPU time is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuLoad {
    /// pgbench's query mode.
    pub(super) mode: &'static str,
    /// Number of clients.
    pub(super) clients: u32,
    /// Length of each run.
    pub(super) length: Length,
    /// Number of rounds.
    pub(super) rounds: u32,
}

impl CpuLoad {
    /// The load of most sections, in this query mode.
    pub(super) fn of_active(mode: &'static str, settings: &GrowthSettings) -> Self {
        Self { mode, clients: ACTIVE_CLIENTS, length: settings.length, rounds: settings.rounds }
    }
}

/// CPU time without any query, in percent of a core, of all `poolers` during the same `time`.
pub(super) fn idle_percents(poolers: &[&GrowthBouncer], time: Duration) -> Result<Vec<f64>> {
    let before = poolers.iter().map(|one| one.cpu_time()).collect::<Result<Vec<_>>>()?;
    thread::sleep(time);
    let pairs = poolers.iter().zip(before);
    pairs.map(|(one, before)| Ok(percent(one.cpu_time()?.since(&before), time))).collect()
}

fn percent(cpu_ns: u64, time: Duration) -> f64 {
    100.0 * cpu_ns as f64 / time.as_nanos() as f64
}

/// CPU time per query of each of `poolers`, in µs, for each round. Within a round all of them run in turn, so that a
/// change of the machine's speed affects all.
pub(super) fn cpu_costs(
    test_bed: &TestBed,
    poolers: &[&GrowthBouncer],
    load: CpuLoad,
) -> Result<Vec<Vec<f64>>> {
    let mut costs = vec![Vec::new(); poolers.len()];
    for pooler in poolers {
        cpu_us(test_bed, pooler, CpuLoad { length: WARM_UP, ..load })?;
    }
    for round in 0..load.rounds as usize {
        for step in 0..poolers.len() {
            let index = (round + step) % poolers.len();
            costs[index].push(cpu_us(test_bed, poolers[index], load)?);
        }
    }
    Ok(costs)
}

fn cpu_us(test_bed: &TestBed, pooler: &GrowthBouncer, load: CpuLoad) -> Result<f64> {
    let CpuLoad { mode, clients, length, .. } = load;
    let pgbench = Pgbench { load: Load::Select(mode), clients, tls: false, length, rate_per_s: None };
    let before = pooler.cpu_time()?;
    let report = pgbench.run(test_bed, pooler.port)?;
    Ok(pooler.cpu_time()?.since(&before) as f64 / 1000.0 / report.transactions as f64)
}

/// The median of the ratios of each round.
pub(super) fn median_ratio(of: &[f64], base: &[f64]) -> Option<f64> {
    let ratios = of.iter().zip(base).filter(|(_, base)| **base > 0.0).map(|(of, base)| of / base);
    Summary::of(ratios.collect()).map(|summary| summary.median)
}

/// The growth from `before_kib` to `after_kib`, per item.
pub(super) fn kib_each(before_kib: u64, after_kib: u64, count: u32) -> Option<f64> {
    (count > 0).then(|| (after_kib as f64 - before_kib as f64) / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_same_round() {
        assert_eq!(median_ratio(&[2.0, 30.0, 5.0], &[1.0, 10.0, 5.0]), Some(2.0));
        assert_eq!(median_ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn memory_is_divided_by_the_items_that_were_added() {
        assert_eq!(kib_each(100, 300, 100), Some(2.0));
        assert_eq!(kib_each(100, 300, 0), None);
    }

    #[test]
    fn idle_time_is_a_part_of_one_core() {
        assert_eq!(percent(10_000_000, Duration::from_secs(10)), 0.1);
    }
}
