//! Places for cancel requests to other processes, the peers. Owns how many requests to a peer are under way in all
//! workers, which request gets the next place, and whether requests wait for it; sends nothing.

use crate::limits::{Counter, Permit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Requests that may wait for a place at one peer. More than that is a flood or a peer that is down.
const MAX_WAITING: u32 = 1000;
/// Connections to all addresses of `peer_host` together, so that a request with a made-up key, which is sent to all of
/// them, does not use up the open files.
const MAX_DISCOVERED_CONNECTIONS: usize = 256;

/// Number of places at each of these addresses of `peer_host`.
pub fn discovered_places(default_pool_size: u32, addresses: usize) -> u32 {
    let share = u32::try_from(MAX_DISCOVERED_CONNECTIONS / addresses.max(1)).unwrap_or(u32::MAX);
    default_pool_size.clamp(1, share.max(1))
}

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
    is_unreachable: AtomicBool,
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

    /// Waits for a place. `None` if too many requests wait already, or the peer is unreachable.
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
            if self.is_unreachable.load(Ordering::Acquire) {
                return None;
            }
            released.await;
        }
    }

    /// Records whether the last connection succeeded. While the peer is unreachable, requests take a free place and try
    /// it, but none waits: an address that is gone must not delay requests that others have handled.
    pub fn note_connection(&self, has_succeeded: bool) {
        let was_unreachable = self.is_unreachable.swap(!has_succeeded, Ordering::AcqRel);
        if !has_succeeded && !was_unreachable {
            self.released.notify_waiters();
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

/// A peer, as requests find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerKey {
    /// The number of a line of `[peers]`.
    Id(u16),
    /// An address of `peer_host`.
    Address(SocketAddr),
}

/// The pools of all peers. Only configured peers and current addresses have one, so their number is bounded.
#[derive(Default)]
pub struct PeerPools(Mutex<BTreeMap<PeerKey, Arc<PeerPool>>>);

impl PeerPools {
    /// The pool of a peer.
    pub fn of(&self, key: PeerKey) -> Arc<PeerPool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// Forgets all pools but those of these peers. Requests under way are completed.
    pub fn keep_only(&self, is_peer: impl Fn(&PeerKey) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| is_peer(key));
    }

    /// Forgets the pools of all addresses but these.
    pub fn keep_addresses(&self, current: &[SocketAddr]) {
        self.keep_only(|key| match key {
            PeerKey::Id(_) => true,
            PeerKey::Address(address) => current.contains(address),
        });
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
            let pool = pools.of(PeerKey::Id(1));
            let places = [pool.take(2).unwrap(), pool.take(2).unwrap()];
            assert!(
                pool.take(2).is_none()
                    && pools.of(PeerKey::Id(1)).take(2).is_none()
                    && pools.of(PeerKey::Id(2)).take(2).is_some()
            );
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
        let (kept, removed) = (pools.of(PeerKey::Id(1)), pools.of(PeerKey::Id(2)));
        pools.keep_only(|key| *key == PeerKey::Id(1));
        assert!(
            Arc::ptr_eq(&kept, &pools.of(PeerKey::Id(1)))
                && !Arc::ptr_eq(&removed, &pools.of(PeerKey::Id(2)))
        );
    }

    #[test]
    fn the_pools_of_addresses_that_are_gone_are_forgotten() {
        let pools = PeerPools::default();
        let [kept, gone] = [1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], 6432)));
        let of = |address| pools.of(PeerKey::Address(address));
        let (listed, first, second) = (pools.of(PeerKey::Id(1)), of(kept), of(gone));
        pools.keep_addresses(&[kept]);
        assert!(Arc::ptr_eq(&listed, &pools.of(PeerKey::Id(1))) && Arc::ptr_eq(&first, &of(kept)));
        assert!(!Arc::ptr_eq(&second, &of(gone)));
    }

    #[test]
    fn requests_for_an_unreachable_peer_do_not_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let pool = PeerPools::default().of(PeerKey::Id(1));
            let place = pool.take(1).unwrap();
            let waiter = tokio::spawn({
                let pool = pool.clone();
                async move { pool.wait(1).await.is_none() }
            });
            while pool.waiting.taken() < 1 {
                tokio::task::yield_now().await;
            }
            pool.note_connection(false);
            assert!(timeout(Duration::from_secs(5), waiter).await.unwrap().unwrap());
            assert!(pool.wait(1).await.is_none());
            drop(place);
            assert!(pool.wait(1).await.is_some(), "a free place is used to try again");
        });
    }
}
