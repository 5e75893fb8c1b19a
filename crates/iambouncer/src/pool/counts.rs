//! How many servers a pool has, for the console, for PAUSE and for the end of the process. Owns no state.

use super::acquire::Pool;

impl Pool {
    /// Number of idle servers.
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// Servers open or being opened, by all workers.
    pub fn open_count(&self) -> u32 {
        self.shared.open.taken()
    }

    /// True while a server is on its way to another worker.
    pub fn is_sending_servers(&self) -> bool {
        self.leaving.get() > 0
    }

    /// Logins under way.
    pub fn login_count(&self) -> usize {
        self.logins.get()
    }

    /// Servers of this worker that are not idle, and those on their way to it or from it.
    pub fn busy_servers(&self) -> usize {
        (self.table.count() + self.logins.get() + self.leaving.get()).saturating_sub(self.idle_count())
    }

    /// Of those, the ones that only end.
    pub fn lingering_servers(&self) -> usize {
        self.lingering.get()
    }
}
