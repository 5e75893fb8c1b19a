//! The values of the metrics of pgbouncer_exporter. Owns the sums over all workers and the limits on the number of series;
//! names are in the table.

use super::cardinality::Cardinality;
use super::pgbouncer_part::{ClientGroup, ConfigFigures, DatabaseFigures, PgbouncerPart, collect};
use super::shared_rounds::SharedRounds;
use super::worker_answers::{PartRequest, WorkerAnswers};
use crate::admin::{CONSOLE_MODE, CONSOLE_POOL_SIZE, Console};
use crate::config::CONSOLE_DATABASE;
use crate::process::Process;
use crate::stats::Totals;
use crate::stats::snapshot::{MAX_NAMED_POOLS, OTHER, PoolCounts, PoolName, Snapshot};
use crate::worker::workers::Workers;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Maximum number of series of clients. Clients choose their application names, so the rest is summed.
pub(super) const MAX_CLIENT_SERIES: usize = 500;

/// One scrape.
pub(super) struct PgbouncerFigures {
    pub(super) pools: Vec<(PoolName, PoolCounts)>,
    /// Counters by database.
    pub(super) totals: Vec<(String, Totals)>,
    pub(super) databases: Vec<DatabaseFigures>,
    pub(super) clients: Vec<(ClientGroup, u64)>,
    pub(super) config: ConfigFigures,
    pub(super) database_count: usize,
    pub(super) pool_count: usize,
    pub(super) used_clients: usize,
    pub(super) login_clients: usize,
    pub(super) used_servers: usize,
    pub(super) dns_names: usize,
    pub(super) dns_queries: usize,
}

#[derive(Default)]
struct PgbouncerScrapeState {
    workers: WorkerAnswers<PgbouncerPart>,
    pools: Cardinality,
    databases: Cardinality,
}

/// Produces the values of scrapes.
pub(super) struct PgbouncerScraper {
    request: PartRequest<PgbouncerPart>,
    process: Arc<Process>,
    rounds: SharedRounds<PgbouncerScrapeState, PgbouncerFigures>,
}

impl PgbouncerScraper {
    /// A scraper of these workers.
    pub(super) fn new(consoles: Workers<Console>, process: Arc<Process>) -> Self {
        let request = move |worker| consoles.question(worker, |console| collect(console.clone())).ok();
        Self { request: Box::new(request), process, rounds: Default::default() }
    }

    /// Values no older than this call; concurrent callers share them.
    pub(super) async fn scrape(&self) -> Arc<PgbouncerFigures> {
        self.rounds.result(async |state| self.round(state).await).await
    }

    async fn round(&self, state: &mut PgbouncerScrapeState) -> PgbouncerFigures {
        state.workers.collect(self.process.health.workers(), &self.request).await;
        figures(state, self.process.host_names.counts())
    }
}

fn figures(state: &mut PgbouncerScrapeState, (dns_names, dns_queries): (usize, usize)) -> PgbouncerFigures {
    let parts = || state.workers.parts().map(|(_, part)| part);
    let all = Snapshot::sum(parts().map(|part| &part.snapshot));
    let config = parts().next().map(|part| part.config).unwrap_or_default();
    let clients = bound_clients(parts().flat_map(|part| &part.clients), MAX_CLIENT_SERIES);
    let lines: BTreeMap<String, DatabaseFigures> = parts()
        .flat_map(|part| &part.databases)
        .map(|database| (database.name.clone(), database.clone()))
        .collect();
    // The console is one of them.
    let (database_count, pool_count) = (all.databases.len() + 1, all.pools.len() + 1);
    let used_servers = all.pools.values().map(PoolCounts::servers).sum();
    let counters = all.databases.iter().map(|(name, counts)| {
        let counts = PoolCounts { totals: counts.begun(), ..PoolCounts::of_console(0, CONSOLE_MODE) };
        ((name.clone(), String::new()), counts)
    });
    let mut totals: Vec<(String, Totals)> = state
        .databases
        .bound(counters.collect(), MAX_NAMED_POOLS)
        .into_iter()
        .map(|((database, _), counts)| (database, counts.totals))
        .collect();
    let databases = bound_databases(lines, &totals, console_line(&config));
    totals.push((CONSOLE_DATABASE.to_owned(), all.console.begun()));
    let mut pools = state.pools.bound(all.pools, MAX_NAMED_POOLS);
    let of_console = PoolCounts::of_console(all.on_console, CONSOLE_MODE);
    pools.push(((CONSOLE_DATABASE.to_owned(), CONSOLE_DATABASE.to_owned()), of_console));
    PgbouncerFigures {
        pools,
        totals,
        databases,
        clients,
        config,
        database_count,
        pool_count,
        used_clients: all.clients - all.logging_in,
        login_clients: all.logging_in,
        used_servers,
        dns_names,
        dns_queries,
    }
}

