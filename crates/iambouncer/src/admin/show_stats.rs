//! SHOW STATS and the tables derived from it. Owns what each shows; names and arithmetic of the counters are those of
//! [`crate::stats`].

use super::DATABASE;
use super::columns::{ColumnHeader, PendingRows, ROWS_PER_TURN, Row, ShowTable, shown};
use super::console::Console;
use crate::stats::snapshot::{DatabaseCounts, Snapshot};
use crate::stats::{COUNTER_NAMES, CounterNames, Totals};
use crate::worker::{self, executor};
use std::time::Duration;
use wire::encode::ColumnType;

/// One part of a table: the names of its columns, and its values.
#[derive(Clone, Copy)]
struct StatsPart {
    name: fn(&CounterNames) -> &'static str,
    values: fn(&DatabaseCounts, Duration) -> Totals,
}

fn totals(counts: &DatabaseCounts, _: Duration) -> Totals {
    counts.begun()
}

fn averages(counts: &DatabaseCounts, covered: Duration) -> Totals {
    counts.recent.averaged(covered)
}

/// A table with a row for each database.
pub(super) struct StatsTable(&'static [StatsPart]);

pub(super) static STATS: StatsTable = StatsTable(&[
    StatsPart { name: |names| names.total, values: totals },
    StatsPart { name: |names| names.average, values: averages },
]);
pub(super) static STATS_TOTALS: StatsTable =
    StatsTable(&[StatsPart { name: |names| names.in_totals, values: totals }]);
pub(super) static STATS_AVERAGES: StatsTable =
    StatsTable(&[StatsPart { name: |names| names.in_averages, values: averages }]);

/// The databases with their counters, by name, the console among them.
fn databases(all: Snapshot) -> Vec<(String, DatabaseCounts)> {
    let mut databases = all.databases;
    databases.insert(DATABASE.to_owned(), all.console);
    databases.into_iter().collect()
}

fn sum_of_databases(all: Snapshot) -> DatabaseCounts {
    all.databases.into_values().fold(all.console, |sum, counts| sum + counts)
}

impl ShowTable for StatsTable {
    fn headers(&self) -> Vec<ColumnHeader> {
        let names = |part: &StatsPart| COUNTER_NAMES.each_ref().map(part.name);
        let counters = self.0.iter().flat_map(names).map(|name| (name, ColumnType::Numeric));
        [("database", ColumnType::Text)].into_iter().chain(counters).collect()
    }

    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a> {
        Box::pin(async move {
            let databases = console.sums(databases).await;
            let covered = console.periods.covered(worker::now());
            let mut rows: Vec<Row> = Vec::with_capacity(databases.len());
            let add = |(name, counts)| {
                let values = self.0.iter().flat_map(|part| (part.values)(&counts, covered).values());
                rows.push([shown(name)].into_iter().chain(values.map(shown)).collect());
            };
            executor::for_each_in_steps(databases, ROWS_PER_TURN, add).await;
            rows
        })
    }
}

/// SHOW TOTALS: a row for each sum over all databases.
pub(super) struct SumsTable;

pub(super) static TOTALS: SumsTable = SumsTable;

impl ShowTable for SumsTable {
    fn headers(&self) -> Vec<ColumnHeader> {
        vec![("name", ColumnType::Text), ("value", ColumnType::Numeric)]
    }

    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a> {
        Box::pin(async move {
            let sum = console.sums(sum_of_databases).await;
            let covered = console.periods.covered(worker::now());
            let rows = |prefix: &'static str, values: Totals| {
                let named = COUNTER_NAMES.iter().zip(values.values());
                named.map(move |(names, value)| -> Row {
                    vec![shown(format!("{prefix}_{}", names.in_sums)), shown(value)]
                })
            };
            rows("total", totals(&sum, covered)).chain(rows("avg", averages(&sum, covered))).collect()
        })
    }
}
