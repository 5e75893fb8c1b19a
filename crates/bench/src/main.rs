//! `make bench`: iambouncer and PgBouncer side by side, written into `bench/RESULTS.md`. `make instructions`:
//! what a query costs in our relay, against `bench/instructions.txt`.
//!
//! Owns the command line and the order of a run. It never edits a result: the page is made from the samples,
//! and only a full run replaces the one that is under version control.
#![forbid(unsafe_code)]

mod bed;
mod budget;
mod certs;
mod client;
mod cpu;
mod idle;
mod instructions;
mod load;
mod machine;
mod plan;
mod poolers;
mod process;
mod report;
mod rounds;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Parser;
use clap::builder::FalseyValueParser;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::bed::Bed;
use crate::budget::Budget;
use crate::instructions::Count;
use crate::machine::Machine;
use crate::poolers::{Binary, Side};
use crate::rounds::{Binaries, Run, Settings};

/// Where Debian puts PgBouncer; `/usr/sbin` is not on everybody's path.
const DEBIAN_PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// Compares iambouncer with PgBouncer on this machine.
#[derive(Parser)]
struct Args {
    /// Measure only rows whose name contains this, such as "simple" or "logins"
    #[arg(env = "BENCH_ONLY")]
    only: Option<String>,
    /// Rounds per row and pooler
    #[arg(long, env = "ROUNDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds per run of pgbench
    #[arg(long, env = "DURATION", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    duration: u32,
    /// One short round, to see that everything runs
    #[arg(long, env = "QUICK", value_parser = FalseyValueParser::new())]
    quick: bool,
    /// Only count instructions per query in the relay, and compare them with the budget
    #[arg(long)]
    instructions: bool,
    /// Make the instructions counted the new budget
    #[arg(long, env = "UPDATE_BUDGET", value_parser = FalseyValueParser::new())]
    update_budget: bool,
    /// The iambouncer to measure [default: the one beside this program]
    #[arg(long, env = "IAMBOUNCER")]
    iambouncer: Option<PathBuf>,
    /// The PgBouncer to compare with
    #[arg(long, env = "PGBOUNCER", default_value = DEBIAN_PGBOUNCER)]
    pgbouncer: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    raise_file_limit()?;
    if args.only_instructions() { count(&args) } else { compare(&args) }
}

/// `make instructions`.
fn count(args: &Args) -> Result<()> {
    eprintln!("starting a private PostgreSQL …");
    let bed = Bed::make_empty()?;
    let iambouncer = Binary::install(&bed, Side::Iambouncer, &args.iambouncer()?)?;
    let counts = instructions::measure(&bed, &iambouncer)?;
    let budget = budget(args, &counts)?;
    println!("{}", budget.table(&counts));
    budget.hold(&counts)
}

/// The budget, from `counts` if that was asked for.
fn budget(args: &Args, counts: &[Count]) -> Result<Budget> {
    let file = bench_dir().join("instructions.txt");
    if args.update_budget {
        Budget::write(&file, counts)?;
    }
    Budget::read(&file)
}

/// `make bench`.
fn compare(args: &Args) -> Result<()> {
    let load_before = machine::load_average();
    let bed = Bed::make()?;
    let binaries = Binaries {
        iambouncer: Binary::install(&bed, Side::Iambouncer, &args.iambouncer()?)?,
        pgbouncer: Binary::install(&bed, Side::PgBouncer, &args.pgbouncer)?,
    };

    let both_share_prepared = Side::BOTH.into_iter().all(|side| binaries.of(side).shares_prepared());
    let mut rows = plan::rows(both_share_prepared);
    if let Some(only) = &args.only {
        rows.retain(|row| row.name.contains(only.as_str()));
    }
    let Some(first) = rows.first() else { bail!("no row has this in its name: {:?}", args.only) };
    let ini = first.ini.text(Path::new("DIR"), bed.postgres_port(), 6432);

    let raw_dir = bench_dir().join("raw");
    fs::create_dir_all(&raw_dir).with_context(|| format!("creating {}", raw_dir.display()))?;
    let started_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let raw = File::create(raw_dir.join(format!("{started_s}.tsv")))?;
    let results = Run { bed: &bed, binaries: &binaries, settings: settings(args), raw }.measure(&rows)?;

    let counted = args.wants_instructions().then(|| count_beside(args, &bed, &binaries.iambouncer));
    let machine = Machine::ask(&bed, &binaries, load_before);
    let page = report::page(&machine, &command_line(args), &ini, &rows, &results, counted.as_ref());
    println!("{page}");
    let is_full = args.only.is_none() && !args.quick;
    let file = if is_full { bench_dir().join("RESULTS.md") } else { raw_dir.join("partial.md") };
    fs::write(&file, page).with_context(|| format!("writing {}", file.display()))?;
    eprintln!("written to {}", fs::canonicalize(&file)?.display());
    let failures = results.gaps.iter().filter(|gap| gap.is_failure).count();
    if failures > 0 {
        bail!("{failures} measurements failed; the page lists them");
    }
    counted.map_or(Ok(()), |counted| counted.and_then(|(counts, budget)| budget.hold(&counts)))
}

/// The counts of a run of `make bench`, and what to compare them with.
fn count_beside(args: &Args, bed: &Bed, iambouncer: &Binary) -> Result<(Vec<Count>, Budget)> {
    eprintln!("{}", instructions::NAME);
    let counts = instructions::measure(bed, iambouncer)?;
    let budget = budget(args, &counts)?;
    Ok((counts, budget))
}

fn bench_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench")
}

impl Args {
    /// The pooler to measure: the one named, or the one beside this program.
    fn iambouncer(&self) -> Result<PathBuf> {
        if let Some(path) = &self.iambouncer {
            return Ok(path.clone());
        }
        let here = std::env::current_exe().context("finding this program")?;
        Ok(here.with_file_name("iambouncer"))
    }

    /// Whether counting instructions is among the rows.
    fn wants_instructions(&self) -> bool {
        self.only.as_ref().is_none_or(|only| instructions::NAME.contains(only.as_str()))
    }

    /// Whether nothing else is, so that neither test data nor PgBouncer is needed.
    fn only_instructions(&self) -> bool {
        let is_row = |only: &String| plan::rows(true).iter().any(|row| row.name.contains(only.as_str()));
        self.instructions || self.wants_instructions() && self.only.as_ref().is_some_and(|only| !is_row(only))
    }
}

fn settings(args: &Args) -> Settings {
    if args.quick {
        let settle = Duration::from_millis(200);
        return Settings { rounds: 1, duration_s: 1, idle_clients: 100, settle, bulk_megabytes: 20 };
    }
    Settings {
        rounds: args.rounds,
        duration_s: args.duration,
        idle_clients: 1000,
        settle: Duration::from_secs(2),
        bulk_megabytes: 200,
    }
}

/// The command that makes this run again.
fn command_line(args: &Args) -> String {
    let mut command = String::from("make bench");
    if args.quick {
        command.push_str(" QUICK=1");
    } else {
        command.push_str(&format!(" ROUNDS={} DURATION={}", args.rounds, args.duration));
    }
    if let Some(only) = &args.only {
        command.push_str(&format!(" BENCH_ONLY='{only}'"));
    }
    if args.pgbouncer != Path::new(DEBIAN_PGBOUNCER) {
        command.push_str(&format!(" PGBOUNCER={}", args.pgbouncer.display()));
    }
    command
}

/// A thousand idle sessions need more files than the usual soft limit, here and in the poolers, which inherit it.
fn raise_file_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}