/// The groups with the most clients; the rest is one for each state.
fn bound_clients<'a>(
    groups: impl Iterator<Item = &'a (ClientGroup, u64)>,
    most: usize,
) -> Vec<(ClientGroup, u64)> {
    let mut sums: BTreeMap<&ClientGroup, u64> = BTreeMap::new();
    for (group, count) in groups {
        *sums.entry(group).or_default() += count;
    }
    let mut sorted: Vec<(&ClientGroup, u64)> = sums.into_iter().collect();
    // Groups with as many clients stay in order of their names.
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest = sorted.split_off(most.min(sorted.len()));
    let mut bound: BTreeMap<ClientGroup, u64> =
        sorted.into_iter().map(|(group, count)| (group.clone(), count)).collect();
    for (group, count) in rest {
        let other = || OTHER.to_owned();
        let other =
            ClientGroup { database: other(), user: other(), application_name: other(), state: group.state };
        *bound.entry(other).or_default() += count;
    }
    bound.into_iter().collect()
}

/// The databases that have counters of their own, the sum of the others, and the console.
fn bound_databases(
    lines: BTreeMap<String, DatabaseFigures>,
    named: &[(String, Totals)],
    console: DatabaseFigures,
) -> Vec<DatabaseFigures> {
    let mut rows = Vec::new();
    let mut other: Option<DatabaseFigures> = None;
    for (name, line) in lines {
        if name != OTHER && named.iter().any(|(known, _)| *known == name) {
            rows.push(line);
            continue;
        }
        match &mut other {
            Some(sum) => {
                sum.pool_size += line.pool_size;
                sum.reserve_pool += line.reserve_pool;
                sum.max_connections += line.max_connections;
                sum.current_connections += line.current_connections;
                sum.paused += line.paused;
                sum.disabled += line.disabled;
            }
            None => {
                let [host, port, database, force_user] = Default::default();
                let name = OTHER.to_owned();
                other =
                    Some(DatabaseFigures { name, host, port, database, force_user, pool_mode: None, ..line });
            }
        }
    }
    rows.extend(other);
    rows.push(console);
    rows
}

/// The row of the console in SHOW DATABASES.
fn console_line(config: &ConfigFigures) -> DatabaseFigures {
    let name = || CONSOLE_DATABASE.to_owned();
    DatabaseFigures {
        name: name(),
        host: String::new(),
        port: config.listen_port.to_string(),
        database: name(),
        force_user: name(),
        pool_mode: Some(CONSOLE_MODE),
        pool_size: CONSOLE_POOL_SIZE.into(),
        reserve_pool: config.reserve_pool_size.into(),
        max_connections: config.max_db_connections.into(),
        current_connections: 0,
        paused: 0,
        disabled: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(application_name: &str, state: &'static str) -> ClientGroup {
        let (database, user) = ("d".to_owned(), "u".to_owned());
        ClientGroup { database, user, application_name: application_name.to_owned(), state }
    }

    #[test]
    fn groups_of_two_workers_are_added_and_the_smallest_are_summed() {
        let parts = [
            (group("a", "idle"), 1),
            (group("b", "idle"), 2),
            (group("b", "active"), 1),
            (group("c", "waiting"), 4),
            (group("b", "idle"), 3),
        ];
        let shown = |most| {
            let bound = bound_clients(parts.iter(), most);
            bound.into_iter().map(|(g, count)| (g.application_name, g.state, count)).collect::<Vec<_>>()
        };
        let text = |name: &str, state, count| (name.to_owned(), state, count);
        assert_eq!(
            shown(10),
            [text("a", "idle", 1), text("b", "active", 1), text("b", "idle", 5), text("c", "waiting", 4)]
        );
        let other = [text(OTHER, "active", 1), text(OTHER, "idle", 1)];
        assert_eq!(shown(2), [other.to_vec(), vec![text("b", "idle", 5), text("c", "waiting", 4)]].concat());
        assert_eq!(shown(0).iter().map(|(_, _, count)| count).sum::<u64>(), 11);
    }

    #[test]
    fn databases_without_counters_of_their_own_are_summed() {
        let console = console_line(&ConfigFigures { listen_port: 6432, ..ConfigFigures::default() });
        let line = |name: &str| {
            let figures = DatabaseFigures { name: name.to_owned(), paused: 1, ..console.clone() };
            (name.to_owned(), figures)
        };
        let lines: BTreeMap<_, _> = ["a", "b", "c", OTHER].map(line).into();
        let named = [("b".to_owned(), Totals::default()), (OTHER.to_owned(), Totals::default())];
        let rows = bound_databases(lines, &named, console.clone());
        let shown: Vec<_> =
            rows.iter().map(|row| (row.name.as_str(), row.paused, row.port.as_str())).collect();
        assert_eq!(shown, [("b", 1, "6432"), (OTHER, 3, ""), (CONSOLE_DATABASE, 0, "6432")]);
    }
}
