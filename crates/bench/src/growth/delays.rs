//! How long commands take, how long they keep a worker from its clients, and how long they delay the queries of another
//! client. Owns the client that queries all the time and the comparison with periods without a command; never judges.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::bouncer::GrowthBouncer;
use super::plain_client::PlainClient;
use super::scrape;
use crate::summary::Summary;

/// Time after a command in which its effect may last.
const TAIL: Duration = Duration::from_millis(20);
/// Time between two periods, which belongs to neither.
const PAUSE: Duration = Duration::from_millis(50);
/// The column of SHOW WORKERS with the longest turn since the previous SHOW WORKERS.
const LONGEST_TURN_US: usize = 7;
/// The query of the other client.
const QUERY: &str = "SELECT 1";

/// A command that an operator or a monitoring system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DelayAction {
    /// SHOW POOLS.
    ShowPools,
    /// SHOW CLIENTS.
    ShowClients,
    /// GET /metrics.
    Scrape,
    /// RELOAD.
    Reload,
}

impl DelayAction {
    /// Its name on the page.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::ShowPools => "SHOW POOLS",
            Self::ShowClients => "SHOW CLIENTS",
            Self::Scrape => "scrape",
            Self::Reload => "RELOAD",
        }
    }

    fn run(self, bouncer: &GrowthBouncer, console: &mut PlainClient) -> Result<()> {
        if self != Self::Scrape {
            return console.query(self.title()).map(drop);
        }
        scrape::scrape(bouncer.http_port.context("no port of metrics")?).map(drop)
    }
}

/// The figures of one command.
#[derive(Debug, Clone)]
pub(super) struct QueryDelay {
    /// The command.
    pub(super) action: DelayAction,
    /// Its duration, in ms.
    pub(super) time_ms: Option<Summary>,
    /// The CPU time of the longest turn of a worker during it, in ms; `None` if the pooler does not report it.
    pub(super) turn_ms: Option<Summary>,
    /// The longest query of another client during it, in ms.
    pub(super) during_ms: Option<Summary>,
    /// The longest query in an equally long period without it, in ms.
    pub(super) without_ms: Option<Summary>,
}

impl QueryDelay {
    /// How much longer the longest query takes, as the difference of the medians.
    pub(super) fn added_ms(&self) -> Option<f64> {
        Some(self.during_ms?.median - self.without_ms?.median)
    }
}

/// A period in which queries are examined.
#[derive(Debug, Clone, Copy)]
struct QueryPeriod {
    began: Instant,
    ended: Instant,
}

/// One run of a command.
struct DelayRound {
    took: Duration,
    turn_ms: Option<f64>,
    during: QueryPeriod,
    without: QueryPeriod,
}

/// Runs each of `actions` that the pooler has, `rounds` times each, while another client queries.
pub(super) fn measure(
    bouncer: &GrowthBouncer,
    actions: &[DelayAction],
    rounds: u32,
) -> Result<Vec<QueryDelay>> {
    let has = |action: &&DelayAction| **action != DelayAction::Scrape || bouncer.http_port.is_some();
    let actions: Vec<_> = actions.iter().filter(has).copied().collect();
    let mut client = bouncer.client()?;
    let mut console = bouncer.console()?;
    let stops = AtomicBool::new(false);
    let (measured, queries) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&mut client, &stops));
        let measured = actions
            .iter()
            .map(|&action| Ok((action, run_rounds(bouncer, &mut console, action, rounds)?)))
            .collect::<Result<Vec<_>>>();
        stops.store(true, Ordering::Relaxed);
        (measured, watcher.join())
    });
    let queries = queries.map_err(|_| anyhow!("the client that queries has panicked"))??;
    Ok(measured?.into_iter().map(|(action, rounds)| summarize(action, &rounds, &queries)).collect())
}

