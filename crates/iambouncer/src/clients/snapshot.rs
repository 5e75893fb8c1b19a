//! This worker's part of a snapshot. Owns the counts of clients; those of servers come from each pool. It is made in steps,
//! between which the worker's other tasks run: there may be tens of thousands of clients.

use super::{ClientInfo, ClientState, ClientTable};
use crate::pool::{DatabaseState, Directory, Pool};
use crate::stats::Totals;
use crate::stats::snapshot::{ClientCounts, DatabaseCounts, Snapshot};
use crate::worker::executor;
use std::collections::HashMap;
use std::rc::Rc;

/// Pools, or databases, that are counted in a step.
const POOLS_PER_STEP: usize = 50;

/// The clients counted so far.
#[derive(Default)]
struct ClientTotals {
    /// The pools are kept: their addresses identify them.
    by_pool: HashMap<*const Pool, (Rc<Pool>, ClientCounts)>,
    /// Transactions and queries under way, by database.
    open: HashMap<Rc<str>, (u64, u64)>,
}

impl ClientTotals {
    fn add(&mut self, client: &ClientInfo, part: &mut Snapshot) {
        part.clients += 1;
        let pool = client.pool.get();
        let counts = pool.map(|pool| {
            let new = || (pool.clone(), ClientCounts::default());
            &mut self.by_pool.entry(Rc::as_ptr(pool)).or_insert_with(new).1
        });
        match (client.state.get(), counts) {
            (ClientState::Login, _) => part.logging_in += 1,
            (_, None) => part.on_console += 1,
            (ClientState::Idle, Some(counts)) => counts.idle += 1,
            (ClientState::Active, Some(counts)) => {
                counts.active += 1;
                if let Some(pool) = pool {
                    let timing = client.timing.get();
                    let (transactions, queries) = self.open.entry(pool.database.name.clone()).or_default();
                    *transactions += u64::from(timing.transaction_at.is_some());
                    *queries += u64::from(timing.query_at.is_some());
                }
            }
            (ClientState::Waiting, Some(counts)) => counts.waiting += 1,
        }
    }
}

/// How much has been counted since other tasks of the worker ran.
#[derive(Default)]
struct Steps(usize);

impl Steps {
    /// A pool or a database was counted.
    async fn count(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(POOLS_PER_STEP) {
            executor::yield_now().await;
        }
    }
}

/// Counters of a database: totals, and the increase since the beginning of the last complete period.
async fn sums(database: &DatabaseState, steps: &mut Steps) -> (Totals, Totals) {
    // Read together: a pool that is dropped meanwhile is not in these counters, but remains in the list.
    let (retired, pools) = (database.retired(), database.pools());
    let mut sums = (retired, Totals::default());
    for pool in pools {
        sums = (sums.0 + pool.stats.totals(), sums.1 + pool.stats.recent());
        steps.count().await;
    }
    sums
}

/// The values of the pools, databases and clients of this worker.
pub async fn snapshot(directory: &Directory, table: &ClientTable) -> Snapshot {
    let mut part = Snapshot::default();
    let mut totals = ClientTotals::default();
    // One pass over all clients, regardless of the number of pools.
    table.visit_in_steps(|client| totals.add(client, &mut part)).await;
    let mut databases = Vec::new();
    directory.visit_databases(POOLS_PER_STEP, |database| databases.push(database)).await;
    let mut steps = Steps::default();
    for database in databases {
        let (open_transactions, open_queries) = totals.open.get(&database.name).copied().unwrap_or_default();
        let (totals, recent) = sums(&database, &mut steps).await;
        let counts = DatabaseCounts { totals, recent, open_transactions, open_queries };
        part.databases.insert(database.name.to_string(), counts);
        steps.count().await;
    }
    let add_pool = |pool: Rc<Pool>| {
        let key = (pool.database.name.to_string(), pool.user.to_string());
        if pool.is_forgotten() {
            part.forgotten.insert(key);
        } else {
            let clients = totals.by_pool.get(&Rc::as_ptr(&pool)).map(|(_, counts)| *counts);
            part.pools.insert(key, pool.counts(clients.unwrap_or_default()));
        }
    };
    directory.visit_pools(POOLS_PER_STEP, add_pool).await;
    part
}
