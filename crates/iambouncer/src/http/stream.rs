//! The updates of open dashboards, as server-sent events. Owns one reader of the tables for all of them, which stops with the
//! last one, and the bound on their number. A dashboard that reads slowly gets the newest update when it is ready for one;
//! none is queued.

use super::api::{LimitedTable, TableReader, error};
use super::body::{HttpResponse, respond, with_header};
use super::places::HttpPlace;
use crate::admin::TableName;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{HeaderValue, RETRY_AFTER};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
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
        loop {
            let update = self.update().await;
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

    async fn update(&self) -> Bytes {
        let names: Vec<TableName> = TABLES.iter().filter_map(|name| TableName::find(name)).collect();
        let contents = match self.tables.read(names.clone()).await {
            Ok(contents) => contents,
            Err(reason) => return event("trouble", &serde_json::json!({ "error": reason.text() })),
        };
        let tables = contents.into_iter().map(|contents| LimitedTable { contents, limit: MAX_ROWS });
        let update = Update(names.into_iter().map(TableName::name).zip(tables).collect());
        let encoded = tokio::task::spawn_blocking(move || event("update", &update)).await;
        encoded.unwrap_or_default()
    }
}

/// Tables by name.
struct Update(Vec<(String, LimitedTable)>);

impl Serialize for Update {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, table) in &self.0 {
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
    fn an_update_is_one_line() {
        let text = event("update", &serde_json::json!({ "text": "a\nb" }));
        assert_eq!(text, Bytes::from_static(b"event: update\ndata: {\"text\":\"a\\nb\"}\n\n"));
    }
}
