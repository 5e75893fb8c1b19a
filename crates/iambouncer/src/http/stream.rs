//! The updates of open dashboards, as server-sent events. Owns one reader of the tables for all of them, which stops with the
//! last one, and the bound on their number. A dashboard that reads slowly gets the newest update when it is ready for one;
//! none is queued.

use super::api::{LimitedTable, TableReader, error};
use super::body::{HttpResponse, respond, with_header};
use super::places::HttpPlace;
use crate::admin::{Row, TableContents, TableName};
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{HeaderValue, RETRY_AFTER};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::cmp::Reverse;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Number of open dashboards.
pub(super) const MAX_STREAMS: usize = 8;
/// Time between two updates.
const PERIOD: Duration = Duration::from_secs(1);
/// Rows of each table in an update.
const MAX_ROWS: usize = 200;
/// The tables of an update.
pub(super) const TABLES: [&str; 13] = [
    "status",
    "problems",
    "pools",
    "databases",
    "waiting",
    "server_auth",
    "latencies",
    "stats_totals",
    "workers",
    "tokens",
    "secrets",
    "login_failures",
    "events",
];
/// Has the browser connect again two seconds after a connection has ended.
const PREAMBLE: &str = "retry: 2000\n\n";
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// All open dashboards.
pub(super) struct Streams {
    tables: TableReader,
    /// The newest update, while a reader runs.
    updates: Mutex<Option<watch::Sender<Bytes>>>,
}

impl Streams {
    pub(super) fn new(tables: TableReader) -> Arc<Self> {
        Arc::new(Self { tables, updates: Mutex::default() })
    }

    fn updates(&self) -> MutexGuard<'_, Option<watch::Sender<Bytes>>> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with updates until the connection ends.
    pub(super) fn open(self: &Arc<Self>, place: Arc<HttpPlace>) -> HttpResponse {
        let Some(updates) = self.subscribe() else {
            let refusal =
                error(StatusCode::SERVICE_UNAVAILABLE, &format!("{MAX_STREAMS} dashboards are already open"));
            return with_header(refusal, RETRY_AFTER, "10");
        };
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(forward(updates, sender));
        respond(StatusCode::OK, EVENT_STREAM, EventBody { events, place })
    }

    /// `None` if there are too many.
    fn subscribe(self: &Arc<Self>) -> Option<watch::Receiver<Bytes>> {
        let mut updates = self.updates();
        match &*updates {
            Some(sender) if sender.receiver_count() >= MAX_STREAMS => None,
            Some(sender) => {
                let mut receiver = sender.subscribe();
                // The last update is shown at once.
                receiver.mark_changed();
                Some(receiver)
            }
            None => {
                let (sender, receiver) = watch::channel(Bytes::new());
                *updates = Some(sender);
                tokio::spawn(self.clone().publish());
                Some(receiver)
            }
        }
    }

