//! The limited connections of the HTTP server. Owns eviction: the oldest connection that has sent no request makes
//! room. Connections with a request are always answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time limit for a connection, including the transfer of the answer; a stream has it for each update. A connection
/// serves one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(20);

/// State of a connection.
#[derive(Default)]
struct HttpMark {
    has_requested: AtomicBool,
    evicted: Notify,
}

#[derive(Default)]
struct HttpTable {
    last: u64,
    by_age: BTreeMap<u64, Arc<HttpMark>>,
}

/// All connections.
pub(super) struct HttpPlaces {
    most: usize,
    table: Mutex<HttpTable>,
    freed: Notify,
}

impl HttpPlaces {
    /// A table with room for at most `most` connections.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default(), freed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, HttpTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, waiting until one is available.
    pub(super) async fn take(self: &Arc<Self>) -> HttpPlace {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_take() {
                return place;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<HttpPlace> {
        let mut table = self.table();
        if table.by_age.len() >= self.most {
            let silent = table.by_age.iter().find(|(_, mark)| !mark.has_requested.load(Ordering::Acquire));
            let oldest = silent.map(|(number, _)| *number)?;
            if let Some(mark) = table.by_age.remove(&oldest) {
                mark.evicted.notify_one();
            }
        }
        table.last += 1;
        let number = table.last;
        let mark = Arc::new(HttpMark::default());
        table.by_age.insert(number, mark.clone());
        let deadline = Mutex::new(Instant::now() + CONNECTION_LIMIT);
        Some(HttpPlace { places: self.clone(), number, mark, deadline })
    }
}

/// The place of one connection; freed when dropped.
pub(super) struct HttpPlace {
    places: Arc<HttpPlaces>,
    number: u64,
    mark: Arc<HttpMark>,
    deadline: Mutex<Instant>,
}

impl HttpPlace {
    fn deadline(&self) -> MutexGuard<'_, Instant> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the time limit again.
    pub(super) fn extend(&self) {
        *self.deadline() = Instant::now() + CONNECTION_LIMIT;
    }

    /// Waits until the time limit has passed.
    pub(super) async fn expired(&self) {
        loop {
            let deadline = *self.deadline();
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Records that a request has arrived.
    pub(super) fn mark_requested(&self) {
        self.mark.has_requested.store(true, Ordering::Release);
    }

    /// True if a request has arrived.
    pub(super) fn has_requested(&self) -> bool {
        self.mark.has_requested.load(Ordering::Acquire)
    }

    /// Waits until this connection is evicted.
    pub(super) async fn evicted(&self) {
        self.mark.evicted.notified().await;
    }
}

impl Drop for HttpPlace {
    fn drop(&mut self) {
        self.places.table().by_age.remove(&self.number);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_connection_without_a_request_is_evicted() {
        let places = HttpPlaces::new(3);
        let all: Vec<HttpPlace> = (0..3).map(|_| places.try_take().unwrap()).collect();
        all[0].mark_requested();
        let fourth = places.try_take().unwrap();
        assert!(!places.table().by_age.contains_key(&all[1].number));
        [&all[2], &fourth].iter().for_each(|place| place.mark_requested());
        assert!(places.try_take().is_none());
        drop(fourth);
        assert!(places.try_take().is_some());
    }
}
