//! `make bench-growth`: how cost grows with the number of databases, users, clients, statements and workers, and
//! `bench/GROWTH.md`. Owns the sections and their amounts. Never edits a figure, and never ends at a section that fails:
//! the page has the reason.

mod bouncer;
mod burst;
mod config;
mod delays;
mod idle_clients;
mod levels;
mod page;
mod plain_client;
mod scrape;
mod statements;
mod targets;
mod tenants;
mod worker_counts;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::args::Args;
use crate::contenders::Contender;
use crate::entrants::{Entrant, Entrants};
use crate::load::Length;
use crate::machine::{self, Machine};
use crate::page_file;
use crate::test_bed::TestBed;
use burst::BurstRound;
use levels::LevelRow;
use page::GrowthPage;
use tenants::TenantKind;
use worker_counts::WorkersRow;

/// File descriptors for everything except idle clients.
const OTHER_FILES: u64 = 500;

/// The amounts to measure.
#[derive(Debug, Clone)]
struct GrowthSettings {
    databases: &'static [u32],
    users: &'static [u32],
    clients: Vec<u32>,
    statements: &'static [u32],
    worker_clients: &'static [u32],
    /// Delay until a pooler has settled.
    settle: Duration,
    /// Time over which idle CPU time is measured.
    idle: Duration,
    /// Length of one run of pgbench.
    length: Length,
    /// Runs of pgbench per figure …
    rounds: u32,
    /// … in the section about workers …
    worker_rounds: u32,
    /// … and of each command beside a client that queries.
    delay_rounds: u32,
    burst_clients: u32,
    burst: Duration,
    burst_rounds: u32,
}

impl GrowthSettings {
    /// A run that may open `files` files.
    fn full(files: u64) -> Self {
        let room = u32::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(u32::MAX).min(MOST_CLIENTS);
        let mut clients: Vec<u32> = [1, 1000, 10_000].into_iter().filter(|&count| count < room).collect();
        clients.push(room);
        Self {
            databases: &[1, 100, 1000, 10_000],
            users: &[1, 1000, 10_000, 33_000],
            clients,
            statements: &[1, 1000, 10_000, 100_000],
            worker_clients: &[1, 4, 16, 64, 256],
            settle: Duration::from_secs(3),
            idle: Duration::from_secs(10),
            length: Length::Seconds(1),
            rounds: 5,
            worker_rounds: 3,
            delay_rounds: 9,
            burst_clients: 1000,
            burst: Duration::from_secs(4),
            burst_rounds: 3,
        }
    }

    /// A run that only checks that everything works.
    fn quick() -> Self {
        Self {
            databases: &[1, 20, 100],
            users: &[1, 50, 150],
            clients: vec![1, 50, 200],
            statements: &[1, 50, 1000],
            worker_clients: &[1, 16],
            settle: Duration::from_millis(200),
            idle: Duration::from_secs(1),
            length: Length::Transactions(1000),
            rounds: 1,
            worker_rounds: 1,
            delay_rounds: 2,
            burst_clients: 100,
            burst: Duration::from_secs(1),
            burst_rounds: 1,
        }
    }
}

/// More idle clients than a process has local ports for would fail.
const MOST_CLIENTS: u32 = 25_000;

/// What all sections need.
struct GrowthRun<'a> {
    test_bed: &'a TestBed,
    settings: GrowthSettings,
    iambouncer: &'a Entrant,
    pgbouncer: Option<&'a Entrant>,
}

impl<'a> GrowthRun<'a> {
    /// The programs that are compared.
    fn entrants(&self) -> impl Iterator<Item = &'a Entrant> + use<'a> {
        [Some(self.iambouncer), self.pgbouncer].into_iter().flatten()
    }

    /// The sizes at which `entrant` is measured: PgBouncer only at the smallest and the largest.
    fn counts(&self, entrant: &Entrant, counts: &[u32]) -> Vec<u32> {
        if bouncer::is_iambouncer(entrant) {
            return counts.to_vec();
        }
        let ends = [counts.first(), counts.last()];
        ends.into_iter().flatten().copied().collect()
    }
}

/// The results of a section: none if it was not requested.
type Section<T> = Option<Result<Vec<T>>>;

/// All results.
#[derive(Default)]
struct GrowthResults {
    databases: Section<LevelRow>,
    users: Section<LevelRow>,
    clients: Section<LevelRow>,
    statements: Section<LevelRow>,
    workers: Section<WorkersRow>,
    burst: Section<BurstRound>,
}