    /// Reads the tables every second, until no dashboard is open.
    async fn publish(self: Arc<Self>) {
        let names: Vec<TableName> = TABLES.iter().filter_map(|name| TableName::find(name)).collect();
        loop {
            let update = self.update(names.clone()).await;
            {
                let mut updates = self.updates();
                match &*updates {
                    Some(sender) if sender.receiver_count() > 0 => {
                        sender.send_replace(update);
                    }
                    _ => {
                        *updates = None;
                        return;
                    }
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn update(&self, names: Vec<TableName>) -> Bytes {
        let contents = match self.tables.read(names.clone()).await {
            Ok(contents) => contents,
            Err(reason) => return event("trouble", &serde_json::json!({ "error": reason.text() })),
        };
        let encode = move || {
            let tables = names.into_iter().map(TableName::name).zip(contents);
            event("update", &Update::of(tables.collect()))
        };
        let encoded = tokio::task::spawn_blocking(encode).await;
        encoded.unwrap_or_default()
    }
}

/// Tables by name, of which the first rows are sent, and sums over all rows.
struct Update {
    sums: Sums,
    tables: Vec<(String, LimitedTable)>,
}

/// Sums over the rows of all tables.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Sums {
    clients: u64,
    waiting: u64,
    servers: u64,
    queries_per_s: u64,
}

impl Update {
    fn of(mut tables: Vec<(String, TableContents)>) -> Self {
        let sum = |name: &str, column: &str| {
            let table = tables.iter().find(|(known, _)| known == name);
            table.map_or(0, |(_, contents)| sum_of(contents, column))
        };
        let sums = Sums {
            clients: sum("workers", "clients"),
            waiting: sum("pools", "cl_waiting"),
            servers: sum("workers", "servers"),
            queries_per_s: sum("latencies", "queries_per_s"),
        };
        if let Some((_, waiting)) = tables.iter_mut().find(|(name, _)| name == "waiting") {
            sort_by_wait(waiting);
        }
        let limited = |(name, contents)| (name, LimitedTable { contents, limit: MAX_ROWS });
        Self { sums, tables: tables.into_iter().map(limited).collect() }
    }
}

fn place_of(contents: &TableContents, column: &str) -> Option<usize> {
    contents.columns.iter().position(|(name, _)| *name == column)
}

fn number(row: &Row, place: Option<usize>) -> u64 {
    place.and_then(|place| row.get(place)?.as_deref()?.parse().ok()).unwrap_or(0)
}

fn sum_of(contents: &TableContents, column: &str) -> u64 {
    let place = place_of(contents, column);
    contents.rows.iter().map(|row| number(row, place)).sum()
}

/// The longest wait first: each worker has sent its own longest ones.
fn sort_by_wait(waiting: &mut TableContents) {
    let (seconds, micros) = (place_of(waiting, "wait"), place_of(waiting, "wait_us"));
    waiting.rows.sort_by_key(|row| Reverse((number(row, seconds), number(row, micros))));
}

impl Serialize for Update {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.tables.len() + 1))?;
        map.serialize_entry("sums", &self.sums)?;
        for (name, table) in &self.tables {
            map.serialize_entry(name, table)?;
        }
        map.end()
    }
}

/// An event; JSON has no line breaks.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned());
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Passes the newest update on whenever the connection has taken the one before.
async fn forward(mut updates: watch::Receiver<Bytes>, events: mpsc::Sender<Bytes>) {
    if events.send(Bytes::from_static(PREAMBLE.as_bytes())).await.is_err() {
        return;
    }
    while let Ok(place) = events.reserve().await {
        tokio::select! {
            changed = updates.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
        place.send(updates.borrow_and_update().clone());
    }
}

/// The body of a stream.
struct EventBody {
    events: mpsc::Receiver<Bytes>,
    place: Arc<HttpPlace>,
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.events.poll_recv(cx);
        if next.is_ready() {
            // A connection that takes updates is alive.
            self.place.extend();
        }
        next.map(|update| update.map(|update| Ok(Frame::data(update))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_an_update_exist() {
        assert!(TABLES.iter().all(|name| TableName::find(name).is_some()));
    }

    #[test]
    fn sums_are_of_all_rows_and_the_longest_wait_is_first() {
        use wire::encode::ColumnType::{Int4, Text};
        let text = |value: &str| Some(value.to_owned());
        let pools = TableContents {
            columns: vec![("database", Text), ("cl_waiting", Int4)],
            rows: (0..MAX_ROWS + 5).map(|_| vec![text("d"), text("2")]).collect(),
        };
        let waiting = TableContents {
            columns: vec![("wait", Int4), ("wait_us", Int4)],
            rows: vec![vec![text("9"), text("1")], vec![text("10"), text("0")], vec![text("9"), text("2")]],
        };
        let update = Update::of(vec![("pools".to_owned(), pools), ("waiting".to_owned(), waiting)]);
        assert_eq!(update.sums, Sums { waiting: 2 * (MAX_ROWS as u64 + 5), ..Sums::default() });
        let waits: Vec<_> =
            update.tables[1].1.contents.rows.iter().map(|row| row[0].clone().unwrap()).collect();
        assert_eq!(waits, ["10", "9", "9"]);
    }

    #[test]
    fn an_update_is_one_line() {
        let text = event("update", &serde_json::json!({ "text": "a\nb" }));
        assert_eq!(text, Bytes::from_static(b"event: update\ndata: {\"text\":\"a\\nb\"}\n\n"));
    }
}
