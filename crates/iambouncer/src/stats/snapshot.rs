//! The values of all pools at one time, for the console and the metrics. Owns the types and their sums over workers;
//! each worker fills its part in [`crate::clients`].

use super::Totals;
use super::histogram::Buckets;
use crate::config::{LoadBalanceHosts, PoolMode};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Add, Sub};
use std::time::Duration;

/// Database and user of a pool.
pub type PoolName = (String, String);

/// Maximum number of pools with series, or samples, of their own. With all histograms, one pool takes about eighty lines.
pub const MAX_NAMED_POOLS: usize = 200;
/// Replaces the names of all other pools.
pub const OTHER: &str = "_other";

/// Rows: field, type, how the values of two workers are combined (`sum`, `longest`, or `same`), description.
macro_rules! pool_counts {
    ($($name:ident: $kind:ty, $rule:ident, $doc:literal;)*) => {
        /// Counts of one pool, at one worker or at all.
        #[derive(Debug, Clone)]
        pub struct PoolCounts {
            $(#[doc = $doc] pub $name: $kind,)*
        }

        impl PoolCounts {
            /// Adds the counts of the same pool at another worker.
            pub fn add(&mut self, other: &Self) {
                $(pool_counts!(@$rule self.$name, other.$name);)*
            }
        }
    };
    (@sum $sum:expr, $other:expr) => { $sum = Add::add($sum, $other) };
    (@longest $longest:expr, $other:expr) => { $longest = $other.max($longest) };
    (@same $value:expr, $other:expr) => {};
}

pool_counts! {
    clients: ClientCounts, sum, "Clients by state.";
    longest_wait: Duration, longest, "Longest current wait.";
    cancels: u32, sum, "Cancel requests under way.";
    active: usize, sum, "Linked servers.";
    kept: usize, sum, "Linked servers that their clients keep outside of transactions.";
    active_cancel: usize, sum, "Linked servers with a cancel request under way.";
    being_canceled: usize, sum, "Servers that are waiting for a cancel request to complete, or are being closed.";
    idle: usize, sum, "Idle servers.";
    tested: usize, sum, "Servers running the reset query.";
    listening: usize, sum, "Servers that are the shared listener of their pool.";
    logins: usize, sum, "Logins under way.";
    size: u32, same, "Maximum number of servers.";
    mode: PoolMode, same, "Effective pool mode.";
    load_balance_hosts: Option<LoadBalanceHosts>, same, "Order of hosts, if there are several.";
    totals: Totals, sum, "Counters.";
    durations: Durations, sum, "Durations in buckets.";
}

impl PoolCounts {
    /// The console as a pool: it has clients and no servers.
    pub fn of_console(clients: usize, mode: PoolMode) -> Self {
        Self {
            clients: ClientCounts { active: clients, ..ClientCounts::default() },
            longest_wait: Duration::ZERO,
            cancels: 0,
            active: 0,
            kept: 0,
            active_cancel: 0,
            being_canceled: 0,
            idle: 0,
            tested: 0,
            listening: 0,
            logins: 0,
            size: 0,
            mode,
            load_balance_hosts: None,
            totals: Totals::default(),
            durations: Durations::default(),
        }
    }

    /// Open servers in any state.
    pub fn servers(&self) -> usize {
        self.active + self.being_canceled + self.idle + self.tested + self.listening
    }
}

/// Clients of one pool by state.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientCounts {
    /// Without a server, and not waiting for one.
    pub idle: usize,
    /// With a server.
    pub active: usize,
    /// Waiting for a server.
    pub waiting: usize,
}

impl Add for ClientCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            idle: self.idle + other.idle,
            active: self.active + other.active,
            waiting: self.waiting + other.waiting,
        }
    }
}

/// Durations of one pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durations {
    /// Query durations.
    pub queries: Buckets,
    /// Transaction durations.
    pub transactions: Buckets,
    /// Times clients waited for a server, including those that got one at once.
    pub waits: Buckets,
}

