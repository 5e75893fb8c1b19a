//! Places for cancel requests to other processes, the peers. Owns how many requests to a peer are under way in all
//! workers, and which request gets the next place; sends nothing.

use crate::limits::{Counter, Permit};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Requests that may wait for a place at one peer. More than that is a flood or a peer that is down.
const MAX_WAITING: u32 = 1000;

/// Cancel requests under way to one peer.
#[derive(Default)]
pub struct PeerPool {
    /// Requests that wait for a place.
    pub waiting: Counter,
    /// Connections, including those that are being opened.
    pub connections: Counter,
    /// Connections on which a request was sent.
    pub sent: Counter,
    released: Notify,
}

/// A place for a request to a peer; returned when dropped.
pub struct PeerPlace {
    pool: Arc<PeerPool>,
    permit: Option<Permit>,
}

impl PeerPool {
    /// A place, if one of `size` is free.
    pub fn take(self: &Arc<Self>, size: u32) -> Option<PeerPlace> {
        let permit = self.connections.take(Some(size))?;
        Some(PeerPlace { pool: self.clone(), permit: Some(permit) })
    }

    /// Waits for a place. `None` if too many requests wait already.
    pub async fn wait(self: &Arc<Self>, size: u32) -> Option<PeerPlace> {
        if let Some(place) = self.take(size) {
            return Some(place);
        }
        let _waiting = self.waiting.take(Some(MAX_WAITING))?;
        loop {
            let mut released = pin!(self.released.notified());
            // Registered before the attempt, so that a place released in between is noticed.
            released.as_mut().enable();
            if let Some(place) = self.take(size) {
                return Some(place);
            }
            released.await;
        }
    }
}

impl PeerPlace {
    /// Counts the request as sent until the result is dropped.
    pub fn count_sent(&self) -> Option<Permit> {
        self.pool.sent.take(None)
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        self.permit = None;
        self.pool.released.notify_one();
    }
}

/// The pools of all peers. Only configured peers have one, so their number is bounded.
#[derive(Default)]
pub struct PeerPools(Mutex<BTreeMap<u16, Arc<PeerPool>>>);

impl PeerPools {
    /// The pool of a peer.
    pub fn of(&self, id: u16) -> Arc<PeerPool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    /// Forgets all pools but those of these peers. Requests under way are completed.
    pub fn keep_only(&self, is_peer: impl Fn(u16) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| is_peer(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[test]
    fn a_released_place_goes_to_a_request_that_waits() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let pools = PeerPools::default();
            let pool = pools.of(1);
            let places = [pool.take(2).unwrap(), pool.take(2).unwrap()];
            assert!(pool.take(2).is_none() && pools.of(1).take(2).is_none() && pools.of(2).take(2).is_some());
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move { pool.wait(2).await })
                })
                .collect();
            while pool.waiting.taken() < 2 {
                tokio::task::yield_now().await;
            }
            drop(places);
            for waiter in waiters {
                // Held until both have a place.
                std::mem::forget(timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap().unwrap());
            }
            assert_eq!((pool.waiting.taken(), pool.connections.taken()), (0, 2));
        });
    }

    #[test]
    fn the_pools_of_removed_peers_are_forgotten() {
        let pools = PeerPools::default();
        let (kept, removed) = (pools.of(1), pools.of(2));
        pools.keep_only(|id| id == 1);
        assert!(Arc::ptr_eq(&kept, &pools.of(1)) && !Arc::ptr_eq(&removed, &pools.of(2)));
    }
}
