//! Connections of the HTTP server, of which there are few. Owns who makes room: the one that has waited longest and asked
//! nothing. Those that have asked are answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What is known of a connection.
#[derive(Default)]
struct HttpMark {
    has_asked: AtomicBool,
    goes: Notify,
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
    /// Room for so many.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default(), freed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, HttpTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, as soon as there is one.
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
            let silent = table.by_age.iter().find(|(_, mark)| !mark.has_asked.load(Ordering::Acquire));
            let oldest = silent.map(|(number, _)| *number)?;
            if let Some(mark) = table.by_age.remove(&oldest) {
                mark.goes.notify_one();
            }
        }
        table.last += 1;
        let number = table.last;
        let mark = Arc::new(HttpMark::default());
        table.by_age.insert(number, mark.clone());
        Some(HttpPlace { places: self.clone(), number, mark })
    }
}

/// One connection's place.
pub(super) struct HttpPlace {
    places: Arc<HttpPlaces>,
    number: u64,
    mark: Arc<HttpMark>,
}

impl HttpPlace {
    /// A request has come.
    pub(super) fn ask(&self) {
        self.mark.has_asked.store(true, Ordering::Release);
    }

    /// Whether a request has come.
    pub(super) fn has_asked(&self) -> bool {
        self.mark.has_asked.load(Ordering::Acquire)
    }

    /// Waits until the place is wanted.
    pub(super) async fn is_wanted(&self) {
        self.mark.goes.notified().await;
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
    fn the_oldest_that_has_asked_nothing_makes_room() {
        let places = HttpPlaces::new(3);
        let all: Vec<HttpPlace> = (0..3).map(|_| places.try_take().unwrap()).collect();
        all[0].ask();
        let fourth = places.try_take().unwrap();
        assert!(!places.table().by_age.contains_key(&all[1].number));
        [&all[2], &fourth].iter().for_each(|place| place.ask());
        assert!(places.try_take().is_none());
        drop(fourth);
        assert!(places.try_take().is_some());
    }
}