fn run_rounds(
    bouncer: &GrowthBouncer,
    console: &mut PlainClient,
    action: DelayAction,
    rounds: u32,
) -> Result<Vec<DelayRound>> {
    // The first run may have one-time costs, such as the first answer of that size.
    action.run(bouncer, console).with_context(|| format!("{}: {}", bouncer.name, action.title()))?;
    let mut done = Vec::new();
    for _ in 0..rounds {
        thread::sleep(PAUSE);
        longest_turn_ms(bouncer, console)?;
        let began = Instant::now();
        action.run(bouncer, console)?;
        let took = began.elapsed();
        thread::sleep(TAIL);
        let turn_ms = longest_turn_ms(bouncer, console)?;
        let during = QueryPeriod { began, ended: Instant::now() };
        thread::sleep(PAUSE);
        let began = Instant::now();
        thread::sleep(during.ended - during.began);
        done.push(DelayRound {
            took,
            turn_ms,
            during,
            without: QueryPeriod { began, ended: Instant::now() },
        });
    }
    Ok(done)
}

/// The longest turn of all workers since the previous call. PgBouncer does not report it.
fn longest_turn_ms(bouncer: &GrowthBouncer, console: &mut PlainClient) -> Result<Option<f64>> {
    if bouncer.http_port.is_none() {
        return Ok(None);
    }
    let rows = console.rows("SHOW WORKERS")?;
    let turns = rows.iter().filter_map(|row| row.get(LONGEST_TURN_US)?.parse::<f64>().ok());
    Ok(turns.map(|us| us / 1000.0).max_by(f64::total_cmp))
}

/// Queries until `stops`; returns when each query began and ended.
fn watch(client: &mut PlainClient, stops: &AtomicBool) -> Result<Vec<QueryPeriod>> {
    let mut queries = Vec::new();
    while !stops.load(Ordering::Relaxed) {
        let began = Instant::now();
        client.query(QUERY)?;
        queries.push(QueryPeriod { began, ended: Instant::now() });
    }
    Ok(queries)
}

fn summarize(action: DelayAction, rounds: &[DelayRound], queries: &[QueryPeriod]) -> QueryDelay {
    let longest = |period: fn(&DelayRound) -> QueryPeriod| {
        Summary::of(rounds.iter().filter_map(|round| longest_ms(queries, period(round))).collect())
    };
    QueryDelay {
        action,
        time_ms: Summary::of(rounds.iter().map(|round| ms(round.took)).collect()),
        turn_ms: Summary::of(rounds.iter().filter_map(|round| round.turn_ms).collect()),
        during_ms: longest(|round| round.during),
        without_ms: longest(|round| round.without),
    }
}

/// The longest of the queries that overlap with `period`.
fn longest_ms(queries: &[QueryPeriod], period: QueryPeriod) -> Option<f64> {
    let overlapping = queries.iter().filter(|one| one.began < period.ended && one.ended > period.began);
    overlapping.map(|one| ms(one.ended - one.began)).max_by(f64::total_cmp)
}

/// A duration as the page shows it.
pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(from: Instant, began_ms: u64, ended_ms: u64) -> QueryPeriod {
        let at = |ms| from + Duration::from_millis(ms);
        QueryPeriod { began: at(began_ms), ended: at(ended_ms) }
    }

    #[test]
    fn a_query_counts_if_it_overlaps_with_the_period() {
        let from = Instant::now();
        let queries = [period(from, 0, 9), period(from, 9, 12), period(from, 12, 13), period(from, 30, 50)];
        assert_eq!(longest_ms(&queries, period(from, 10, 20)), Some(3.0));
        assert_eq!(longest_ms(&queries, period(from, 8, 20)), Some(9.0));
        assert_eq!(longest_ms(&queries, period(from, 14, 20)), None);
    }

    #[test]
    fn the_delay_is_the_difference_to_a_period_without_the_command() {
        let from = Instant::now();
        let queries = [period(from, 0, 5), period(from, 5, 6), period(from, 40, 42)];
        let round = DelayRound {
            took: Duration::from_millis(4),
            turn_ms: Some(0.5),
            during: period(from, 1, 10),
            without: period(from, 40, 49),
        };
        let delay = summarize(DelayAction::Reload, &[round], &queries);
        assert_eq!(delay.time_ms.map(|time| time.median), Some(4.0));
        assert_eq!(delay.added_ms(), Some(3.0));
    }
}
