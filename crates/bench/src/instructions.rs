//! Counts the instructions that the relay executes per query, in user space, with Valgrind's callgrind. Owns
//! the runs and the arithmetic; never reads the budget, and never measures time, which Valgrind distorts.
//!
//! Collection is active only while [`RELAY`] runs, so waiting, timers and logins do not count. The one-time
//! cost of a session (its first buffers, its first server) is the same in a short and in a long run, and
//! cancels out in their difference.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{sleep, timeout};

use crate::client::{BenchTarget, Client};
use crate::contenders::Contender;
use crate::entrants::Entrant;
use crate::formats::Ini;
use crate::plan;
use crate::poolers::Pooler;
use crate::process;
use crate::test_bed::{DATABASE, TestBed, USER};

/// The contender that is counted: with epoll, whose system calls are supported by Valgrind and every kernel.
pub(crate) const CONTENDER: Contender = Contender::Epoll;
/// Name in the report and for the filter.
pub(crate) const NAME: &str = "instructions per query in the relay";
/// The function during which callgrind collects, including all its callees. It must remain a separate
/// function in the release build: if it is inlined, nothing is collected, which is an error below.
const RELAY: &str = "*relay::session::Session::turn";
/// Queries of the short run.
const SHORT_QUERIES: u64 = 200;
/// Queries of the long run.
const LONG_QUERIES: u64 = 1200;
/// Time limit for the queries of one run, in case a pooler hangs.
const QUERIES_LIMIT: Duration = Duration::from_secs(120);
/// Time limit for a pooler to exit, including callgrind's output.
const END_LIMIT: Duration = Duration::from_secs(60);
/// The query that is run. Its answer arrives after the turn that has sent the request: a fast answer sometimes arrives
/// during that turn and saves the next one, depending on other load of the machine.
const SQL: &str = "SELECT 1 FROM pg_sleep(0.002)";
/// Time between an answer and the next request, so that it does not arrive during the turn that has sent the answer
/// either.
const PAUSE: Duration = Duration::from_millis(2);

/// How a query is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryKind {
    /// A Query message per query.
    Simple,
    /// Parse once; then Bind, Execute and Sync per query.
    Prepared,
}

impl QueryKind {
    /// All kinds, in the order of the report.
    pub(crate) const ALL: [Self; 2] = [Self::Simple, Self::Prepared];

    /// Name in the budget and in the report.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Prepared => "prepared",
        }
    }
}

/// Cost of one kind of query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// How the query was sent.
    pub(crate) kind: QueryKind,
    /// Instructions of the relay per query.
    pub(crate) per_query: u64,
}

/// Counts all kinds.
///
/// # Errors
/// Valgrind is missing, the pooler failed, or callgrind collected nothing from the relay.
pub(crate) fn measure(test_bed: &TestBed, iambouncer: &Entrant) -> Result<Vec<Count>> {
    process::read_output(Path::new("valgrind"), &["--version"])
        .context("Valgrind is missing: `tools/setup bench` installs it")?;
    QueryKind::ALL.into_iter().map(|kind| count(test_bed, iambouncer, kind)).collect()
}

fn count(test_bed: &TestBed, iambouncer: &Entrant, kind: QueryKind) -> Result<Count> {
    let short = run(test_bed, iambouncer, kind, SHORT_QUERIES)?;
    let long = run(test_bed, iambouncer, kind, LONG_QUERIES)?;
    let Some(difference) = long.checked_sub(short) else {
        bail!("{}: {LONG_QUERIES} queries took fewer instructions than {SHORT_QUERIES}", kind.key());
    };
    let per_query = difference / (LONG_QUERIES - SHORT_QUERIES);
    eprintln!("  {NAME}, {}: {per_query}", kind.key());
    Ok(Count { kind, per_query })
}

/// Runs one pooler with `queries` over one connection; returns the number of instructions collected.
fn run(test_bed: &TestBed, iambouncer: &Entrant, kind: QueryKind, queries: u64) -> Result<u64> {
    let file = test_bed.dir().join(format!("callgrind.{}.{queries}", kind.key()));
    let valgrind = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        // Settings of the user must not change what is measured.
        "--command-line-only=yes".to_owned(),
        "--vgdb=no".to_owned(),
        format!("--toggle-collect={RELAY}"),
        format!("--callgrind-out-file={}", file.display()),
    ];
    // Under Valgrind, a login saturates a worker. Another one joins, and the client may move, which costs a second server.
    let settings = Ini { workers: Some(1), ..plan::base(true) };
    let pooler = Pooler::start_under(test_bed, iambouncer, settings, &valgrind).context("under Valgrind")?;
    run_queries(pooler.port, kind, queries)?;
    pooler.end(END_LIMIT)?;
    let profile =
        fs::read_to_string(&file).with_context(|| format!("callgrind did not write {}", file.display()))?;
    collected(&profile)
}

fn run_queries(port: u16, kind: QueryKind, queries: u64) -> Result<()> {
    let target = BenchTarget { port, user: USER, database: DATABASE, tls: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all = async {
        let mut client = Client::login(&target).await?;
        if kind == QueryKind::Prepared {
            client.prepare(SQL).await?;
        }
        for _ in 0..queries {
            match kind {
                QueryKind::Simple => client.query(SQL).await?,
                QueryKind::Prepared => client.execute_prepared().await?,
            };
            sleep(PAUSE).await;
        }
        anyhow::Ok(())
    };
    runtime.block_on(async { timeout(QUERIES_LIMIT, all).await.context("the queries take too long")? })
}

/// The total of a profile.
fn collected(profile: &str) -> Result<u64> {
    let field = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("events:") != Some("Ir") {
        bail!("callgrind did not count instructions");
    }
    let total = field("totals:").context("callgrind's file has no totals")?.parse()?;
    if total == 0 {
        bail!("callgrind recorded no call of {RELAY}: was it renamed or inlined?");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_parsed() {
        assert_eq!(collected("events: Ir\nfn=(1) main\n1 5\n\ntotals: 1234\n").unwrap(), 1234);
    }

    #[test]
    fn an_empty_or_other_profile_is_an_error() {
        for profile in ["", "events: Ir\n", "events: Ir\ntotals: 0\n", "events: Ir Dr\ntotals: 5 2\n"] {
            assert!(collected(profile).is_err(), "{profile}");
        }
    }
}
