//! What the workers know together. Owns the sums; each worker counts its own part.

use super::console::Console;
use crate::clients::ClientState;
use crate::config::{LoadBalanceHosts, PoolMode};
use crate::pool::Pool;
use crate::server::Activity;
use crate::stats::Totals;
use crate::worker;
use std::collections::BTreeMap;
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

/// One pool, at one worker or at all.
#[derive(Debug, Clone)]
pub struct PoolCounts {
    /// Clients without a server that want none, and with one.
    pub clients: usize,
    /// Clients that wait for a server.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub longest_wait: Duration,
    /// Cancel requests under way.
    pub cancels: u32,
    /// Servers with a client.
    pub active: usize,
    /// Of those, being canceled.
    pub active_cancel: usize,
    /// Servers that only wait for a cancel request to end.
    pub being_canceled: usize,
    /// Servers nobody uses.
    pub idle: usize,
    /// Servers in the reset query.
    pub tested: usize,
    /// Logins under way.
    pub logins: usize,
    /// Mode in force.
    pub mode: PoolMode,
    /// Order of hosts in force.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Counters.
    pub totals: Totals,
    /// What the last whole period added to them.
    pub last: Totals,
}

impl PoolCounts {
    fn of(pool: &Rc<Pool>, console: &Console) -> Self {
        let clients: Vec<_> = console
            .clients
            .list()
            .into_iter()
            .filter(|client| client.pool.get().is_some_and(|p| Rc::ptr_eq(p, pool)))
            .map(|client| client.state.get())
            .collect();
        let servers = pool.table.list();
        let doing = |activity| servers.iter().filter(|server| server.activity.get() == activity).count();
        let (_, oldest) = pool.waiting();
        Self {
            clients: clients.iter().filter(|s| matches!(s, ClientState::Active | ClientState::Idle)).count(),
            waiting: clients.iter().filter(|&&state| state == ClientState::Waiting).count(),
            longest_wait: oldest.map(|since| worker::now() - since).unwrap_or_default(),
            cancels: servers.iter().map(|server| server.cancels_in_flight.get()).sum(),
            active: doing(Activity::Active),
            active_cancel: servers
                .iter()
                .filter(|s| s.activity.get() == Activity::Active && s.cancels_in_flight.get() > 0)
                .count(),
            being_canceled: doing(Activity::BeingCanceled),
            idle: pool.idle_count(),
            tested: doing(Activity::Tested),
            logins: pool.login_count(),
            mode: pool.rules().pool_mode,
            load_balance_hosts: pool.database.line.borrow().load_balance_hosts,
            totals: pool.stats.totals(),
            last: pool.stats.last_period(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.clients += other.clients;
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
    }

    /// Servers that are open, in whatever state.
    pub fn servers(&self) -> usize {
        self.active + self.being_canceled + self.idle + self.tested
    }
}

/// All pools by database and user, and who is connected.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Pools.
    pub pools: BTreeMap<(String, String), PoolCounts>,
    /// Names of databases.
    pub databases: BTreeMap<String, DatabaseCounts>,
    /// Clients, those logging in included.
    pub clients: usize,
    /// Clients logging in.
    pub logging_in: usize,
}

/// Counters of a database, and what the last whole period added to them.
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseCounts {
    /// Counters.
    pub totals: Totals,
    /// The last period's part.
    pub last: Totals,
}

impl Gathered {
    /// This worker's part.
    fn here(console: &Console) -> Self {
        let mut part = Self::default();
        for database in console.directory.databases() {
            part.databases.insert(database.name.to_string(), DatabaseCounts::default());
        }
        for pool in console.directory.pools() {
            let counts = PoolCounts::of(&pool, console);
            part.pools.insert((pool.database.name.to_string(), pool.user.to_string()), counts);
        }
        let clients = console.clients.list();
        part.clients = clients.len();
        part.logging_in = clients.iter().filter(|client| client.state.get() == ClientState::Login).count();
        part
    }

    /// What all workers know.
    pub async fn from_all(console: &Console) -> Self {
        let parts = console.at_all(|console| ready(Self::here(&console))).await;
        let mut whole = Self::default();
        for part in parts {
            whole.clients += part.clients;
            whole.logging_in += part.logging_in;
            whole.databases.extend(part.databases);
            for (key, counts) in part.pools {
                match whole.pools.get_mut(&key) {
                    Some(sum) => sum.add(&counts),
                    None => {
                        whole.pools.insert(key, counts);
                    }
                }
            }
        }
        for ((database, _), counts) in &whole.pools {
            let sum = whole.databases.entry(database.clone()).or_default();
            sum.totals = sum.totals + counts.totals;
            sum.last = sum.last + counts.last;
        }
        whole
    }
}
