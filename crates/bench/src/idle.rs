//! Memory per idle session, and what of it is left when the sessions have gone. Owns the measurement; it never
//! keeps a session after one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use crate::bed::{Bed, DATABASE, USER};
use crate::client::{self, BenchTarget, Client};
use crate::cpu::Memory;
use crate::poolers::Pooler;

/// How many sessions are opened at a time.
const LANES: u32 = 4;
/// How long opening all may take: a pooler that hangs must not hang us.
const OPEN_LIMIT: Duration = Duration::from_secs(180);
/// Pause between two looks at whether memory still shrinks …
const SHRINK_POLL: Duration = Duration::from_millis(250);
/// … after how many looks without a new low it does not …
const STILL_LOOKS: u32 = 12;
/// … and for how long that is awaited at most.
const SHRINK_LIMIT: Duration = Duration::from_secs(15);

/// What idle sessions cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    /// Growth of RSS for each, in KiB.
    pub(crate) rss_kib: f64,
    /// Growth of PSS for each, in KiB.
    pub(crate) pss_kib: f64,
    /// Growth of PSS that is left when all have gone, in MiB.
    pub(crate) left_mib: f64,
}

/// Opens `count` sessions, lets each run one query, and says by how much process `pid` has grown after
/// `settle`, and how much of that stays when they have left.
pub(crate) fn measure(
    bed: &Bed,
    pooler: &Pooler,
    pid: u32,
    tls: bool,
    count: u32,
    settle: Duration,
) -> Result<Idle> {
    let connector = tls.then(|| client::tls_connector(&bed.certs.ca_pem)).transpose()?;
    let target = BenchTarget { port: pooler.port, user: USER, database: DATABASE, tls: connector.as_ref() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // What the first session costs once – code pages, pools, allocator arenas – is not counted.
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

/// Waits until memory has stopped shrinking, and says how much there is.
async fn lowest_pss_kib(pid: u32) -> Result<u64> {
    let deadline = Instant::now() + SHRINK_LIMIT;
    let (mut lowest, mut looks) = (Memory::read(pid)?.pss_kib, 0);
    while looks < STILL_LOOKS && Instant::now() < deadline {
        sleep(SHRINK_POLL).await;
        let now = Memory::read(pid)?.pss_kib;
        looks = if now < lowest { 0 } else { looks + 1 };
        lowest = lowest.min(now);
    }
    Ok(lowest)
}

/// Opens `count` sessions, a few at a time, so that client and pooler both have something to do.
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
