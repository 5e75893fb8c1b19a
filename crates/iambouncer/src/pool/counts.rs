//! The number of servers of a pool, for the console, PAUSE and shutdown. Owns no state.

use super::acquire::Pool;

impl Pool {
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

    /// Servers of this worker that are not idle, and those being moved to or from it.
    pub fn busy_servers(&self) -> usize {
        (self.table.count() + self.logins.under_way() + self.rebalancer.outgoing())
            .saturating_sub(self.idle_count())
    }

    /// Those of them that are being closed.
    pub fn lingering_servers(&self) -> usize {
        self.lingering.taken() as usize
    }
}
