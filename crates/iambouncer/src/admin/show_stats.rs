//! SHOW STATS: totals and averages per database. Order and arithmetic of the values are in [`crate::stats`].

use super::console::Console;
use super::show::text;
use super::table::Row;
use crate::stats::snapshot::Snapshot;

pub(super) fn stats(console: &Console, all: &Snapshot) -> Vec<Row> {
    let period = console.context.config().settings.stats_period;
    let rows = all.databases.iter().map(|(name, counts)| {
        let mut row = vec![text(name)];
        row.extend(counts.totals.values().map(text));
        row.extend(counts.last.averaged(period).values().map(text));
        row
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use crate::admin::table::STATS;
    use crate::stats::{AVERAGE_COLUMNS, TOTAL_COLUMNS};

    #[test]
    fn columns_are_those_of_the_counters() {
        let columns: Vec<_> = STATS.iter().map(|(name, _)| *name).collect();
        let expected = [&["database"], &TOTAL_COLUMNS[..], &AVERAGE_COLUMNS[..]].concat();
        assert_eq!(columns, expected);
    }
}
