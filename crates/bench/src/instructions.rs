//! Counts the instructions that the relay spends on one query, in user space, with Valgrind's callgrind. Owns
//! the runs and the arithmetic; it knows nothing of the budget, and never measures time: that would be
//! Valgrind's.
//!
//! Collecting is on only while [`RELAY`] runs, so waiting, timers and logins do not count. What a session
//! costs once – its first buffers, its first server – is the same in a short and in a long run, and goes away
//! in their difference.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

use crate::bed::{Bed, DATABASE, USER};
use crate::client::{BenchTarget, Client};
use crate::contenders::Contender;
use crate::entrants::Entrant;
use crate::plan;
use crate::poolers::Pooler;
use crate::process;

/// Whose relay is counted: with epoll, whose system calls Valgrind and every kernel know.
pub(crate) const CONTENDER: Contender = Contender::Epoll;
/// What the report and the filter call this.
pub(crate) const NAME: &str = "instructions per query in the relay";
/// The function during which callgrind collects, with all it calls. It has to be a function of its own in the
/// release build: a compiler that inlines it leaves nothing to collect, which is an error below.
const RELAY: &str = "*relay::session::Session::turn";
/// Queries of the short run.
const SHORT_QUERIES: u64 = 200;
/// Queries of the long run.
const LONG_QUERIES: u64 = 1200;
/// How long one run's queries may take: a pooler that hangs must not hang us.
const QUERIES_LIMIT: Duration = Duration::from_secs(120);
/// How long a pooler may take to end, callgrind's writing included.
const END_LIMIT: Duration = Duration::from_secs(60);
/// What all queries ask for.
const SQL: &str = "SELECT 1";

/// How a query is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryKind {
    /// A Query message each.
    Simple,
    /// Parse once; then Bind, Execute and Sync each.
    Prepared,
}

impl QueryKind {
    /// All, in the order of the report.
    pub(crate) const ALL: [Self; 2] = [Self::Simple, Self::Prepared];

    /// Word in the budget and in the report.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Prepared => "prepared",
        }
    }
}

/// What one kind of query costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// How it was sent.
    pub(crate) kind: QueryKind,
    /// Instructions of the relay for each.
    pub(crate) per_query: u64,
}

/// Counts all kinds.
///
/// # Errors
/// Valgrind is missing, the pooler failed, or callgrind has seen nothing of the relay.
pub(crate) fn measure(bed: &Bed, iambouncer: &Entrant) -> Result<Vec<Count>> {
    process::ask(Path::new("valgrind"), &["--version"])
        .context("Valgrind is missing: `tools/setup bench` installs it")?;
    QueryKind::ALL.into_iter().map(|kind| count(bed, iambouncer, kind)).collect()
}

fn count(bed: &Bed, iambouncer: &Entrant, kind: QueryKind) -> Result<Count> {
    let short = run(bed, iambouncer, kind, SHORT_QUERIES)?;
    let long = run(bed, iambouncer, kind, LONG_QUERIES)?;
    let Some(difference) = long.checked_sub(short) else {
        bail!("{}: {LONG_QUERIES} queries took fewer instructions than {SHORT_QUERIES}", kind.key());
    };
    let per_query = difference / (LONG_QUERIES - SHORT_QUERIES);
    eprintln!("  {NAME}, {}: {per_query}", kind.key());
    Ok(Count { kind, per_query })
}

/// One pooler from start to end, with `queries` over one connection; hands back all that was collected.
fn run(bed: &Bed, iambouncer: &Entrant, kind: QueryKind, queries: u64) -> Result<u64> {
    let file = bed.dir().join(format!("callgrind.{}.{queries}", kind.key()));
    let valgrind = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        // BenchSettings of the person who runs this must not change what it measures.
        "--command-line-only=yes".to_owned(),
        "--vgdb=no".to_owned(),
        format!("--toggle-collect={RELAY}"),
        format!("--callgrind-out-file={}", file.display()),
    ];
    let pooler =
        Pooler::start_under(bed, iambouncer, plan::base(true), &valgrind).context("under Valgrind")?;
    ask(pooler.port, kind, queries)?;
    pooler.end(END_LIMIT)?;
    let profile =
        fs::read_to_string(&file).with_context(|| format!("callgrind has not written {}", file.display()))?;
    collected(&profile)
}

fn ask(port: u16, kind: QueryKind, queries: u64) -> Result<()> {
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
        }
        anyhow::Ok(())
    };
    runtime.block_on(async { timeout(QUERIES_LIMIT, all).await.context("the queries take too long")? })
}

/// The instructions of a whole profile.
fn collected(profile: &str) -> Result<u64> {
    let field = |name: &str| profile.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("events:") != Some("Ir") {
        bail!("callgrind has counted something else than instructions");
    }
    let total = field("totals:").context("callgrind's file has no totals")?.parse()?;
    if total == 0 {
        bail!("callgrind has seen no call of {RELAY}: was it renamed or inlined?");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        assert_eq!(collected("events: Ir\nfn=(1) main\n1 5\n\ntotals: 1234\n").unwrap(), 1234);
    }

    #[test]
    fn an_empty_or_foreign_profile_is_no_count() {
        for profile in ["", "events: Ir\n", "events: Ir\ntotals: 0\n", "events: Ir Dr\ntotals: 5 2\n"] {
            assert!(collected(profile).is_err(), "{profile}");
        }
    }
}
