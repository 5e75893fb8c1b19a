//! Memory per idle session, and the memory that remains after the sessions have closed. Owns the measurement;
//! never keeps a session open after it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use crate::client::{self, BenchTarget, Client};
use crate::cpu::Memory;
use crate::poolers::Pooler;
use crate::test_bed::{DATABASE, TestBed, USER};

/// Number of sessions opened concurrently.
const LANES: u32 = 4;
/// Time limit for opening all sessions, in case a pooler hangs.
const OPEN_LIMIT: Duration = Duration::from_secs(180);
/// Interval between checks whether memory still shrinks …
const SHRINK_POLL: Duration = Duration::from_millis(250);
/// … the number of checks without a new minimum after which it no longer does …
const SHRINK_CHECKS: u32 = 12;
/// … and the time limit.
const SHRINK_LIMIT: Duration = Duration::from_secs(15);

/// Memory used by idle sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    /// Growth of RSS per session, in KiB.
    pub(crate) rss_kib: f64,
    /// Growth of PSS per session, in KiB.
    pub(crate) pss_kib: f64,
    /// Growth of PSS that remains after all sessions have closed, in MiB.
    pub(crate) left_mib: f64,
}

/// Opens `count` sessions, runs one query in each, and returns the growth of process `pid` after `settle`,
/// and the growth that remains after they have closed.
pub(crate) fn measure(
    test_bed: &TestBed,
    pooler: &Pooler,
    pid: u32,
    tls: bool,
    count: u32,
    settle: Duration,
) -> Result<Idle> {
    let connector = tls.then(|| client::tls_connector(&test_bed.certs.ca_pem)).transpose()?;
    let target = BenchTarget { port: pooler.port, user: USER, database: DATABASE, tls: connector.as_ref() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // One-time costs of the first session (code pages, pools, allocator arenas) are not counted.
        let first =
            timeout(OPEN_LIMIT, session(&target)).await.context("the first login takes too long")??;
        let before = Memory::read(pid)?;
        let sessions = timeout(OPEN_LIMIT, open(&target, count)).await.context("logins take too long")??;
        sleep(settle).await;
        let full = Memory::read(pid)?;
        drop(sessions);
        let left_kib = lowest_pss_kib(pid).await?;
        drop(first);
        let growth = |after: u64, before: u64| after as f64 - before as f64;
        Ok(Idle {
            rss_kib: growth(full.rss_kib, before.rss_kib) / f64::from(count),
            pss_kib: growth(full.pss_kib, before.pss_kib) / f64::from(count),
            left_mib: growth(left_kib, before.pss_kib) / 1024.0,
        })
    })
}

/// Waits until memory has stopped shrinking and returns the minimum.
async fn lowest_pss_kib(pid: u32) -> Result<u64> {
    let deadline = Instant::now() + SHRINK_LIMIT;
    let (mut lowest, mut checks) = (Memory::read(pid)?.pss_kib, 0);
    while checks < SHRINK_CHECKS && Instant::now() < deadline {
        sleep(SHRINK_POLL).await;
        let now = Memory::read(pid)?.pss_kib;
        checks = if now < lowest { 0 } else { checks + 1 };
        lowest = lowest.min(now);
    }
    Ok(lowest)
}

/// Opens `count` sessions, several concurrently, so that neither the client nor the pooler waits idly.
async fn open(target: &BenchTarget<'_>, count: u32) -> Result<Vec<Client>> {
    let lane = |index: u32| async move {
        let mut sessions = Vec::new();
        for _ in (index..count).step_by(LANES as usize) {
            sessions.push(session(target).await?);
        }
        anyhow::Ok(sessions)
    };
    let (a, b, c, d) = tokio::try_join!(lane(0), lane(1), lane(2), lane(3))?;
    Ok([a, b, c, d].into_iter().flatten().collect())
}

async fn session(target: &BenchTarget<'_>) -> Result<Client> {
    let mut client = Client::login(target).await?;
    client.query("SELECT 1").await?;
    Ok(client)
}
