//! Connections of all workers that have not logged in yet, by age and origin. Owns the order of eviction when there
//! is no room; closes no connection itself, since each belongs to a worker.
//!
//! The lock is taken when a connection is accepted, has logged in, or is closed.

use crate::net::Endpoint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections beyond `max_client_conn` that may be logging in, canceling or about to be rejected.
pub const UNAUTHENTICATED_SPARE: u32 = 100;
/// Login places that connections of a single address never take from others.
const LEFT_TO_OTHERS: u32 = UNAUTHENTICATED_SPARE / 2;
/// Bits of an IPv6 address that identify a network, whose owner has all addresses in it.
const IPV6_NETWORK_BITS: u32 = 64;

/// The origin of a connection, for the purpose of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressGroup {
    /// A UNIX socket.
    Local,
    /// An IPv4 address.
    Address(IpAddr),
    /// An IPv6 network.
    Network(u64),
}

impl AddressGroup {
    /// The origin of a connection with this remote endpoint.
    pub fn of(remote: &Endpoint) -> Self {
        match remote {
            Endpoint::Unix(_) => Self::Local,
            Endpoint::Tcp(address) => match address.ip().to_canonical() {
                IpAddr::V6(ip) if ip != Ipv6Addr::LOCALHOST => {
                    Self::Network((u128::from(ip) >> IPV6_NETWORK_BITS) as u64)
                }
                ip => Self::Address(ip),
            },
        }
    }
}

/// An evicted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvictedLogin {
    /// Its worker.
    pub worker: usize,
    /// The slot of its client in the worker's table; 0 if it has none yet.
    pub slot: u32,
}

/// State shared by a connection and the table.
#[derive(Debug, Default)]
struct PendingState {
    slot: AtomicU32,
    is_evicted: AtomicBool,
}

struct PendingEntry {
    origin: AddressGroup,
    worker: usize,
    mark: Arc<PendingState>,
}

#[derive(Default)]
struct PendingTable {
    last: u64,
    by_age: BTreeMap<u64, PendingEntry>,
    by_origin: HashMap<AddressGroup, BTreeSet<u64>>,
}

impl PendingTable {
    fn remove(&mut self, number: u64) -> Option<PendingEntry> {
        let found = self.by_age.remove(&number)?;
        if let Some(of_origin) = self.by_origin.get_mut(&found.origin) {
            of_origin.remove(&number);
            if of_origin.is_empty() {
                self.by_origin.remove(&found.origin);
            }
        }
        Some(found)
    }

    fn evict(&mut self, number: Option<u64>) -> Option<EvictedLogin> {
        let found = self.remove(number?)?;
        found.mark.is_evicted.store(true, Ordering::Release);
        Some(EvictedLogin { worker: found.worker, slot: found.mark.slot.load(Ordering::Acquire) })
    }
}

/// All connections that are logging in.
#[derive(Clone, Default)]
pub struct PendingLogins(Arc<Mutex<PendingTable>>);

impl PendingLogins {
    fn table(&self) -> MutexGuard<'_, PendingTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection that was assigned to this worker.
    pub fn add(&self, origin: AddressGroup, worker: usize) -> PendingLogin {
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        let mark = Arc::new(PendingState::default());
        table.by_age.insert(number, PendingEntry { origin, worker, mark: mark.clone() });
        table.by_origin.entry(origin).or_default().insert(number);
        PendingLogin { logins: self.clone(), number, mark }
    }

    /// Evicts the oldest connection.
    pub fn evict_oldest(&self) -> Option<EvictedLogin> {
        let mut table = self.table();
        let oldest = table.by_age.first_key_value().map(|(number, _)| *number);
        table.evict(oldest)
    }

    /// Evicts the oldest connection of an origin if it has reached its limit while `sessions` of `max_client_conn`
    /// are logged in. An origin with fewer than `max_client_conn` connections in total never reaches it.
    pub fn evict_of(
        &self,
        origin: AddressGroup,
        max_client_conn: u32,
        sessions: u32,
    ) -> Option<EvictedLogin> {
        let most = max_client_conn.saturating_sub(sessions) as usize + LEFT_TO_OTHERS as usize;
        let mut table = self.table();
        let of_origin = table.by_origin.get(&origin).filter(|numbers| numbers.len() >= most)?;
        let oldest = of_origin.first().copied();
        table.evict(oldest)
    }

    /// Number of connections that are logging in.
    pub fn len(&self) -> usize {
        self.table().by_age.len()
    }
}

/// A connection's place among those logging in; released when dropped.
pub struct PendingLogin {
    logins: PendingLogins,
    number: u64,
    mark: Arc<PendingState>,
}

impl PendingLogin {
    /// Sets its slot in the table of its worker.
    pub fn set_slot(&self, slot: u32) {
        self.mark.slot.store(slot, Ordering::Release);
    }

    /// A handle for detecting that it was evicted.
    pub fn place(&self) -> PendingHandle {
        PendingHandle(self.mark.clone())
    }
}

/// Detects the eviction of a pending login.
pub struct PendingHandle(Arc<PendingState>);

impl PendingHandle {
    /// True if it was evicted.
    pub fn is_evicted(&self) -> bool {
        self.0.is_evicted.load(Ordering::Acquire)
    }
}

impl Drop for PendingLogin {
    fn drop(&mut self) {
        self.logins.table().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> AddressGroup {
        AddressGroup::of(&Endpoint::Tcp(text.parse().unwrap()))
    }

    #[test]
    fn the_oldest_pending_login_is_evicted() {
        let logins = PendingLogins::default();
        let first = logins.add(origin("10.0.0.1:1"), 0);
        let second = logins.add(origin("10.0.0.2:1"), 3);
        first.set_slot(7);
        drop(logins.add(origin("10.0.0.3:1"), 1));
        assert_eq!(logins.evict_oldest(), Some(EvictedLogin { worker: 0, slot: 7 }));
        assert!(first.place().is_evicted() && !second.place().is_evicted());
        drop(second);
        assert_eq!(logins.evict_oldest(), None);
        assert!(logins.len() == 0 && logins.table().by_origin.is_empty());
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let logins = PendingLogins::default();
        let attacker = origin("10.0.0.1:1");
        let most = 10 + LEFT_TO_OTHERS;
        let held: Vec<_> = (0..most).map(|_| logins.add(attacker, 0)).collect();
        assert_eq!(logins.evict_of(origin("10.0.0.2:1"), 10, 0), None);
        assert!(logins.evict_of(attacker, 10, 0).is_some());
        assert!(held[0].place().is_evicted() && !held[1].place().is_evicted());
        // Now one fewer; with one more client logged in, it is too many again.
        assert_eq!(logins.evict_of(attacker, 10, 0), None);
        assert!(logins.evict_of(attacker, 10, 1).is_some());
    }

    #[test]
    fn addresses_of_an_ipv6_network_are_one_origin() {
        assert_eq!(origin("[2001:db8::1]:1"), origin("[2001:db8::ffff]:2"));
        assert_ne!(origin("[2001:db8::1]:1"), origin("[2001:db8:0:1::1]:1"));
        assert_eq!(origin("[::ffff:10.0.0.1]:1"), origin("10.0.0.1:2"));
    }
}
