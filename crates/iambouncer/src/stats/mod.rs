//! Counters and averages. Owns plain cells of one worker, summed on request; values changed by queries are never
//! shared between threads. Rare events, [`logins`], are counted for the whole process.

pub mod histogram;
pub mod logins;

use histogram::Histogram;
use std::cell::Cell;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Values of all counters at one time. Times are in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Times a server was assigned to a client.
    pub server_assignments: u64,
    /// Completed transactions.
    pub transactions: u64,
    /// Completed queries.
    pub queries: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Time in transactions, µs.
    pub transaction_us: u64,
    /// Time in queries, µs.
    pub query_us: u64,
    /// Time that clients waited for a server, µs.
    pub wait_us: u64,
    /// Named Parse messages from clients.
    pub client_parses: u64,
    /// Named Parse messages to servers.
    pub server_parses: u64,
    /// Bind messages from clients.
    pub binds: u64,
}

impl Totals {
    /// Averages of this sum over `period`, as defined by PgBouncer: events and bytes per second, times per
    /// transaction, query or assignment.
    pub fn averaged(self, period: Duration) -> Self {
        let seconds = period.as_secs().max(1);
        let per = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
        Self {
            server_assignments: self.server_assignments / seconds,
            transactions: self.transactions / seconds,
            queries: self.queries / seconds,
            received_bytes: self.received_bytes / seconds,
            sent_bytes: self.sent_bytes / seconds,
            transaction_us: per(self.transaction_us, self.transactions),
            query_us: per(self.query_us, self.queries),
            wait_us: per(self.wait_us, self.server_assignments),
            client_parses: self.client_parses / seconds,
            server_parses: self.server_parses / seconds,
            binds: self.binds / seconds,
        }
    }
}

macro_rules! fold {
    ($trait:ident, $method:ident, $op:ident) => {
        impl $trait for Totals {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                Self {
                    server_assignments: self.server_assignments.$op(other.server_assignments),
                    transactions: self.transactions.$op(other.transactions),
                    queries: self.queries.$op(other.queries),
                    received_bytes: self.received_bytes.$op(other.received_bytes),
                    sent_bytes: self.sent_bytes.$op(other.sent_bytes),
                    transaction_us: self.transaction_us.$op(other.transaction_us),
                    query_us: self.query_us.$op(other.query_us),
                    wait_us: self.wait_us.$op(other.wait_us),
                    client_parses: self.client_parses.$op(other.client_parses),
                    server_parses: self.server_parses.$op(other.server_parses),
                    binds: self.binds.$op(other.binds),
                }
            }
        }
    };
}

fold!(Add, add, wrapping_add);
fold!(Sub, sub, saturating_sub);

/// Counters of one pool.
#[derive(Default)]
pub struct Statistics {
    now: Cell<Totals>,
    /// Durations of queries; as many as [`Totals::queries`].
    pub queries: Histogram,
    /// Durations of transactions; as many as [`Totals::transactions`].
    pub transactions: Histogram,
    /// Waits for a server, without those of clients that got one at once.
    pub waits: Histogram,
    /// Values at the end of the last two periods; averages cover the time between.
    marks: Cell<(Totals, Totals)>,
}

impl Statistics {
    /// Updates counters.
    #[inline]
    pub fn count(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.now.get();
        change(&mut totals);
        self.now.set(totals);
    }

    /// Current values.
    pub fn totals(&self) -> Totals {
        self.now.get()
    }

    /// Ends a period.
    pub fn mark(&self) {
        let (last, _) = self.marks.get();
        self.marks.set((self.now.get(), last));
    }

    /// Increase during the last complete period.
    pub fn last_period(&self) -> Totals {
        let (last, before) = self.marks.get();
        last - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_cover_the_last_complete_period() {
        let stats = Statistics::default();
        stats.count(|t| t.queries += 5);
        stats.mark();
        stats.count(|t| t.queries += 2);
        assert_eq!(stats.last_period().queries, 5);
        stats.mark();
        assert_eq!(stats.last_period().queries, 2);
        assert_eq!(stats.totals().queries, 7);
    }
}
