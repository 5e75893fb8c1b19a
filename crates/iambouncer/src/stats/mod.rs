//! Counters and averages. Owns plain cells of one worker, summed on request; values changed by queries are never
//! shared between threads. Rare events, [`logins`], are counted for the whole process. [`snapshot`] is what others read.

pub mod histogram;
pub mod logins;
pub mod snapshot;

use histogram::Histogram;
use snapshot::Durations;
use std::cell::Cell;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Rows: field, divisor of its average (`second`, or another counter), columns in SHOW STATS, description. The struct,
/// sums, averages and SHOW STATS are derived from them.
macro_rules! counters {
    ($($name:ident: per $per:ident, $total:literal, $average:literal, $doc:literal;)*) => {
        /// Values of all counters at one time. Times are in microseconds.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $doc] pub $name: u64,)*
        }

        /// Number of counters.
        pub const COUNTERS: usize = [$(stringify!($name)),*].len();
        /// Columns of SHOW STATS for the totals.
        pub const TOTAL_COLUMNS: [&str; COUNTERS] = [$($total),*];
        /// Columns of SHOW STATS for the averages.
        pub const AVERAGE_COLUMNS: [&str; COUNTERS] = [$($average),*];

        impl Totals {
            /// The values in the order of the columns.
            pub fn values(&self) -> [u64; COUNTERS] {
                [$(self.$name),*]
            }

            /// The averages of these sums over `period`, as computed by PgBouncer: events and bytes per second,
            /// times per transaction, query or assignment.
            pub fn averaged(self, period: Duration) -> Self {
                let second = period.as_secs().max(1);
                Self { $($name: self.$name.checked_div(counters!(@per self, second, $per)).unwrap_or(0),)* }
            }
        }

        impl Add for Totals {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name),)* }
            }
        }

        impl Sub for Totals {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self { $($name: self.$name.saturating_sub(other.$name),)* }
            }
        }
    };
    (@per $self:ident, $second:ident, second) => { $second };
    (@per $self:ident, $second:ident, $other:ident) => { $self.$other };
}

counters! {
    server_assignments: per second, "total_server_assignment_count", "avg_server_assignment_count",
        "Times a server was assigned to a client.";
    transactions: per second, "total_xact_count", "avg_xact_count", "Transactions completed.";
    queries: per second, "total_query_count", "avg_query_count", "Queries completed.";
    received_bytes: per second, "total_received", "avg_recv", "Bytes from clients.";
    sent_bytes: per second, "total_sent", "avg_sent", "Bytes to clients.";
    transaction_us: per transactions, "total_xact_time", "avg_xact_time", "Time in transactions, in µs.";
    query_us: per queries, "total_query_time", "avg_query_time", "Time in queries, in µs.";
    wait_us: per server_assignments, "total_wait_time", "avg_wait_time",
        "Time that clients waited for a server, in µs.";
    client_parses: per second, "total_client_parse_count", "avg_client_parse_count",
        "Named Parse messages from clients.";
    server_parses: per second, "total_server_parse_count", "avg_server_parse_count",
        "Named Parse messages to servers.";
    binds: per second, "total_bind_count", "avg_bind_count", "Bind messages from clients.";
}

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

    /// Current durations.
    pub fn durations(&self) -> Durations {
        let waits = self.waits.buckets();
        let instant = self.now.get().server_assignments.saturating_sub(waits.count());
        Durations {
            queries: self.queries.buckets(),
            transactions: self.transactions.buckets(),
            waits: waits.with_instant(instant),
        }
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
    fn times_are_averaged_per_event_and_counts_per_second() {
        let totals = Totals { queries: 120, query_us: 1200, transaction_us: 5, ..Totals::default() };
        let averages = totals.averaged(Duration::from_secs(60));
        assert_eq!((averages.queries, averages.query_us, averages.transaction_us), (2, 10, 0));
    }

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
