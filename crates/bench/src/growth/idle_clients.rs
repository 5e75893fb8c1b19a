//! Clients: poolers with many idle clients. Owns these clients; never keeps one after the measurement.

use std::thread;

use anyhow::{Context, Result, anyhow};

use super::GrowthRun;
use super::bouncer::GrowthBouncer;
use super::config::GrowthIni;
use super::delays::{self, DelayAction};
use super::levels::{self, CpuLoad, LevelRow, cpu_costs, idle_percents, median_ratio};
use super::plain_client::PlainClient;
use crate::entrants::Entrant;
use crate::summary::Summary;

/// Number of logins at the same time.
const LANES: u32 = 4;
/// Clients in addition to the idle ones.
const OTHER_CLIENTS: u32 = 100;
/// What is run while another client queries.
const ACTIONS: [DelayAction; 3] = [DelayAction::ShowClients, DelayAction::ShowPools, DelayAction::Scrape];

/// Measures all poolers at all sizes. A process may not open enough files for all sizes at the same time, so each is
/// compared with the smallest alone.
pub(super) fn measure(run: &GrowthRun<'_>, counts: &[u32]) -> Result<Vec<LevelRow>> {
    let mut rows = Vec::new();
    for entrant in run.entrants() {
        let mut smallest: Option<(GrowthBouncer, Vec<PlainClient>)> = None;
        for count in run.counts(entrant, counts) {
            eprintln!("  {}: {count}", entrant.contender.name());
            let (row, pooler) = level(run, entrant, count, smallest.as_ref().map(|(base, _)| base))
                .with_context(|| format!("{}: {count} clients", entrant.contender.name()))?;
            rows.push(row);
            smallest.get_or_insert(pooler);
        }
    }
    Ok(rows)
}

/// One pooler at one size; `base` is the smallest, or missing if this is the smallest.
fn level(
    run: &GrowthRun<'_>,
    entrant: &Entrant,
    count: u32,
    base: Option<&GrowthBouncer>,
) -> Result<(LevelRow, (GrowthBouncer, Vec<PlainClient>))> {
    let ini = GrowthIni { max_clients: count + OTHER_CLIENTS, ..GrowthIni::SMALLEST };
    let bouncer = GrowthBouncer::start(run.test_bed, entrant, ini)?;
    let before_kib = bouncer.pss_kib()?;
    let clients = open(&bouncer, count)?;
    thread::sleep(run.settings.settle);
    let idle = idle_percents(&[&bouncer], run.settings.idle)?;
    // One client alone has the one-time costs of the first.
    let each_kib = levels::kib_each(before_kib, bouncer.pss_kib()?, count).filter(|_| count > 1);
    let load = CpuLoad::of_active("simple", &run.settings);
    let poolers: Vec<_> = base.into_iter().chain([&bouncer]).collect();
    let costs = cpu_costs(run.test_bed, &poolers, load)?;
    let own = costs.last().context("no figures of CPU time")?;
    let row = LevelRow {
        pooler: bouncer.name,
        count,
        idle_percent: idle.first().copied(),
        each_kib,
        cpu_us: Summary::of(own.clone()),
        cpu_ratio: median_ratio(own, &costs[0]),
        delays: delays::measure(&bouncer, &ACTIONS, run.settings.delay_rounds)?,
        ..LevelRow::default()
    };
    Ok((row, (bouncer, clients)))
}

/// Opens clients that have run one query each.
pub(super) fn open(bouncer: &GrowthBouncer, count: u32) -> Result<Vec<PlainClient>> {
    let lane = |first: u32| {
        let numbers = (first..count).step_by(LANES as usize);
        numbers
            .map(|_| {
                let mut client = bouncer.client()?;
                client.query("SELECT 1")?;
                Ok(client)
            })
            .collect::<Result<Vec<_>>>()
    };
    let lanes: Vec<_> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|first| scope.spawn(move || lane(first))).collect();
        lanes.into_iter().map(|lane| lane.join()).collect()
    });
    let mut clients = Vec::new();
    for lane in lanes {
        clients.extend(lane.map_err(|_| anyhow!("a login has panicked"))??);
    }
    Ok(clients)
}
