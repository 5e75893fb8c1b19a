//! The number of servers of a pool, for the console, metrics, PAUSE and shutdown. Owns no state.

use super::acquire::Pool;
use crate::server::{Activity, ServerInfo};
use crate::stats::history::PoolPoint;
use crate::stats::snapshot::{ClientCounts, PoolCounts};
use crate::worker;
use std::rc::Rc;

/// Number of these servers that do this.
fn count_doing(servers: &[Rc<ServerInfo>], activity: Activity) -> usize {
    servers.iter().filter(|server| server.activity.get() == activity).count()
}

impl Pool {
    /// Servers open or being opened, at all workers.
    #[cfg(test)]
    pub fn open_count(&self) -> u32 {
        self.shared.open.taken()
    }

    /// Number of idle servers.
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// True while a server is being moved to another worker.
    pub fn is_sending_servers(&self) -> bool {
        self.rebalancer.outgoing() > 0
    }

    /// Logins under way.
    pub fn login_count(&self) -> usize {
        self.logins.under_way()
    }

    /// Servers of this worker that are not idle, and those being moved to or from it. The shared listener runs no queries of
    /// clients.
    pub fn busy_servers(&self) -> usize {
        (self.table.count() + self.logins.under_way() + self.rebalancer.outgoing())
            .saturating_sub(self.idle_count() + self.listening_servers())
    }

    /// 1 if the shared listener belongs to this worker.
    fn listening_servers(&self) -> usize {
        count_doing(&self.table.list(), Activity::Listening)
    }

    /// Those that their clients keep outside of transactions.
    pub fn kept_servers(&self) -> usize {
        self.table.list().iter().filter(|server| server.is_kept.get()).count()
    }

    /// Those of them that are being closed.
    pub fn lingering_servers(&self) -> usize {
        self.lingering.taken() as usize
    }

    /// Its state for the history, without a rate.
    pub fn point(&self) -> PoolPoint {
        let servers = self.table.list();
        let doing = |activity| count_doing(&servers, activity);
        PoolPoint {
            active: doing(Activity::Active),
            idle: doing(Activity::Idle),
            waiting: self.queue.waiting().0 + self.arrivals.len(),
            longest_wait: self.first_waiting_since().map(|since| worker::now() - since).unwrap_or_default(),
            queries_per_second: 0.0,
        }
    }

    /// All counts, together with those of its clients.
    pub fn counts(&self, clients: ClientCounts) -> PoolCounts {
        let rules = self.rules();
        let servers = self.table.list();
        let doing = |activity| count_doing(&servers, activity);
        let oldest = self.first_waiting_since();
        PoolCounts {
            clients,
            longest_wait: oldest.map(|since| worker::now() - since).unwrap_or_default(),
            cancels: servers.iter().map(|server| server.cancels_in_flight.get()).sum(),
            active: doing(Activity::Active),
            kept: self.kept_servers(),
            active_cancel: servers
                .iter()
                .filter(|s| s.activity.get() == Activity::Active && s.cancels_in_flight.get() > 0)
                .count(),
            being_canceled: doing(Activity::BeingCanceled) + doing(Activity::Closing),
            idle: doing(Activity::Idle),
            tested: doing(Activity::Tested),
            listening: doing(Activity::Listening),
            logins: self.login_count(),
            size: rules.pool_size,
            mode: rules.pool_mode,
            load_balance_hosts: self.database.line.borrow().load_balanced(),
            totals: self.stats.totals(),
            durations: self.stats.durations(),
        }
    }
}
