//! A burst: many idle clients start to send batches at the same time. The pooler answers these itself, since on few cores
//! PostgreSQL would leave it too little time to become busy. Owns the clients, the reading of SHOW WORKERS and the criterion
//! of an even spread; never changes when a worker joins.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::GrowthRun;
use super::bouncer::GrowthBouncer;
use super::config::GrowthIni;
use super::delays::ms;
use super::plain_client::PlainClient;
use crate::client::{BenchTarget, Client};
use crate::latency::nearest_rank;
use crate::test_bed::{DATABASE, USER};

/// Interval between readings of SHOW WORKERS.
const POLL: Duration = Duration::from_millis(3);
/// Columns of SHOW WORKERS: state, clients and load.
const STATE: usize = 2;
const CLIENTS: usize = 3;
const CPU_US: usize = 6;
/// Value of the state.
const ACTIVE: &str = "active";
/// An active worker has its share with this part of the mean number of clients.
const SHARE: f64 = 0.5;
/// The period that counts as the spread if no other worker joins.
pub(super) const FIRST: Duration = Duration::from_secs(1);
/// Messages of a batch. The pooler needs more time for them than the client.
pub(super) const BATCH_MESSAGES: usize = 1000;
/// Clients beside those that send: the console, and those of the start.
const OTHER_CLIENTS: u32 = 100;

/// The figures of one burst.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BurstRound {
    /// Most workers that were active at the same time.
    pub(super) active: usize,
    /// Time until every active worker has its share, in ms; `None` if no second worker has joined, or if it never had it.
    pub(super) spread_ms: Option<f64>,
    /// CPU time of the worker with the most, in percent of a core.
    pub(super) busiest_percent: f64,
    /// p99 of batches that ended until then, or in the first second.
    pub(super) p99_before_ms: Option<f64>,
    /// p99 of batches that began later.
    pub(super) p99_after_ms: Option<f64>,
}

/// One reading of SHOW WORKERS.
#[derive(Debug, Clone, PartialEq)]
struct WorkersReading {
    at: Duration,
    /// Clients of each active worker.
    clients: Vec<u32>,
    /// CPU time of each worker, in µs.
    cpu_us: Vec<u64>,
}

/// When a batch began and ended, since the burst began.
type BurstBatch = (Duration, Duration);

/// Runs all bursts, each with a new pooler.
pub(super) fn measure(run: &GrowthRun<'_>) -> Result<Vec<BurstRound>> {
    (0..run.settings.burst_rounds).map(|_| once(run)).collect()
}

fn once(run: &GrowthRun<'_>) -> Result<BurstRound> {
    let (count, time) = (run.settings.burst_clients, run.settings.burst);
    let ini = GrowthIni { max_clients: count + OTHER_CLIENTS, ..GrowthIni::SMALLEST };
    let bouncer = GrowthBouncer::start(run.test_bed, run.iambouncer, ini)?;
    let (began, is_begun) = std::sync::mpsc::channel();
    let mut console = bouncer.console()?;
    let port = bouncer.port;
    let settle = run.settings.settle;
    let (readings, batches) = thread::scope(|scope| {
        let load = scope.spawn(move || send_all(port, count, settle, time, &began));
        let readings = match is_begun.recv() {
            Ok(began) => read_workers(&mut console, began, time),
            // The load has failed, and has the reason.
            Err(_) => Ok(Vec::new()),
        };
        (readings, load.join())
    });
    let batches = batches.map_err(|_| anyhow!("the load has panicked"))??;
    Ok(summarize(&readings?, &batches, time))
}

/// Opens all clients, waits, and lets all of them send batches for `time`; reports when they begin.
fn send_all(
    port: u16,
    count: u32,
    settle: Duration,
    time: Duration,
    begins: &std::sync::mpsc::Sender<Instant>,
) -> Result<Vec<BurstBatch>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The clients stay on this thread: on few cores the others are those of the pooler and of PostgreSQL.
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let barrier = Arc::new(Barrier::new(count as usize + 1));
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let target = BenchTarget { port, user: USER, database: DATABASE, tls: None };
            let mut client = Client::login(&target).await?;
            client.query("SELECT 1").await?;
            let barrier = Arc::clone(&barrier);
            clients.spawn_local(async move {
                barrier.wait().await;
                let (began, mut batches) = (Instant::now(), Vec::new());
                while began.elapsed() < time {
                    let from = Instant::now();
                    client.close_unknown(BATCH_MESSAGES).await?;
                    batches.push((from, Instant::now()));
                }
                anyhow::Ok(batches)
            });
        }
        tokio::time::sleep(settle).await;
        let began = Instant::now();
        begins.send(began).context("reporting the begin of the burst")?;
        barrier.wait().await;
        let mut all = Vec::new();
        while let Some(batches) = clients.join_next().await {
            let since = |at: Instant| at.saturating_duration_since(began);
            all.extend(batches??.into_iter().map(|(from, to)| (since(from), since(to))));
        }
        Ok(all)
    })
}

