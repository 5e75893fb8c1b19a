//! Totals over all workers. Owns the sums; each worker counts its own part.

use super::console::Console;
use crate::clients::ClientState;
use crate::config::{LoadBalanceHosts, PoolMode};
use crate::pool::Pool;
use crate::server::Activity;
use crate::stats::Totals;
use crate::stats::histogram::Buckets;
use crate::worker;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

/// Counts of one pool, at one worker or at all.
#[derive(Debug, Clone)]
pub struct PoolCounts {
    /// Clients that are not waiting for a server.
    pub clients: usize,
    /// Those of them with a server.
    pub busy_clients: usize,
    /// Clients waiting for a server.
    pub waiting: usize,
    /// Longest current wait.
    pub longest_wait: Duration,
    /// Cancel requests under way.
    pub cancels: u32,
    /// Linked servers.
    pub active: usize,
    /// Linked servers with a cancel request under way.
    pub active_cancel: usize,
    /// Servers that are waiting for a cancel request to complete, or are being closed.
    pub being_canceled: usize,
    /// Idle servers.
    pub idle: usize,
    /// Servers running the reset query.
    pub tested: usize,
    /// Logins under way.
    pub logins: usize,
    /// Maximum number of servers.
    pub size: u32,
    /// Effective pool mode.
    pub mode: PoolMode,
    /// Effective order of hosts.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Counters.
    pub totals: Totals,
    /// Increase of the counters during the last complete period.
    pub last: Totals,
    /// Query durations.
    pub queries: Buckets,
    /// Transaction durations.
    pub transactions: Buckets,
    /// Times clients waited for a server, including those that got one at once.
    pub waits: Buckets,
}

/// Clients of one pool by state.
#[derive(Debug, Clone, Copy, Default)]
struct ClientCounts {
    idle: usize,
    busy: usize,
    waiting: usize,
}

impl PoolCounts {
    fn of(pool: &Pool, clients: ClientCounts) -> Self {
        let totals = pool.stats.totals();
        let waits = pool.stats.waits.buckets();
        let rules = pool.rules();
        let servers = pool.table.list();
        let doing = |activity| servers.iter().filter(|server| server.activity.get() == activity).count();
        let oldest = pool.first_waiting_since();
        Self {
            clients: clients.idle + clients.busy,
            busy_clients: clients.busy,
            waiting: clients.waiting,
            longest_wait: oldest.map(|since| worker::now() - since).unwrap_or_default(),
            cancels: servers.iter().map(|server| server.cancels_in_flight.get()).sum(),
            active: doing(Activity::Active),
            active_cancel: servers
                .iter()
                .filter(|s| s.activity.get() == Activity::Active && s.cancels_in_flight.get() > 0)
                .count(),
            being_canceled: doing(Activity::BeingCanceled) + doing(Activity::Closing),
            idle: pool.idle_count(),
            tested: doing(Activity::Tested),
            logins: pool.login_count(),
            size: rules.pool_size,
            mode: rules.pool_mode,
            load_balance_hosts: pool.database.line.borrow().load_balance_hosts,
            totals,
            last: pool.stats.last_period(),
            queries: pool.stats.queries.buckets(),
            transactions: pool.stats.transactions.buckets(),
            waits: waits.with_instant(totals.server_assignments.saturating_sub(waits.count())),
        }
    }

    /// Adds the counts of the same pool at another worker.
    pub fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.busy_clients += other.busy_clients;
        self.waiting += other.waiting;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.cancels += other.cancels;
        self.active += other.active;
        self.active_cancel += other.active_cancel;
        self.being_canceled += other.being_canceled;
        self.idle += other.idle;
        self.tested += other.tested;
        self.logins += other.logins;
        self.totals = self.totals + other.totals;
        self.last = self.last + other.last;
        self.queries = self.queries + other.queries;
        self.transactions = self.transactions + other.transactions;
        self.waits = self.waits + other.waits;
    }

    /// Open servers in any state.
    pub fn servers(&self) -> usize {
        self.active + self.being_canceled + self.idle + self.tested
    }
}

/// All pools by database and user, and the number of clients.
#[derive(Debug, Default)]
pub struct ConsoleSnapshot {
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
}

/// Counters of a database, and their increase during the last complete period.
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseCounts {
    /// Counters.
    pub totals: Totals,
    /// Increase during the last complete period.
    pub last: Totals,
}

impl ConsoleSnapshot {
    /// This worker's part.
    pub fn here(console: &Console) -> Self {
        let mut part = Self::default();
        // One pass over all clients, regardless of the number of pools.
        let mut clients: HashMap<*const Pool, ClientCounts> = HashMap::new();
        console.clients.visit(|client| {
            part.clients += 1;
            let counts = client.pool.get().map(|pool| clients.entry(Rc::as_ptr(pool)).or_default());
            match (client.state.get(), counts) {
                (ClientState::Login, _) => part.logging_in += 1,
                (_, None) => part.on_console += 1,
                (ClientState::Idle, Some(counts)) => counts.idle += 1,
                (ClientState::Active, Some(counts)) => counts.busy += 1,
                (ClientState::Waiting, Some(counts)) => counts.waiting += 1,
            }
        });
        for database in console.directory.databases() {
            let counts = DatabaseCounts { totals: database.totals(), last: database.last_period() };
            part.databases.insert(database.name.to_string(), counts);
        }
        for pool in console.directory.pools() {
            let clients = clients.get(&Rc::as_ptr(&pool)).copied().unwrap_or_default();
            let key = (pool.database.name.to_string(), pool.user.to_string());
            if pool.is_forgotten() {
                part.forgotten.insert(key);
            } else {
                part.pools.insert(key, PoolCounts::of(&pool, clients));
            }
        }
        part
    }

    /// The totals over all workers.
    pub async fn from_all(console: &Console) -> Self {
        let parts = console.at_all(|console| ready(Self::here(&console))).await;
        Self::sum(parts.iter())
    }

    /// The sum of the parts of several workers.
    pub fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.clients += part.clients;
            whole.logging_in += part.logging_in;
            whole.on_console += part.on_console;
            for (name, counts) in &part.databases {
                let sum = whole.databases.entry(name.clone()).or_default();
                sum.totals = sum.totals + counts.totals;
                sum.last = sum.last + counts.last;
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
        Self {
            clients: 0,
            busy_clients: 0,
            waiting: 0,
            longest_wait: Duration::ZERO,
            cancels: 0,
            active: 0,
            active_cancel: 0,
            being_canceled: 0,
            idle: 0,
            tested: 0,
            logins: 0,
            size: 0,
            mode: PoolMode::Transaction,
            load_balance_hosts: LoadBalanceHosts::RoundRobin,
            totals: Totals::default(),
            last: Totals::default(),
            queries: Buckets::default(),
            transactions: Buckets::default(),
            waits: Buckets::default(),
        }
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
        let active = || ConsoleSnapshot {
            pools: [(key(), counts())].into(),
            databases: [("app".to_owned(), database)].into(),
            ..ConsoleSnapshot::default()
        };
        let removing = || ConsoleSnapshot { pools: BTreeMap::new(), forgotten: [key()].into(), ..active() };
        let sum = |parts: &[ConsoleSnapshot]| {
            let sum = ConsoleSnapshot::sum(parts.iter());
            let pool = sum.pools.get(&key()).map(|counts| counts.totals.queries);
            (pool, sum.databases["app"].totals.queries)
        };
        assert_eq!(sum(&[active(), active()]), (Some(10), 10));
        assert_eq!(sum(&[active(), removing()]), (None, 10));
        assert_eq!(sum(&[removing(), active()]), (None, 10));
    }
}
