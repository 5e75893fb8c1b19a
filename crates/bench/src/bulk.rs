//! Large results, read by a raw client: what one costs, what it does to others, and what a slow reader makes
//! the pooler hold. Owns these measurements; it never looks at a row.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::timeout;

use crate::bed::{Bed, DATABASE, USER};
use crate::client::{BenchTarget, Client};
use crate::cpu::Peak;
use crate::latency::Latencies;
use crate::load::{self, Length, Pgbench};
use crate::poolers::Pooler;

/// Bytes of one row of a large result.
const ROW_BYTES: u64 = 1000;
/// One megabyte, as in the tables.
const MEGABYTE_BYTES: u64 = 1_000_000;
/// One mebibyte.
const MEBIBYTE_BYTES: u64 = 1 << 20;
/// How long reading a large result may take: a pooler that hangs must not hang us.
const READ_LIMIT: Duration = Duration::from_secs(120);
/// How long the others beside a large result may take until they have begun …
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// … and the pause between two looks at whether they have.
const BEGIN_POLL: Duration = Duration::from_millis(5);
/// The percentile of which the tables speak.
const PERCENT: usize = 99;
/// How fast a slow client reads.
pub(crate) const SLOW_BYTES_PER_S: u32 = 20_000_000;

/// Cost of a large result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    /// CPU time of the pooler per megabyte, where there is a pooler.
    pub(crate) us_per_mb: Option<f64>,
    /// Megabytes per second.
    pub(crate) mb_per_s: f64,
}

/// What a large result does to others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    /// Growth of the pooler's peak memory in MiB, where there is a pooler.
    pub(crate) growth_mib: Option<f64>,
    /// Latency of the others while they are alone, in ms.
    pub(crate) alone_ms: f64,
    /// Latency of the others while the result is read, in ms.
    pub(crate) beside_ms: f64,
}

/// Reads a result of `megabytes` and throws it away.
pub(crate) fn measure(pooler: &Pooler, megabytes: u64) -> Result<Bulk> {
    let before = pooler.cpu_time()?;
    let read = read_all(pooler.port, megabytes * MEGABYTE_BYTES)?;
    let after = pooler.cpu_time()?;
    let read_mb = read.bytes as f64 / MEGABYTE_BYTES as f64;
    let cpu_ns = after.zip(before).map(|(after, before)| after.since(&before));
    Ok(Bulk {
        us_per_mb: cpu_ns.map(|ns| ns as f64 / 1000.0 / read_mb),
        mb_per_s: read_mb / read.elapsed.as_secs_f64(),
    })
}

/// Runs `others` alone for `seconds`, and then for twice as long beside a client that reads `mebibytes`.
pub(crate) fn beside(
    bed: &Bed,
    pooler: &Pooler,
    others: &Pgbench,
    mebibytes: u64,
    seconds: u32,
) -> Result<Beside> {
    let others = |seconds| Pgbench { length: Length::Seconds(seconds), ..*others };
    let alone = others(seconds).run(bed, pooler.port)?.latencies;
    let peak = pooler.pid().map(Peak::watch).transpose()?;
    let (read, report) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            wait_for_others(bed)?;
            read_all(pooler.port, mebibytes * MEBIBYTE_BYTES)
        });
        // Here and not in the thread: a child dies with the thread that has started it.
        let report = others(2 * seconds).run(bed, pooler.port);
        (reader.join().unwrap_or_else(|_| Err(anyhow!("the reader panicked"))), report)
    });
    let read = read.context("reading the large result")?;
    let during = report?.latencies.between(read.began, read.began + read.elapsed)?;
    Ok(Beside {
        growth_mib: growth_mib(peak)?,
        alone_ms: percentile_ms(&alone)?,
        beside_ms: percentile_ms(&during).context("while the large result was read")?,
    })
}

/// Waits until the others have logged in and are at work: where nobody pools, that takes longer than the result.
fn wait_for_others(bed: &Bed) -> Result<()> {
    let deadline = Instant::now() + BEGIN_LIMIT;
    while !load::has_begun(bed) {
        if Instant::now() > deadline {
            bail!("the others have not begun within {} s", BEGIN_LIMIT.as_secs());
        }
        thread::sleep(BEGIN_POLL);
    }
    Ok(())
}

/// The growth of the pooler's peak memory in MiB while a client reads a result of `mebibytes` slowly, for
/// `time`; `None` where there is no pooler.
pub(crate) fn slow(pooler: &Pooler, mebibytes: u64, time: Duration) -> Result<Option<f64>> {
    let target = target(pooler.port);
    let peak = pooler.pid().map(Peak::watch).transpose()?;
    runtime()?.block_on(async {
        let read = async {
            let mut client = Client::login(&target).await?;
            client.expect_much();
            client.read_slowly(&select(mebibytes * MEBIBYTE_BYTES), SLOW_BYTES_PER_S, time).await?;
            // Asked while the client is still there.
            growth_mib(peak)
        };
        timeout(READ_LIMIT, read).await.context("the slow client takes too long")?
    })
}

/// A result that was read.
struct Read {
    bytes: u64,
    began: SystemTime,
    elapsed: Duration,
}

fn read_all(port: u16, bytes: u64) -> Result<Read> {
    let target = target(port);
    runtime()?.block_on(async {
        let read = async {
            let mut client = Client::login(&target).await?;
            client.expect_much();
            let (began, start) = (SystemTime::now(), Instant::now());
            let bytes = client.query(&select(bytes)).await?;
            anyhow::Ok(Read { bytes, began, elapsed: start.elapsed() })
        };
        timeout(READ_LIMIT, read).await.context("the large result takes too long")?
    })
}

/// Rows one by one: the subquery keeps PostgreSQL from collecting them in a file first.
fn select(bytes: u64) -> String {
    let rows = bytes / ROW_BYTES;
    format!("SELECT repeat('x', {ROW_BYTES}) FROM (SELECT generate_series(1, {rows})) AS rows")
}

fn target(port: u16) -> BenchTarget<'static> {
    BenchTarget { port, user: USER, database: DATABASE, tls: None }
}

fn growth_mib(peak: Option<Peak>) -> Result<Option<f64>> {
    let growth_kib = peak.map(|peak| peak.growth_kib()).transpose()?;
    Ok(growth_kib.map(|kib| kib as f64 / 1024.0))
}

fn percentile_ms(latencies: &Latencies) -> Result<f64> {
    latencies.percentile_ms(PERCENT).context("no transaction was finished")
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
