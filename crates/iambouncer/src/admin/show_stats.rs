//! SHOW STATS: totals and averages per database. Owns the order of the values; the arithmetic is in
//! [`crate::stats::Totals::averaged`].

use super::console::Console;
use super::gathered::ConsoleSnapshot;
use super::show::text;
use super::table::Row;
use crate::stats::Totals;

pub(super) fn stats(console: &Console, all: &ConsoleSnapshot) -> Vec<Row> {
    let period = console.context.config().settings.stats_period;
    let rows = all.databases.iter().map(|(name, counts)| {
        let mut row = vec![text(name)];
        row.extend(values(&counts.totals).map(text));
        row.extend(values(&counts.last.averaged(period)).map(text));
        row
    });
    rows.collect()
}

/// Counters in the order of the columns.
fn values(t: &Totals) -> [u64; 11] {
    [
        t.server_assignments,
        t.transactions,
        t.queries,
        t.received_bytes,
        t.sent_bytes,
        t.transaction_us,
        t.query_us,
        t.wait_us,
        t.client_parses,
        t.server_parses,
        t.binds,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_averaged_per_event_and_counts_per_second() {
        let totals = Totals { queries: 120, query_us: 1200, ..Totals::default() };
        let averages = values(&totals.averaged(Duration::from_secs(60)));
        assert_eq!((averages[2], averages[6], averages[5]), (2, 10, 0));
    }
}