impl GrowthResults {
    /// Measures the sections whose name contains `only`.
    fn measure(run: &GrowthRun<'_>, only: Option<&str>) -> Self {
        let GrowthSettings { databases, users, clients, statements, worker_clients, .. } = &run.settings;
        Self {
            databases: section("databases", only, || tenants::measure(run, TenantKind::Databases, databases)),
            users: section("users", only, || tenants::measure(run, TenantKind::Users, users)),
            clients: section("clients", only, || idle_clients::measure(run, clients)),
            statements: section("statements", only, || statements::measure(run, statements)),
            workers: section("workers", only, || worker_counts::measure(run, worker_clients)),
            burst: section("burst", only, || burst::measure(run)),
        }
    }

    /// Names of the sections that failed.
    fn failures(&self) -> Vec<&'static str> {
        let failed = |is_failed: bool, name| is_failed.then_some(name);
        let levels = [
            (&self.databases, "databases"),
            (&self.users, "users"),
            (&self.clients, "clients"),
            (&self.statements, "statements"),
        ];
        let levels = levels.into_iter().filter_map(|(one, name)| failed(has_failed(one), name));
        let others = [failed(has_failed(&self.workers), "workers"), failed(has_failed(&self.burst), "burst")];
        levels.chain(others.into_iter().flatten()).collect()
    }
}

fn has_failed<T>(section: &Section<T>) -> bool {
    matches!(section, Some(Err(_)))
}

fn section<T>(name: &str, only: Option<&str>, measure: impl FnOnce() -> Result<Vec<T>>) -> Section<T> {
    if only.is_some_and(|only| !name.contains(only)) {
        return None;
    }
    eprintln!("{name} …");
    let measured = measure();
    if let Err(error) = &measured {
        eprintln!("{name} failed: {error:#}");
    }
    Some(measured)
}

/// Measures everything and writes the page. This process may open `files` files.
///
/// # Errors
/// PostgreSQL or iambouncer does not start, or a section failed; the page is written nevertheless.
pub(crate) fn run(args: &Args, bench_dir: &Path, files: u64) -> Result<()> {
    let load_before = machine::load_average();
    let test_bed = TestBed::make()?;
    let iambouncer = Entrant::install(&test_bed, Contender::Iambouncer, &args.iambouncer()?)?;
    let programs = args.programs()?;
    let pgbouncer = programs.iter().find(|(one, path)| *one == Contender::PgBouncer && path.exists());
    let pgbouncer = pgbouncer.map(|(one, path)| Entrant::install(&test_bed, *one, path)).transpose()?;
    let entrants = Entrants([Some(iambouncer), pgbouncer].into_iter().flatten().collect());
    let settings = if args.quick { GrowthSettings::quick() } else { GrowthSettings::full(files) };
    let [iambouncer, others @ ..] = &entrants.0[..] else { bail!("no program to measure") };
    let run = GrowthRun { test_bed: &test_bed, settings, iambouncer, pgbouncer: others.first() };
    let results = GrowthResults::measure(&run, args.only.as_deref());
    let text = GrowthPage {
        machine: &Machine::collect(&test_bed, &entrants, load_before),
        command: &args.growth_command_line(),
        settings: &run.settings,
        results: &results,
    }
    .text();
    write(args, bench_dir, &text)?;
    match &results.failures()[..] {
        [] => Ok(()),
        failures => bail!("failed: {}", failures.join(", ")),
    }
}

/// Writes the page: of a full run to the file under version control, of another one next to the raw figures.
fn write(args: &Args, bench_dir: &Path, text: &str) -> Result<()> {
    let is_full = !args.quick && args.only.is_none();
    let (dir, name) =
        if is_full { (bench_dir.to_owned(), "GROWTH.md") } else { (bench_dir.join("raw"), "growth.md") };
    page_file::write(&dir, name, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_files_limits_idle_clients() {
        assert_eq!(GrowthSettings::full(20_000).clients, [1, 1000, 10_000, 19_500]);
        assert_eq!(GrowthSettings::full(5000).clients, [1, 1000, 4500]);
        assert_eq!(GrowthSettings::full(u64::MAX).clients.last(), Some(&MOST_CLIENTS));
    }

    #[test]
    fn only_requested_sections_are_measured() {
        assert!(section("users", Some("user"), || Ok(vec![1])).is_some());
        assert!(section("users", Some("client"), || Ok(vec![1])).is_none());
        assert!(has_failed(&section::<u32>("users", None, || bail!("no"))));
    }
}