fn read_workers(console: &mut PlainClient, began: Instant, time: Duration) -> Result<Vec<WorkersReading>> {
    let mut readings = Vec::new();
    while began.elapsed() < time {
        let rows = console.rows("SHOW WORKERS")?;
        readings.push(reading(&rows, began.elapsed()).context("unexpected columns of SHOW WORKERS")?);
        thread::sleep(POLL);
    }
    Ok(readings)
}

fn reading(rows: &[Vec<String>], at: Duration) -> Option<WorkersReading> {
    let (mut clients, mut cpu_us) = (Vec::new(), Vec::new());
    for row in rows {
        if row.get(STATE)? == ACTIVE {
            clients.push(row.get(CLIENTS)?.parse().ok()?);
        }
        cpu_us.push(row.get(CPU_US)?.parse().ok()?);
    }
    Some(WorkersReading { at, clients, cpu_us })
}

/// True if no active worker has fewer than its share.
fn is_even(clients: &[u32]) -> bool {
    let mean = f64::from(clients.iter().sum::<u32>()) / clients.len().max(1) as f64;
    clients.iter().all(|&of_one| f64::from(of_one) >= SHARE * mean)
}

fn summarize(readings: &[WorkersReading], batches: &[BurstBatch], time: Duration) -> BurstRound {
    let active = readings.iter().map(|reading| reading.clients.len()).max().unwrap_or(0);
    // The first reading with the most workers, since fewer of them are not the end of the spread.
    let spread =
        readings.iter().find(|one| active > 1 && one.clients.len() == active && is_even(&one.clients));
    let spread = spread.map(|reading| reading.at);
    let until = spread.unwrap_or_else(|| FIRST.min(time / 2));
    let before = batches.iter().filter(|(_, ended)| *ended <= until);
    let after = batches.iter().filter(|(began, _)| *began > until);
    BurstRound {
        active,
        spread_ms: spread.map(ms),
        busiest_percent: busiest_percent(readings),
        p99_before_ms: p99_ms(before),
        p99_after_ms: p99_ms(after),
    }
}

fn busiest_percent(readings: &[WorkersReading]) -> f64 {
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return 0.0 };
    let used_us = first.cpu_us.iter().zip(&last.cpu_us).map(|(from, to)| to.saturating_sub(*from)).max();
    100.0 * used_us.unwrap_or(0) as f64 / (last.at - first.at).as_micros().max(1) as f64
}

fn p99_ms<'a>(batches: impl Iterator<Item = &'a BurstBatch>) -> Option<f64> {
    let mut sorted: Vec<_> = batches.map(|(began, ended)| ms(*ended - *began)).collect();
    sorted.sort_by(f64::total_cmp);
    nearest_rank(&sorted, 99)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, clients: &[u32]) -> WorkersReading {
        let cpu_us = vec![ms * 500, 0];
        WorkersReading { at: Duration::from_millis(ms), clients: clients.to_vec(), cpu_us }
    }

    #[test]
    fn the_spread_ends_when_every_active_worker_has_half_of_the_mean() {
        let readings =
            [at(0, &[100]), at(5, &[90, 10]), at(9, &[76, 24]), at(12, &[75, 25]), at(20, &[50, 50])];
        let batch = |from, to| (Duration::from_millis(from), Duration::from_millis(to));
        let batches = [batch(0, 8), batch(1, 13), batch(13, 15)];
        let round = summarize(&readings, &batches, Duration::from_secs(4));
        assert_eq!((round.active, round.spread_ms), (2, Some(12.0)));
        assert_eq!((round.p99_before_ms, round.p99_after_ms), (Some(8.0), Some(2.0)));
        assert_eq!(round.busiest_percent, 50.0);
    }

    #[test]
    fn one_active_worker_is_no_spread() {
        let round = summarize(&[at(0, &[100]), at(9, &[100])], &[], Duration::from_secs(4));
        assert_eq!((round.active, round.spread_ms), (1, None));
    }

    #[test]
    fn the_columns_of_show_workers_are_known() {
        let row = |state: &str| ["0", "io_uring", state, "7", "2", "9", "55"].map(str::to_owned).to_vec();
        let found = reading(&[row("active"), row("inactive")], Duration::ZERO).unwrap();
        assert_eq!((found.clients, found.cpu_us), (vec![7], vec![55, 55]));
        assert_eq!(reading(&[vec!["0".to_owned()]], Duration::ZERO), None);
    }
}
