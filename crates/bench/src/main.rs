//! `make bench`: compares iambouncer, PgBouncer and others, and writes `bench/RESULTS.md`.
//! `make instructions`: counts the instructions per query in the relay and compares them with
//! `bench/instructions.txt`.
//! `make bench-tokens`: compares the cost of a token with signers in other languages; see `tokens`.
//! `make bench-growth`: how cost grows with databases, users, clients, statements and workers; see `growth`.
//! `make bench-failover`: what clients experience when the writer of a line changes; see `failover`.
//!
//! Owns the sequence of a run. Never edits a result: the page is generated from the samples, and only a full
//! run replaces the files under version control.
#![forbid(unsafe_code)]

mod args;
mod budget;
mod bulk;
mod certs;
mod client;
mod contenders;
mod cpu;
mod entrants;
mod failover;
mod formats;
mod goals;
mod growth;
mod idle;
mod instructions;
mod latency;
mod load;
mod machine;
mod measure;
mod metrics;
mod page_file;
mod plan;
mod plot;
mod poolers;
mod process;
mod report;
mod rounds;
mod scram;
mod scram_logins;
mod scram_session;
mod storm;
mod storm_clients;
mod storm_phases;
mod summary;
mod test_bed;
mod tokens;
mod transfer;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::args::Args;
use crate::budget::Budget;
use crate::entrants::{Entrant, Entrants};
use crate::formats::Site;
use crate::instructions::Count;
use crate::machine::Machine;
use crate::plan::{BenchSettings, PlanRow};
use crate::report::ResultsPage;
use crate::rounds::BenchRun;
use crate::summary::Results;
use crate::test_bed::TestBed;

/// File descriptors for everything except idle clients, here and in a pooler.
const OTHER_FILES: u64 = 200;

fn main() -> Result<()> {
    let args = Args::parse();
    if args.tokens {
        return tokens::run(&args, &bench_dir());
    }
    if args.failover {
        return failover::run(&args, &bench_dir());
    }
    let files = raise_file_limit()?;
    if args.growth {
        return growth::run(&args, &bench_dir(), files);
    }
    if args.only_instructions() { count(&args) } else { compare(&args, files) }
}

/// `make instructions`.
fn count(args: &Args) -> Result<()> {
    eprintln!("starting a private PostgreSQL …");
    let test_bed = TestBed::make_empty()?;
    let iambouncer = Entrant::install(&test_bed, instructions::CONTENDER, &args.iambouncer()?)?;
    let counts = instructions::measure(&test_bed, &iambouncer)?;
    let budget = budget(args, &counts)?;
    println!("{}", budget.table(&counts));
    budget.check(&counts)
}

/// The budget; replaced by `counts` first if that was requested.
fn budget(args: &Args, counts: &[Count]) -> Result<Budget> {
    let file = bench_dir().join("instructions.txt");
    if args.update_budget {
        Budget::write(&file, counts)?;
    }
    Budget::read(&file)
}

/// `make bench`.
fn compare(args: &Args, files: u64) -> Result<()> {
    let load_before = machine::load_average();
    let settings = limit_clients(files, args.settings());
    let test_bed = TestBed::make()?;
    let entrants = Entrants::install(&test_bed, &args.programs()?)?;
    let mut rows = plan::rows(entrants.all_share_prepared(), &settings);
    if let Some(only) = &args.only {
        rows.retain(|row| row.name.contains(only.as_str()));
    }
    if rows.is_empty() {
        bail!("no row name contains {:?}", args.only);
    }
    let raw_dir = bench_dir().join("raw");
    fs::create_dir_all(&raw_dir).with_context(|| format!("creating {}", raw_dir.display()))?;
    let started_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let raw = File::create(raw_dir.join(format!("{started_s}.tsv")))?;
    let results = BenchRun { test_bed: &test_bed, entrants: &entrants, settings, raw }.measure(&rows)?;

    let counted = args.wants_instructions().then(|| count_and_read_budget(args, &test_bed, &entrants));
    let machine = Machine::collect(&test_bed, &entrants, load_before);
    write(args, &test_bed, &rows, &results, &machine, counted.as_ref())?;
    if results.failures() > 0 {
        bail!("{} measurements failed; the page lists them", results.failures());
    }
    counted.map_or(Ok(()), |counted| counted.and_then(|(counts, budget)| budget.check(&counts)))
}

/// Counts instructions as part of `make bench`, and reads the budget.
fn count_and_read_budget(
    args: &Args,
    test_bed: &TestBed,
    entrants: &Entrants,
) -> Result<(Vec<Count>, Budget)> {
    eprintln!("{}", instructions::NAME);
    let is_counted = |entrant: &&Entrant| entrant.contender == instructions::CONTENDER;
    let entrant = entrants.0.iter().find(is_counted).context("the contender to count does not take part")?;
    let counts = instructions::measure(test_bed, entrant)?;
    let budget = budget(args, &counts)?;
    Ok((counts, budget))
}

/// Writes page and plot: of a full run to the files under version control, of another one next to the raw
/// figures.
fn write(
    args: &Args,
    test_bed: &TestBed,
    rows: &[PlanRow],
    results: &Results,
    machine: &Machine,
    counted: Option<&Result<(Vec<Count>, Budget)>>,
) -> Result<()> {
    let is_full = args.only.is_none() && !args.quick;
    let (dir, page, plot) = if is_full {
        (bench_dir(), "RESULTS.md", "plot.svg")
    } else {
        (bench_dir().join("raw"), "partial.md", "partial.svg")
    };
    let has_plot = plot::draw(&dir.join(plot), rows, results)?;
    let site = Site { dir: Path::new("DIR"), postgres_port: test_bed.postgres_port(), listen_port: 6432 };
    let text = ResultsPage {
        machine,
        command: &args.command_line(),
        ini: &rows.first().map(|row| row.ini.text(&site, None)).unwrap_or_default(),
        rows,
        results,
        counted,
        plot: has_plot.then_some(plot),
    }
    .text();
    page_file::write(&dir, page, &text)
}

fn bench_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench")
}

/// Reduces the numbers of idle clients and of clients in a login storm if the limit of open `files` is too low.
fn limit_clients(files: u64, settings: BenchSettings) -> BenchSettings {
    let room = u32::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(u32::MAX);
    let limit = |clients: u32, kind: &str| {
        if room < clients {
            eprintln!("limit of {files} open files: {room} {kind} instead of {clients}");
        }
        clients.min(room)
    };
    let idle_clients = limit(settings.idle_clients, "idle clients");
    let storm_clients = limit(settings.storm_clients, "clients in a login storm");
    BenchSettings { idle_clients, storm_clients, ..settings }
}

/// Raises the limit of open files and returns it: ten thousand idle sessions need more than the usual soft
/// limit, here and in the poolers, which inherit it.
fn raise_file_limit() -> Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")?;
    Ok(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}
