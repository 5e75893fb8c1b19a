//! The tables of the SHOW commands. Owns what a column is: its name, its type, and the function that reads its value
//! from a record. Headers and rows are derived from the same list.

use super::console::Console;
use crate::worker::executor;
use std::pin::Pin;
use std::rc::Rc;
use wire::encode::ColumnType;

/// A row of a result; `None` is NULL.
pub type Row = Vec<Option<String>>;
/// Name and type of a column.
pub type ColumnHeader = (&'static str, ColumnType);
/// The rows of a table, once all workers have answered.
pub(super) type PendingRows<'a> = Pin<Box<dyn Future<Output = Vec<Row>> + 'a>>;

/// Rows that a worker makes before it serves its clients again: a fraction of a millisecond.
pub(super) const ROWS_PER_TURN: usize = 64;

/// The records of a table, once all have been collected.
pub(super) type PendingRecords<'a, R> = Pin<Box<dyn Future<Output = Vec<R>> + 'a>>;

/// A value that is not NULL.
pub(super) fn shown(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// A column of a table of records `R`.
pub(super) struct Column<R> {
    header: ColumnHeader,
    value: fn(&R) -> Option<String>,
}

/// A column of texts.
pub(super) const fn text<R>(name: &'static str, value: fn(&R) -> Option<String>) -> Column<R> {
    Column { header: (name, ColumnType::Text), value }
}

/// A column of numbers up to 2^31.
pub(super) const fn int4<R>(name: &'static str, value: fn(&R) -> Option<String>) -> Column<R> {
    Column { header: (name, ColumnType::Int4), value }
}

/// A column of numbers up to 2^63.
pub(super) const fn int8<R>(name: &'static str, value: fn(&R) -> Option<String>) -> Column<R> {
    Column { header: (name, ColumnType::Int8), value }
}

/// Where the records of a table come from.
pub(super) enum Records<R> {
    /// The same at every worker.
    Here(fn(&Console) -> Vec<R>),
    /// The same at every worker, or sums over all of them; collected in steps or by another thread.
    HereInSteps(for<'a> fn(&'a Console) -> PendingRecords<'a, R>),
    /// Each worker has its own.
    EachWorker(fn(&Console) -> Vec<R>),
    /// Each worker has its own, collected in steps.
    EachWorkerInSteps(fn(Rc<Console>) -> PendingRecords<'static, R>),
    /// The same; rows with the same first value are duplicates. The rows are sorted by it.
    Distinct(fn(Rc<Console>) -> PendingRecords<'static, R>),
}

/// The table of one command.
pub(super) struct Table<R: 'static> {
    /// In PgBouncer's order.
    pub(super) columns: &'static [Column<R>],
    pub(super) records: Records<R>,
}

impl<R> Table<R> {
    /// The rows of records, in steps: there may be thousands.
    async fn rows(&self, records: Vec<R>) -> Vec<Row> {
        let mut rows = Vec::with_capacity(records.len());
        let add = |record| rows.push(self.columns.iter().map(|column| (column.value)(&record)).collect());
        executor::for_each_in_steps(records, ROWS_PER_TURN, add).await;
        rows
    }

    async fn rows_of_all(
        &'static self,
        console: &Console,
        records: fn(Rc<Console>) -> PendingRecords<'static, R>,
    ) -> Vec<Row> {
        let all = move |console| async move { self.rows(records(console).await).await };
        console.at_all(all).await.into_iter().flatten().collect()
    }
}

/// The rows by their first value, without duplicates of it.
fn distinct(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| a.first().cmp(&b.first()));
    rows.dedup_by(|a, b| a.first() == b.first());
    rows
}

/// A table, whatever its records are.
pub(super) trait ShowTable: Sync {
    /// The columns of the result.
    fn headers(&self) -> Vec<ColumnHeader>;

    /// The rows of the whole process.
    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a>;
}

impl<R> ShowTable for Table<R> {
    fn headers(&self) -> Vec<ColumnHeader> {
        self.columns.iter().map(|column| column.header).collect()
    }

    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a> {
        Box::pin(async move {
            match self.records {
                Records::Here(records) => self.rows(records(console)).await,
                Records::HereInSteps(records) => self.rows(records(console).await).await,
                Records::EachWorker(records) => {
                    let all = move |console: Rc<Console>| async move { self.rows(records(&console)).await };
                    console.at_all(all).await.into_iter().flatten().collect()
                }
                Records::EachWorkerInSteps(records) => self.rows_of_all(console, records).await,
                Records::Distinct(records) => {
                    let rows = self.rows_of_all(console, records).await;
                    console.context.blocking(move || distinct(rows)).await.unwrap_or_default()
                }
            }
        })
    }
}
