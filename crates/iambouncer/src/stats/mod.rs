//! Counters and averages. Owns plain cells of one worker, summed on request; values changed by queries are never
//! shared between threads. Rare events, [`logins`], [`client_counters`] and [`session_counters`], are counted for the whole
//! process. [`snapshot`] is what others read.

pub mod client_counters;
pub mod histogram;
pub mod history;
pub mod last_failures;
pub mod load;
pub mod logins;
pub mod session_counters;
pub mod snapshot;
pub mod trace_counters;

use crate::worker;
use histogram::Histogram;
use history::PoolWork;
use snapshot::Durations;
use std::cell::{Cell, RefCell};
use std::ops::{Add, Sub};
use std::time::{Duration, Instant};

/// Names of a counter on the console: PgBouncer has others in each table.
pub struct CounterNames {
    /// The total in SHOW STATS.
    pub total: &'static str,
    /// The average in SHOW STATS.
    pub average: &'static str,
    /// In SHOW STATS_TOTALS.
    pub in_totals: &'static str,
    /// In SHOW STATS_AVERAGES.
    pub in_averages: &'static str,
    /// In SHOW TOTALS, after `total_` and `avg_`.
    pub in_sums: &'static str,
}

/// Rows: field, divisor of its average (`second`, or another counter), names as in [`CounterNames`], description; then
/// counters that the console does not show. The struct, sums, averages and the console's tables are derived from them.
macro_rules! counters {
    (shown {
        $($name:ident: per $per:ident,
          $total:literal $average:literal $in_totals:literal $in_averages:literal $in_sums:literal, $doc:literal;)*
    } hidden {
        $($hidden:ident: $hidden_doc:literal;)*
    }) => {
        /// Values of all counters at one time. Times are in microseconds.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $doc] pub $name: u64,)*
            $(#[doc = $hidden_doc] pub $hidden: u64,)*
        }

        /// Number of counters that the console shows.
        pub const COUNTERS: usize = [$(stringify!($name)),*].len();
        /// Their names, in PgBouncer's order.
        pub const COUNTER_NAMES: [CounterNames; COUNTERS] = [$(CounterNames {
            total: $total,
            average: $average,
            in_totals: $in_totals,
            in_averages: $in_averages,
            in_sums: $in_sums,
        }),*];

        impl Totals {
            /// The values in the order of [`COUNTER_NAMES`].
            pub fn values(&self) -> [u64; COUNTERS] {
                [$(self.$name),*]
            }

            /// The averages of these sums over `time`, as computed by PgBouncer: events and bytes per second, times per
            /// transaction, query or assignment.
            pub fn averaged(self, time: Duration) -> Self {
                let us = time.as_micros().max(1);
                Self {
                    $($name: counters!(@average self.$name, self, us, $per),)*
                    $($hidden: 0,)*
                }
            }
        }

        impl Add for Totals {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self {
                    $($name: self.$name.wrapping_add(other.$name),)*
                    $($hidden: self.$hidden.wrapping_add(other.$hidden),)*
                }
            }
        }

        impl Sub for Totals {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self {
                    $($name: self.$name.saturating_sub(other.$name),)*
                    $($hidden: self.$hidden.saturating_sub(other.$hidden),)*
                }
            }
        }
    };
    (@average $value:expr, $self:ident, $us:ident, second) => {
        u64::try_from(u128::from($value) * 1_000_000 / $us).unwrap_or(u64::MAX)
    };
    (@average $value:expr, $self:ident, $us:ident, $other:ident) => { $value.checked_div($self.$other).unwrap_or(0) };
}

