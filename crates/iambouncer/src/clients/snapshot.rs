//! This worker's part of a snapshot. Owns the counts of clients; those of servers come from each pool.

use super::{ClientState, ClientTable};
use crate::pool::{Directory, Pool};
use crate::stats::snapshot::{ClientCounts, DatabaseCounts, Snapshot};
use std::collections::HashMap;
use std::rc::Rc;

/// The values of the pools, databases and clients of this worker.
pub fn snapshot(directory: &Directory, table: &ClientTable) -> Snapshot {
    let mut part = Snapshot::default();
    // One pass over all clients, regardless of the number of pools.
    let mut by_pool: HashMap<*const Pool, ClientCounts> = HashMap::new();
    let mut open: HashMap<Rc<str>, (u64, u64)> = HashMap::new();
    table.visit(|client| {
        part.clients += 1;
        let counts = client.pool.get().map(|pool| by_pool.entry(Rc::as_ptr(pool)).or_default());
        match (client.state.get(), counts) {
            (ClientState::Login, _) => part.logging_in += 1,
            (_, None) => part.on_console += 1,
            (ClientState::Idle, Some(counts)) => counts.idle += 1,
            (ClientState::Active, Some(counts)) => {
                counts.active += 1;
                if let Some(pool) = client.pool.get() {
                    let timing = client.timing.get();
                    let (transactions, queries) = open.entry(pool.database.name.clone()).or_default();
                    *transactions += u64::from(timing.transaction_at.is_some());
                    *queries += u64::from(timing.query_at.is_some());
                }
            }
            (ClientState::Waiting, Some(counts)) => counts.waiting += 1,
        }
    });
    for database in directory.databases() {
        let (open_transactions, open_queries) = open.get(&database.name).copied().unwrap_or_default();
        let counts = DatabaseCounts {
            totals: database.totals(),
            recent: database.recent(),
            open_transactions,
            open_queries,
        };
        part.databases.insert(database.name.to_string(), counts);
    }
    for pool in directory.pools() {
        let key = (pool.database.name.to_string(), pool.user.to_string());
        if pool.is_forgotten() {
            part.forgotten.insert(key);
        } else {
            let clients = by_pool.get(&Rc::as_ptr(&pool)).copied().unwrap_or_default();
            part.pools.insert(key, pool.counts(clients));
        }
    }
    part
}
