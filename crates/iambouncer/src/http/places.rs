//! Connections of the HTTP server, of which there are few. Owns who makes room: the one that has waited longest and asked
//! nothing. Those that have asked are answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What is known of a connection.
#[derive(Default)]
struct Mark {
    has_asked: AtomicBool,
    goes: Notify,
}

#[derive(Default)]
struct Table {
    last: u64,
    by_age: BTreeMap<u64, Arc<Mark>>,
}

/// All connections.
pub(super) struct Places {
    most: usize,
    table: Mutex<Table>,
    freed: Notify,
}

impl Places {
    /// Room for so many.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default(), freed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, as soon as there is one.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_take() {
                return place;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
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
        let mark = Arc::new(Mark::default());
        table.by_age.insert(number, mark.clone());
        Some(Place { places: self.clone(), number, mark })
    }
}

/// One connection's place.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    mark: Arc<Mark>,
}

impl Place {
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

impl Drop for Place {
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
        let places = Places::new(3);
        let all: Vec<Place> = (0..3).map(|_| places.try_take().unwrap()).collect();
        all[0].ask();
        let fourth = places.try_take().unwrap();
        assert!(!places.table().by_age.contains_key(&all[1].number));
        [&all[2], &fourth].iter().for_each(|place| place.ask());
        assert!(places.try_take().is_none());
        drop(fourth);
        assert!(places.try_take().is_some());
    }
}