counters! {
    shown {
        server_assignments: per second,
            "total_server_assignment_count" "avg_server_assignment_count"
            "server_assignment_count" "server_assignment_count" "server_assignment_count",
            "Times a server was assigned to a client.";
        transactions: per second,
            "total_xact_count" "avg_xact_count" "xact_count" "xact_count" "xact_count", "Transactions completed.";
        queries: per second,
            "total_query_count" "avg_query_count" "query_count" "query_count" "query_count", "Queries completed.";
        received_bytes: per second,
            "total_received" "avg_recv" "bytes_received" "bytes_received" "client_bytes", "Bytes from clients.";
        sent_bytes: per second,
            "total_sent" "avg_sent" "bytes_sent" "bytes_sent" "server_bytes", "Bytes to clients.";
        transaction_us: per transactions,
            "total_xact_time" "avg_xact_time" "xact_time" "xact_time" "xact_time", "Time in transactions, in µs.";
        query_us: per queries,
            "total_query_time" "avg_query_time" "query_time" "query_time" "query_time", "Time in queries, in µs.";
        wait_us: per server_assignments,
            "total_wait_time" "avg_wait_time" "wait_time" "wait_time" "wait_time",
            "Time that clients waited for a server, in µs.";
        client_parses: per second,
            "total_client_parse_count" "avg_client_parse_count"
            "client_parse_count" "avg_client_parse_count" "ps_client_parse_count",
            "Named Parse messages from clients.";
        server_parses: per second,
            "total_server_parse_count" "avg_server_parse_count"
            "server_parse_count" "avg_server_parse_count" "ps_server_parse_count",
            "Named Parse messages to servers.";
        binds: per second,
            "total_bind_count" "avg_bind_count" "bind_count" "avg_bind_count" "ps_bind_count",
            "Bind messages from clients.";
        client_logins: per second,
            "total_client_login_count" "avg_client_login_count"
            "client_login_count" "avg_client_login_count" "client_login_count",
            "Logins of clients.";
    } hidden {
        aborted_transactions: "Transactions in which the session ended.";
        aborted_queries: "Queries during which the session ended.";
        abandoned_waits: "Clients that disconnected while they waited for a server.";
        wait_timeouts: "Clients closed by query_wait_timeout.";
        kept_transactions: "Transactions of clients that keep their server.";
    }
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
    /// What was reported to the history, once there was anything.
    reported: RefCell<Option<Box<PoolWork>>>,
}

impl Statistics {
    /// Updates counters.
    #[inline]
    pub fn count(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.now.get();
        change(&mut totals);
        self.now.set(totals);
    }

    /// A client has got the server for which it has waited since then.
    pub fn record_wait(&self, since: Instant) {
        let waited_us = worker::now().saturating_duration_since(since).as_micros() as u64;
        self.count(|t| t.wait_us += waited_us);
        self.waits.observe(waited_us);
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

    /// Increase since the last call, for the history.
    pub fn take_unreported(&self) -> PoolWork {
        let work = PoolWork { totals: self.totals(), durations: self.durations() };
        let mut reported = self.reported.borrow_mut();
        match &mut *reported {
            Some(before) => work - std::mem::replace(&mut **before, work),
            None => {
                *reported = (!work.is_none()).then(|| Box::new(work));
                work
            }
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

    /// Increase since the beginning of the last complete period; [`Periods::covered`] is how long ago that was.
    pub fn recent(&self) -> Totals {
        self.now.get() - self.marks.get().1
    }
}

/// The periods of one worker, over which averages are taken.
pub struct Periods {
    /// Start of the last complete period.
    before: Cell<Instant>,
    /// Start of the present one.
    last: Cell<Instant>,
}

impl Periods {
    /// As in PgBouncer, a period of one second precedes the first one, so that averages are never divided by zero.
    const BEFORE_START: Duration = Duration::from_secs(1);

    /// The first period begins now.
    pub fn new(now: Instant) -> Self {
        let before = now.checked_sub(Self::BEFORE_START).unwrap_or(now);
        Self { before: Cell::new(before), last: Cell::new(now) }
    }

    /// Ends a period.
    pub fn end(&self, now: Instant) {
        self.before.set(self.last.replace(now));
    }

    /// Time since the beginning of the last complete period.
    pub fn covered(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.before.get())
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
    fn recent_values_cover_the_present_period_too_and_the_first_period_has_averages() {
        let began = Instant::now();
        let (stats, periods) = (Statistics::default(), Periods::new(began));
        let at = |seconds| began + Duration::from_secs(seconds);
        stats.count(|t| t.queries += 60);
        assert_eq!((stats.recent().queries, periods.covered(at(5))), (60, Duration::from_secs(6)));
        assert_eq!(stats.recent().averaged(periods.covered(at(5))).queries, 10);
        for end in [60, 120] {
            stats.mark();
            periods.end(at(end));
        }
        stats.count(|t| t.queries += 7);
        assert_eq!((stats.recent().queries, periods.covered(at(130))), (7, Duration::from_secs(70)));
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
