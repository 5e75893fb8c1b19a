//! One round of one row for one contender. Owns the choice of measurement for a kind of work, and the
//! resulting figures; independent of rounds and other contenders.

use std::time::Duration;

use anyhow::Result;

use crate::bulk::{self, Bulk};
use crate::client;
use crate::contenders::{Contender, ContenderKind};
use crate::entrants::Entrant;
use crate::idle;
use crate::load::{Length, Load, Pgbench};
use crate::metrics::ParsedMetric;
use crate::plan::{BenchSettings, PlanRow, Work};
use crate::poolers::Pooler;
use crate::scram_logins;
use crate::storm;
use crate::test_bed::TestBed;
use crate::transfer::Transfer;

/// Logins per second that PostgreSQL handles at least, beside other work.
const LOGINS_PER_S: u32 = 64;

/// The figures of one round.
pub(crate) type Measurement = Vec<(ParsedMetric, f64)>;

/// Starts `entrant` as required by `row`, and fills its pool, so that no round includes logins to the server.
pub(crate) fn start(
    test_bed: &TestBed,
    settings: &BenchSettings,
    entrant: &Entrant,
    row: &PlanRow,
) -> Result<Pooler> {
    let pooler = Pooler::start(test_bed, entrant, row.ini)?;
    let Some(length) = settings.warm_up else { return Ok(pooler) };
    let load = |load, clients| {
        let (length, tls) = (for_load(length, load), row.ini.client_tls);
        Pgbench { load, clients, tls, length, rate_per_s: None }.run(test_bed, pooler.port).map(drop)
    };
    match row.work {
        Work::Pgbench(kind, clients) => load(kind, clients)?,
        Work::Beside(others) => load(others.load, others.clients)?,
        Work::Bulk(transfer) => bulk_of(test_bed, row, transfer, &pooler, 1).map(drop)?,
        Work::ScramLogins => {
            scram_logins::measure(&pooler, &test_bed.scram, for_load(length, Load::Logins)).map(drop)?;
        }
        // The other clients of a storm have time to fill the pool.
        Work::Slow | Work::Idle | Work::Storm(_) => {}
    }
    Ok(pooler)
}

/// Measures `row` once for `contender`, running as `pooler`.
pub(crate) fn once(
    test_bed: &TestBed,
    settings: &BenchSettings,
    row: &PlanRow,
    contender: Contender,
    pooler: &Pooler,
) -> Result<Measurement> {
    match row.work {
        Work::Pgbench(load, clients) => {
            let length = with_logins(for_load(settings.length, load), contender, clients);
            let tls = row.ini.client_tls;
            pgbench(test_bed, &Pgbench { load, clients, tls, length, rate_per_s: None }, pooler)
        }
        Work::ScramLogins => {
            let length = for_load(settings.length, Load::Logins);
            let logins = scram_logins::measure(pooler, &test_bed.scram, length)?;
            let cpu = logins.us_each.map(|value| (ParsedMetric::CpuPerLogin, value));
            Ok(cpu.into_iter().chain([(ParsedMetric::Logins, logins.per_second)]).collect())
        }
        Work::Storm(others) => {
            let quiet = Duration::from_secs(settings.storm_quiet_s.into());
            storm::measure(test_bed, pooler, &others, settings.storm_clients, quiet)
        }
        Work::Idle => {
            let Some(pid) = pooler.pid() else { return Ok(Vec::new()) };
            let BenchSettings { idle_clients, settle, .. } = *settings;
            let idle = idle::measure(test_bed, pooler, pid, row.ini.client_tls, idle_clients, settle)?;
            Ok(vec![
                (ParsedMetric::PssPerClient, idle.pss_kib),
                (ParsedMetric::RssPerClient, idle.rss_kib),
                (ParsedMetric::PssAfterBurst, idle.left_mib),
            ])
        }
        Work::Bulk(transfer) => {
            let bulk = bulk_of(test_bed, row, transfer, pooler, settings.bulk_megabytes)?;
            let cpu = bulk.us_per_mb.map(|value| (ParsedMetric::CpuPerMegabyte, value));
            Ok(cpu.into_iter().chain([(ParsedMetric::MegabytesPerSecond, bulk.mb_per_s)]).collect())
        }
        Work::Beside(others) => {
            let BenchSettings { beside_mebibytes, beside_s, .. } = *settings;
            let beside = bulk::beside(test_bed, pooler, &others, beside_mebibytes, beside_s)?;
            let growth = beside.growth_mib.map(|value| (ParsedMetric::PeakGrowth, value));
            let others = [
                (ParsedMetric::P99Alone, beside.alone_ms),
                (ParsedMetric::P99Beside, beside.beside_ms),
                (ParsedMetric::P99Raise, beside.beside_ms / beside.alone_ms),
            ];
            Ok(growth.into_iter().chain(others).collect())
        }
        Work::Slow => {
            let growth = bulk::slow(pooler, settings.beside_mebibytes, settings.slow)?;
            Ok(growth.map(|value| (ParsedMetric::PeakGrowth, value)).into_iter().collect())
        }
    }
}

fn bulk_of(
    test_bed: &TestBed,
    row: &PlanRow,
    transfer: Transfer,
    pooler: &Pooler,
    megabytes: u64,
) -> Result<Bulk> {
    let connector = row.ini.client_tls.then(|| client::tls_connector(&test_bed.certs.ca_pem)).transpose()?;
    bulk::measure(pooler, transfer, connector.as_ref(), megabytes)
}

fn pgbench(test_bed: &TestBed, pgbench: &Pgbench, pooler: &Pooler) -> Result<Measurement> {
    let before = pooler.cpu_time()?;
    let report = pgbench.run(test_bed, pooler.port)?;
    let cpu_ns = pooler.cpu_time()?.zip(before).map(|(after, before)| after.since(&before));
    let us_each = cpu_ns.map(|ns| ns as f64 / 1000.0 / report.transactions as f64);
    let percentile = |percent| report.latencies.percentile_ms(percent);
    let figures = match pgbench.load {
        Load::Select(_) => [
            (ParsedMetric::CpuPerTransaction, us_each),
            (ParsedMetric::Throughput, Some(report.per_second)),
            (ParsedMetric::LatencyMedian, percentile(50)),
            (ParsedMetric::LatencyP99, percentile(99)),
        ]
        .to_vec(),
        Load::Logins => {
            vec![(ParsedMetric::CpuPerLogin, us_each), (ParsedMetric::Logins, Some(report.per_second))]
        }
    };
    Ok(figures.into_iter().filter_map(|(metric, value)| Some((metric, value?))).collect())
}

/// `length` plus the time for logins, which pgbench includes in its seconds: without pooling, each client
/// waits for PostgreSQL to start a process. Neither throughput nor latency includes this time.
fn with_logins(length: Length, contender: Contender, clients: u32) -> Length {
    match length {
        Length::Seconds(seconds) if contender.kind() != ContenderKind::Pooler => {
            Length::Seconds(seconds + clients / LOGINS_PER_S)
        }
        length => length,
    }
}

/// `length` scaled for `load`: a login takes about ten times as long as a query.
fn for_load(length: Length, load: Load) -> Length {
    match (length, load) {
        (Length::Transactions(all), Load::Logins) => Length::Transactions(all / 10),
        (length, _) => length,
    }
}
