//! What pgbench cannot measure, with raw clients: memory per idle session, and the cost of a large result.
//! Owns both measurements; it never keeps a session after one.

use std::time::Duration;

use anyhow::Result;

use crate::bed::{Bed, DATABASE, USER};
use crate::client::{self, Client, Target};
use crate::cpu::{CpuTime, Memory};
use crate::poolers::Pooler;

/// Bytes of one row of the large result.
const ROW_BYTES: u64 = 1000;
/// One megabyte, as in the tables.
const MEGABYTE_BYTES: u64 = 1_000_000;

/// Memory per idle client in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerClient {
    /// Growth of RSS.
    pub(crate) rss_kib: f64,
    /// Growth of PSS.
    pub(crate) pss_kib: f64,
}

/// Cost of a large result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    /// CPU time of the pooler per megabyte.
    pub(crate) us_per_mb: f64,
    /// Megabytes per second.
    pub(crate) mb_per_s: f64,
}

/// Opens `count` sessions, lets each run one query, and says by how much the pooler has grown after `settle`.
pub(crate) fn memory_per_client(
    bed: &Bed,
    pooler: &Pooler,
    tls: bool,
    count: u32,
    settle: Duration,
) -> Result<PerClient> {
    let connector = tls.then(|| client::tls_connector(&bed.certs.ca_pem)).transpose()?;
    let target = Target { port: pooler.port, user: USER, database: DATABASE, tls: connector.as_ref() };
    runtime()?.block_on(async {
        // What the first session costs once – code pages, pools, allocator arenas – is not counted.
        let first = session(&target).await?;
        let before = Memory::read(pooler.pid())?;
        let mut sessions = Vec::new();
        for _ in 0..count {
            sessions.push(session(&target).await?);
        }
        tokio::time::sleep(settle).await;
        let after = Memory::read(pooler.pid())?;
        drop((first, sessions));
        let per_client = |after: u64, before: u64| (after as f64 - before as f64) / f64::from(count);
        Ok(PerClient {
            rss_kib: per_client(after.rss_kib, before.rss_kib),
            pss_kib: per_client(after.pss_kib, before.pss_kib),
        })
    })
}

/// Reads a result of `megabytes` and throws it away.
pub(crate) fn large_result(pooler: &Pooler, megabytes: u64) -> Result<Bulk> {
    let rows = megabytes * MEGABYTE_BYTES / ROW_BYTES;
    let sql = format!("SELECT repeat('x', {ROW_BYTES}) FROM generate_series(1, {rows})");
    let target = Target { port: pooler.port, user: USER, database: DATABASE, tls: None };
    runtime()?.block_on(async {
        let mut client = session(&target).await?;
        client.expect_much();
        let before = CpuTime::read(pooler.pid())?;
        let start = std::time::Instant::now();
        let read_mb = client.query(&sql).await? as f64 / MEGABYTE_BYTES as f64;
        let elapsed_s = start.elapsed().as_secs_f64();
        let cpu_us = CpuTime::read(pooler.pid())?.since(&before) as f64 / 1000.0;
        Ok(Bulk { us_per_mb: cpu_us / read_mb, mb_per_s: read_mb / elapsed_s })
    })
}

async fn session(target: &Target<'_>) -> Result<Client> {
    let mut client = Client::login(target).await?;
    client.query("SELECT 1").await?;
    Ok(client)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
