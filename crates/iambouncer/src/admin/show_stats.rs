//! SHOW STATS: totals and averages per database. Owns the arithmetic of averages as PgBouncer does it: counts per
//! second, times per transaction, query or assignment.

use super::console::Console;
use super::show::text;
use super::table::Row;
use crate::stats::Totals;
use std::time::Duration;

pub(super) fn stats(console: &Console) -> Vec<Row> {
    let period = console.context.config().settings.stats_period;
    console
        .directory
        .databases()
        .iter()
        .map(|database| {
            let pools = database.pools();
            let sum = |of: fn(&crate::stats::Statistics) -> Totals| {
                pools.iter().map(|pool| of(&pool.stats)).fold(Totals::default(), |a, b| a + b)
            };
            let totals = sum(|stats| stats.totals());
            let last = sum(|stats| stats.last_period());
            let mut row = vec![text(&database.name)];
            row.extend(total_values(&totals).map(text));
            row.extend(average_values(&last, period).map(text));
            row
        })
        .collect()
}

/// Counters in the order of the columns.
fn total_values(t: &Totals) -> [u64; 11] {
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

fn average_values(t: &Totals, period: Duration) -> [u64; 11] {
    let seconds = period.as_secs().max(1);
    let per = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
    [
        t.server_assignments / seconds,
        t.transactions / seconds,
        t.queries / seconds,
        t.received_bytes / seconds,
        t.sent_bytes / seconds,
        per(t.transaction_us, t.transactions),
        per(t.query_us, t.queries),
        per(t.wait_us, t.server_assignments),
        t.client_parses / seconds,
        t.server_parses / seconds,
        t.binds / seconds,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_averaged_per_event_and_counts_per_second() {
        let totals = Totals { queries: 120, query_us: 1200, ..Totals::default() };
        let averages = average_values(&totals, Duration::from_secs(60));
        assert_eq!((averages[2], averages[6], averages[5]), (2, 10, 0));
    }
}
