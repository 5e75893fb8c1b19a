//! SHOW STATS: totals and averages per database. Owns its table; columns and arithmetic of the counters are those of
//! [`crate::stats`].

use super::columns::{ColumnHeader, PendingRows, Row, ShowTable, shown};
use super::console::Console;
use crate::stats::{AVERAGE_COLUMNS, TOTAL_COLUMNS};
use wire::encode::ColumnType;

/// The table, whose columns are derived from the table of counters.
pub(super) struct StatsTable;

impl ShowTable for StatsTable {
    fn headers(&self) -> Vec<ColumnHeader> {
        let counters = TOTAL_COLUMNS.into_iter().chain(AVERAGE_COLUMNS);
        let counters = counters.map(|name| (name, ColumnType::Int8));
        [("database", ColumnType::Text)].into_iter().chain(counters).collect()
    }

    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a> {
        Box::pin(async move {
            let period = console.context.config().settings.stats_period;
            let databases = console.snapshot_of_all().await.databases;
            let rows = databases.iter().map(|(name, counts)| -> Row {
                let averages = counts.last.averaged(period);
                let counters = counts.totals.values().into_iter().chain(averages.values());
                [shown(name)].into_iter().chain(counters.map(shown)).collect()
            });
            rows.collect()
        })
    }
}