impl Sub for Durations {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            queries: self.queries - other.queries,
            transactions: self.transactions - other.transactions,
            waits: self.waits - other.waits,
        }
    }
}

impl Add for Durations {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            queries: self.queries + other.queries,
            transactions: self.transactions + other.transactions,
            waits: self.waits + other.waits,
        }
    }
}

/// Counters of a database.
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseCounts {
    /// Counters.
    pub totals: Totals,
    /// Increase since the beginning of the last complete period.
    pub recent: Totals,
    /// Transactions under way.
    pub open_transactions: u64,
    /// Queries under way.
    pub open_queries: u64,
}

impl DatabaseCounts {
    /// The totals with the transactions and queries that have begun, as PgBouncer counts them.
    pub fn begun(&self) -> Totals {
        let totals = self.totals;
        Totals {
            transactions: totals.transactions + totals.aborted_transactions + self.open_transactions,
            queries: totals.queries + totals.aborted_queries + self.open_queries,
            ..totals
        }
    }
}

impl Add for DatabaseCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            totals: self.totals + other.totals,
            recent: self.recent + other.recent,
            open_transactions: self.open_transactions + other.open_transactions,
            open_queries: self.open_queries + other.open_queries,
        }
    }
}

/// All pools by database and user, and the number of clients.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Pools.
    pub pools: BTreeMap<(String, String), PoolCounts>,
    /// Pools that a worker is about to remove.
    pub forgotten: BTreeSet<(String, String)>,
    /// Databases by name, with the counters of their pools, including removed pools.
    pub databases: BTreeMap<String, DatabaseCounts>,
    /// Clients, including those logging in.
    pub clients: usize,
    /// Clients logging in.
    pub logging_in: usize,
    /// Clients on the console.
    pub on_console: usize,
    /// Counters of the console.
    pub console: DatabaseCounts,
}

impl Snapshot {
    /// The sum of the parts of several workers.
    pub fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.clients += part.clients;
            whole.logging_in += part.logging_in;
            whole.on_console += part.on_console;
            whole.console = whole.console + part.console;
            for (name, counts) in &part.databases {
                let sum = whole.databases.entry(name.clone()).or_default();
                *sum = *sum + *counts;
            }
            whole.forgotten.extend(part.forgotten.iter().cloned());
            for (key, counts) in &part.pools {
                match whole.pools.get_mut(key) {
                    Some(sum) => sum.add(counts),
                    None => {
                        whole.pools.insert(key.clone(), counts.clone());
                    }
                }
            }
        }
        // The other workers are about to remove the pool, too; a partial sum would be less than the previous one.
        whole.pools.retain(|key, _| !whole.forgotten.contains(key));
        whole
    }
}

#[cfg(test)]
impl Default for PoolCounts {
    /// An empty pool, for tests.
    fn default() -> Self {
        Self::of_console(0, PoolMode::Transaction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_one_worker_is_removing_is_left_out_of_the_sums() {
        let key = || ("app".to_owned(), "ann".to_owned());
        let counts =
            || PoolCounts { totals: Totals { queries: 5, ..Totals::default() }, ..PoolCounts::default() };
        let database = DatabaseCounts { totals: counts().totals, ..DatabaseCounts::default() };
        let active = || Snapshot {
            pools: [(key(), counts())].into(),
            databases: [("app".to_owned(), database)].into(),
            ..Snapshot::default()
        };
        let removing = || Snapshot { pools: BTreeMap::new(), forgotten: [key()].into(), ..active() };
        let sum = |parts: &[Snapshot]| {
            let sum = Snapshot::sum(parts.iter());
            let pool = sum.pools.get(&key()).map(|counts| counts.totals.queries);
            (pool, sum.databases["app"].totals.queries)
        };
        assert_eq!(sum(&[active(), active()]), (Some(10), 10));
        assert_eq!(sum(&[active(), removing()]), (None, 10));
        assert_eq!(sum(&[removing(), active()]), (None, 10));
    }
}
