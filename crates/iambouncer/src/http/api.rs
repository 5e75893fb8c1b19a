//! The API: the console's tables as JSON. Owns the encoding, and how many requests may wait for the workers; which tables
//! there are is decided by the console.

use super::body::{HttpResponse, JSON, response};
use crate::admin::{ColumnHeader, Console, Row, TableContents, TableName};
use crate::worker::workers::Workers;
use hyper::StatusCode;
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wire::encode::ColumnType;

/// Path of the list of tables, and the beginning of theirs.
pub(super) const ROOT: &str = "/api/v1";
/// Number of requests that may wait for the workers. One to a worker that is stuck keeps its place.
const MAX_FETCHES: usize = 8;
/// Time limit for the workers. They answer within their next iterations, so only a stuck one takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Rows of an answer, unless the request has another limit.
pub(super) const DEFAULT_ROWS: usize = 1000;
/// The highest limit that a request may have.
pub(super) const MAX_ROWS: usize = 100_000;

/// Why a table is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchError {
    /// Too many requests wait for the workers.
    Busy,
    /// A worker does not answer in time.
    Silent,
}

impl FetchError {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Busy => "too many requests wait for the workers",
            Self::Silent => "a worker does not answer",
        }
    }
}

/// Reads tables from the workers.
#[derive(Clone)]
pub(super) struct TableReader {
    consoles: Workers<Console>,
    places: Arc<Semaphore>,
}

impl TableReader {
    pub(super) fn new(consoles: Workers<Console>) -> Self {
        Self { consoles, places: Arc::new(Semaphore::new(MAX_FETCHES)) }
    }

    /// Tables with their rows, all read one after the other.
    pub(super) async fn read(&self, tables: Vec<TableName>) -> Result<Vec<TableContents>, FetchError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| FetchError::Busy)?;
        let question = self.consoles.question(0, move |console| {
            let console = console.clone();
            async move {
                let mut all = Vec::with_capacity(tables.len());
                for table in tables {
                    all.push(console.contents(table).await);
                }
                drop(place);
                all
            }
        });
        let answer = question.map_err(|_| FetchError::Silent)?;
        match timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(contents)) => Ok(contents),
            _ => Err(FetchError::Silent),
        }
    }

    /// The answer to a request for a table; `path` is what follows [`ROOT`].
    pub(super) async fn answer(&self, path: &str, query: Option<&str>) -> HttpResponse {
        let Some(name) = path.strip_prefix('/').filter(|name| !name.is_empty()) else {
            return response(StatusCode::OK, JSON, index());
        };
        let Some(table) = TableName::find(name) else {
            return error(StatusCode::NOT_FOUND, &format!("no such table; {ROOT} lists them"));
        };
        let limit = match limit(query) {
            Ok(limit) => limit,
            Err(reason) => return error(StatusCode::BAD_REQUEST, &reason),
        };
        match self.read(vec![table]).await {
            Ok(contents) => {
                encoded(move || {
                    let tables: Vec<LimitedTable> =
                        contents.into_iter().map(|contents| LimitedTable { contents, limit }).collect();
                    serde_json::to_vec(&tables.first())
                })
                .await
            }
            Err(reason) => error(StatusCode::SERVICE_UNAVAILABLE, reason.text()),
        }
    }
}

/// Encodes on another thread: probes and tokens must not wait for megabytes of text.
fn encoded(
    encode: impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static,
) -> impl Future<Output = HttpResponse> {
    let task = tokio::task::spawn_blocking(encode);
    async move {
        match task.await {
            Ok(Ok(text)) => response(StatusCode::OK, JSON, text),
            Ok(Err(_)) | Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the answer"),
        }
    }
}

/// An error as JSON.
pub(super) fn error(status: StatusCode, text: &str) -> HttpResponse {
    response(status, JSON, json!({ "error": text }).to_string())
}

/// The limit in a query.
fn limit(query: Option<&str>) -> Result<usize, String> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(DEFAULT_ROWS) };
    let value = query.strip_prefix("limit=").ok_or("the only parameter is limit")?;
    match value.parse() {
        Ok(limit) if (1..=MAX_ROWS).contains(&limit) => Ok(limit),
        _ => Err(format!("limit is a number from 1 to {MAX_ROWS}")),
    }
}

/// The list of tables.
fn index() -> String {
    let table = |table: TableName| {
        let names: Vec<&str> = table.columns().iter().map(|(name, _)| *name).collect();
        let path = format!("{ROOT}/{}", table.name());
        json!({ "name": table.name(), "path": path, "description": table.help(), "columns": names })
    };
    let tables: Vec<_> = TableName::all().map(table).collect();
    json!({ "version": env!("CARGO_PKG_VERSION"), "tables": tables, "stream": format!("{ROOT}/stream") })
        .to_string()
}

/// A table as JSON: `rows`, an object for each of the first rows, and `total`, their number in the table.
pub(super) struct LimitedTable {
    pub(super) contents: TableContents,
    pub(super) limit: usize,
}

impl Serialize for LimitedTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TableContents { columns, rows } = &self.contents;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("total", &rows.len())?;
        let shown = rows.get(..self.limit).unwrap_or(rows);
        map.serialize_entry("rows", &Rows { columns, rows: shown })?;
        map.end()
    }
}

struct Rows<'a> {
    columns: &'a [ColumnHeader],
    rows: &'a [Row],
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.rows.len()))?;
        for row in self.rows {
            list.serialize_element(&OneRow { columns: self.columns, row })?;
        }
        list.end()
    }
}

struct OneRow<'a> {
    columns: &'a [ColumnHeader],
    row: &'a Row,
}

impl Serialize for OneRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for ((name, kind), value) in self.columns.iter().zip(self.row) {
            map.serialize_key(name)?;
            match (kind, value.as_deref()) {
                (_, None) => map.serialize_value(&None::<()>)?,
                (ColumnType::Text, Some(text)) => map.serialize_value(text)?,
                (ColumnType::Int4 | ColumnType::Int8 | ColumnType::Numeric, Some(text)) => {
                    match text.parse::<i64>() {
                        Ok(number) => map.serialize_value(&number)?,
                        // Above 2^63; a reader gets the digits.
                        Err(_) => map.serialize_value(text)?,
                    }
                }
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_and_null_is_null() {
        let columns =
            vec![("name", ColumnType::Text), ("count", ColumnType::Int8), ("left", ColumnType::Int4)];
        let row = |count: &str| vec![Some("a\"<b>".to_owned()), Some(count.to_owned()), None];
        let contents = TableContents { columns, rows: vec![row("7"), row("18446744073709551615"), row("1")] };
        let text = serde_json::to_string(&LimitedTable { contents, limit: 2 }).unwrap();
        let expected = concat!(
            r#"{"total":3,"rows":[{"name":"a\"<b>","count":7,"left":null},"#,
            r#"{"name":"a\"<b>","count":"18446744073709551615","left":null}]}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!((limit(None), limit(Some("limit=5"))), (Ok(DEFAULT_ROWS), Ok(5)));
        for wrong in ["limit=0", "limit=100001", "limit=x", "limit=-1", "other=1"] {
            assert!(limit(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tables_for_drivers_are_not_in_the_api() {
        let names: Vec<String> = TableName::all().map(TableName::name).collect();
        assert!(names.contains(&"pools".to_owned()) && names.contains(&"login_failures".to_owned()));
        assert!(!names.contains(&"datestyle".to_owned()));
        let index: serde_json::Value = serde_json::from_str(&index()).unwrap();
        assert_eq!(index["tables"].as_array().unwrap().len(), names.len());
    }
}
