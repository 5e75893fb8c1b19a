//! `make bench-failover`: how long writes stop when the writer of two hosts changes, and what becomes of the entries under
//! way. Owns the kinds of failover, the order of the runs, and the figures of a run. The entries are written and compared
//! by `iambouncer drill`.

mod cluster;
mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::args::Args;
use crate::machine::{self, Machine};
use crate::page_file;
use crate::process::{self, ChildProcess};
use crate::test_bed;
use cluster::Cluster;
use page::FailoverPage;

/// Clients that write.
const CLIENTS: u32 = 200;
/// Entries per second, of all clients together.
const RATE: u32 = 1000;
/// Runs of each kind.
const RUNS: u32 = 10;
/// How long clients write.
const SECONDS: u64 = 8;
/// The same in a short run.
const QUICK_SECONDS: u64 = 5;
/// When the writer fails, after the start.
const FAILS_AFTER: Duration = Duration::from_secs(2);
/// How long the standby is not promoted, in one of the kinds.
const LATE: Duration = Duration::from_secs(3);
/// Time limit of a drill, beyond its duration.
const DRILL_LIMIT: Duration = Duration::from_secs(180);
/// Time limit for the pooler to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How the writer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailoverKind {
    /// The primary is killed, and the standby promoted at once.
    Crash,
    /// The same, with the promotion some seconds later.
    LatePromotion,
    /// The primary is stopped (`pg_ctl stop -m fast`), then the standby promoted.
    Shutdown,
}

impl FailoverKind {
    const ALL: [Self; 3] = [Self::Crash, Self::LatePromotion, Self::Shutdown];

    const fn title(self) -> &'static str {
        match self {
            Self::Crash => "crash, promotion at once",
            Self::LatePromotion => "crash, promotion 3 s later",
            Self::Shutdown => "shutdown, promotion at once",
        }
    }
}

/// The figures of one run.
#[derive(Debug, Clone, Copy)]
struct FailoverSample {
    kind: FailoverKind,
    /// From the end of the promotion to the first commit, in ms. Negative if a client had its answer before the promotion
    /// was seen to be complete.
    to_first_commit_ms: f64,
    /// The longest time without a commit, in ms.
    without_commit_ms: f64,
    committed: f64,
    failed: f64,
    unknown: f64,
    lost: f64,
    duplicated: f64,
    wrong: f64,
}

/// Runs all failovers and writes the page.
pub(crate) fn run(args: &Args, bench_dir: &Path) -> Result<()> {
    let load_before = machine::load_average();
    let program = args.iambouncer()?;
    let runs = if args.quick { 1 } else { args.rounds.unwrap_or(RUNS) };
    let seconds = if args.quick { QUICK_SECONDS } else { SECONDS };
    let mut samples = Vec::new();
    let mut postgres = String::new();
    for round in 1..=runs {
        for kind in FailoverKind::ALL {
            let cluster = Cluster::start()?;
            let sample = fail_over(&program, cluster, kind, seconds, &mut postgres)?;
            eprintln!(
                "run {round}, {}: first commit {:.0} ms after the promotion, {:.0} ms without one",
                kind.title(),
                sample.to_first_commit_ms,
                sample.without_commit_ms
            );
            samples.push(sample);
        }
    }
    let version = process::read_output(&program, &["--version"]).unwrap_or_default();
    let versions =
        [("iambouncer", version.lines().next().unwrap_or_default().to_owned()), ("PostgreSQL", postgres)];
    let machine = Machine::here(load_before, versions.into_iter());
    let command = args.failover_command_line();
    let text = FailoverPage { machine: &machine, command: &command, samples: &samples, runs, seconds }.text();
    let dir = if args.quick { bench_dir.join("raw") } else { bench_dir.to_owned() };
    page_file::write(&dir, if args.quick { "failover.md" } else { "FAILOVER.md" }, &text)
}

/// One failover: the pooler and the clients are started, then the writer changes.
fn fail_over(
    program: &Path,
    mut cluster: Cluster,
    kind: FailoverKind,
    seconds: u64,
    postgres: &mut String,
) -> Result<FailoverSample> {
    postgres.clone_from(&cluster.version()?);
    let port = test_bed::free_port()?;
    let pooler = start_pooler(program, &cluster, port)?;
    let drill = start_drill(program, &cluster, port, seconds).with_context(|| pooler.output_tail())?;
    std::thread::sleep(FAILS_AFTER);
    match kind {
        FailoverKind::Crash => cluster.crash(),
        FailoverKind::LatePromotion => {
            cluster.crash();
            std::thread::sleep(LATE);
        }
        FailoverKind::Shutdown => cluster.shut_down()?,
    }
    let promoted_at = cluster.promote()?;
    let report = drill.finish(DRILL_LIMIT + Duration::from_secs(seconds));
    let output =
        report.with_context(|| format!("the drill has failed; the pooler: {}", pooler.output_tail()))?;
    pooler.end(rustix::process::Signal::QUIT, END_LIMIT)?;
    let figures: Value = serde_json::from_str(&output).context("the report of the drill")?;
    let figure =
        |name: &str| figures[name].as_f64().with_context(|| format!("the report of the drill has no {name}"));
    let (from, until) = (figure("gap_from_us")?, figure("gap_until_us")?);
    Ok(FailoverSample {
        kind,
        to_first_commit_ms: (until - unix_us(promoted_at)) / 1000.0,
        without_commit_ms: (until - from) / 1000.0,
        committed: figure("committed")?,
        failed: figure("failed")?,
        unknown: figure("unknown")?,
        lost: figure("lost")?,
        duplicated: figure("duplicated")?,
        wrong: figure("wrong")?,
    })
}

fn unix_us(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e6)
}

/// The pooler has its default settings but for what is needed to reach it.
fn start_pooler(program: &Path, cluster: &Cluster, port: u16) -> Result<ChildProcess> {
    let ini = cluster.dir().join("failover.ini");
    let text = format!(
        "[databases]\n{}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = any\npool_mode = transaction\nmax_client_conn = 1000\n",
        cluster.line()
    );
    fs::write(&ini, text).context("writing the configuration")?;
    let mut command = process::command(program);
    command.arg(&ini);
    ChildProcess::start(command, "iambouncer", file(cluster, "pooler.log"), cluster.account()?)
}

fn start_drill(program: &Path, cluster: &Cluster, port: u16, seconds: u64) -> Result<ChildProcess> {
    let waiting = std::time::Instant::now();
    // The port is open when the pooler is ready.
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        anyhow::ensure!(waiting.elapsed() < END_LIMIT, "the pooler does not accept connections");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut command = process::command(program);
    command.args([
        "drill",
        "--json",
        "--sslmode",
        "disable",
        "--user",
        cluster::USER,
        "--database",
        cluster::DATABASE,
    ]);
    command.args([
        "--clients",
        &CLIENTS.to_string(),
        "--rate",
        &RATE.to_string(),
        "--seconds",
        &seconds.to_string(),
    ]);
    command.arg(format!("127.0.0.1:{port}"));
    ChildProcess::start(command, "iambouncer drill", file(cluster, "drill.json"), None)
}

fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.dir().join(name)
}
