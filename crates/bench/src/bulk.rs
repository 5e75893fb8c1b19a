//! Large results, read by a raw client: their cost, their effect on other clients, and the memory the pooler
//! needs for a slow reader. Owns these measurements; never parses a row.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::client::{BenchTarget, Client};
use crate::cpu::Peak;
use crate::load::{self, Length, Pgbench};
use crate::poolers::Pooler;
use crate::test_bed::{DATABASE, TestBed, USER};
use crate::transfer::{self, Transfer};

/// Bytes of one row of a large result beside other work.
const ROW_BYTES: u64 = 1000;
/// One megabyte, as in the tables.
const MEGABYTE_BYTES: u64 = 1_000_000;
/// One mebibyte.
const MEBIBYTE_BYTES: u64 = 1 << 20;
/// Time limit for reading a large result, in case a pooler hangs.
const READ_LIMIT: Duration = Duration::from_secs(120);
/// Time limit for the other clients to start …
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// … and the interval between checks.
const BEGIN_POLL: Duration = Duration::from_millis(5);
/// How fast a slow client reads.
pub(crate) const SLOW_BYTES_PER_S: u32 = 20_000_000;

/// Cost of a large result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    /// CPU time of the pooler per megabyte, if there is a pooler.
    pub(crate) us_per_mb: Option<f64>,
    /// Megabytes per second.
    pub(crate) mb_per_s: f64,
}

/// Effect of a large result on other clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    /// Growth of the pooler's peak memory in MiB, if there is a pooler.
    pub(crate) growth_mib: Option<f64>,
    /// Latency of the other clients without the large result, in ms.
    pub(crate) alone_ms: f64,
    /// Latency of the other clients while the result is read, in ms.
    pub(crate) beside_ms: f64,
}

/// Transfers `megabytes`, with TLS if `tls` connects with it.
pub(crate) fn measure(
    pooler: &Pooler,
    transfer: Transfer,
    tls: Option<&TlsConnector>,
    megabytes: u64,
) -> Result<Bulk> {
    let before = pooler.cpu_time()?;
    let read = transfer_all(&target(pooler.port, tls), transfer, megabytes * MEGABYTE_BYTES)?;
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
    test_bed: &TestBed,
    pooler: &Pooler,
    others: &Pgbench,
    mebibytes: u64,
    seconds: u32,
) -> Result<Beside> {
    let others = |seconds| Pgbench { length: Length::Seconds(seconds), ..*others };
    let alone = others(seconds).run(test_bed, pooler.port)?.latencies;
    let peak = pooler.pid().map(Peak::watch).transpose()?;
    let (read, report) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            wait_for_other_clients(test_bed)?;
            let target = target(pooler.port, None);
            transfer_all(&target, Transfer::Rows(ROW_BYTES), mebibytes * MEBIBYTE_BYTES)
        });
        // Not in the thread: a child process is killed when the thread that started it ends.
        let report = others(2 * seconds).run(test_bed, pooler.port);
        (reader.join().unwrap_or_else(|_| Err(anyhow!("the reader panicked"))), report)
    });
    let read = read.context("reading the large result")?;
    let during = report?.latencies.between(read.began, read.began + read.elapsed)?;
    Ok(Beside {
        growth_mib: growth_mib(peak)?,
        alone_ms: alone.p99_ms()?,
        beside_ms: during.p99_ms().context("while the large result was read")?,
    })
}

/// Waits until the other clients have logged in and run queries; without pooling, logins take longer than
/// reading the result.
pub(crate) fn wait_for_other_clients(test_bed: &TestBed) -> Result<()> {
    let deadline = Instant::now() + BEGIN_LIMIT;
    while !load::has_started(test_bed) {
        if Instant::now() > deadline {
            bail!("the other clients did not start within {} s", BEGIN_LIMIT.as_secs());
        }
        thread::sleep(BEGIN_POLL);
    }
    Ok(())
}

/// The growth of the pooler's peak memory in MiB while a client reads a result of `mebibytes` slowly, for
/// `time`; `None` without a pooler.
pub(crate) fn slow(pooler: &Pooler, mebibytes: u64, time: Duration) -> Result<Option<f64>> {
    let target = target(pooler.port, None);
    let peak = pooler.pid().map(Peak::watch).transpose()?;
    runtime()?.block_on(async {
        let read = async {
            let mut client = Client::login(&target).await?;
            client.enlarge_buffer();
            client
                .read_slowly(&transfer::rows(ROW_BYTES, mebibytes * MEBIBYTE_BYTES), SLOW_BYTES_PER_S, time)
                .await?;
            // Read while the client is still connected.
            growth_mib(peak)
        };
        timeout(READ_LIMIT, read).await.context("the slow client takes too long")?
    })
}

/// Data that was transferred.
struct Read {
    bytes: u64,
    began: SystemTime,
    elapsed: Duration,
}

fn transfer_all(target: &BenchTarget<'_>, transfer: Transfer, bytes: u64) -> Result<Read> {
    runtime()?.block_on(async {
        let read = async {
            let mut client = Client::login(target).await?;
            client.enlarge_buffer();
            let (began, start) = (SystemTime::now(), Instant::now());
            let bytes = transfer.run(&mut client, bytes).await?;
            anyhow::Ok(Read { bytes, began, elapsed: start.elapsed() })
        };
        timeout(READ_LIMIT, read).await.context("the large result takes too long")?
    })
}

fn target(port: u16, tls: Option<&TlsConnector>) -> BenchTarget<'_> {
    BenchTarget { port, user: USER, database: DATABASE, tls }
}

fn growth_mib(peak: Option<Peak>) -> Result<Option<f64>> {
    let growth_kib = peak.map(|peak| peak.growth_kib()).transpose()?;
    Ok(growth_kib.map(|kib| kib as f64 / 1024.0))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
