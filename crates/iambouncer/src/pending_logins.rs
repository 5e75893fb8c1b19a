//! Connections that have not logged in yet, of all workers: in which order they came, and from where. Owns the order in
//! which they are closed when there is no room; it closes none itself, since each belongs to a worker.
//!
//! The lock is taken when a connection comes, has logged in, or leaves.

use crate::net::Endpoint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections beyond `max_client_conn` that may be logging in, cancelling or about to be turned away.
pub const UNAUTHENTICATED_SPARE: u32 = 100;
/// Places for logins that connections of a single address never take from all others.
const LEFT_TO_OTHERS: u32 = UNAUTHENTICATED_SPARE / 2;
/// Bits of an IPv6 address that name a network; its owner has all addresses in it.
const IPV6_NETWORK_BITS: u32 = 64;

/// Where a connection comes from, as far as it matters here.
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
    /// Where the other end of a connection is.
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

/// Where to find a connection that has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvictedLogin {
    /// The worker that has it.
    pub worker: usize,
    /// Its client's place in that worker's table; 0 if it has none yet.
    pub slot: u32,
}

/// What is known of a connection in both places.
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

/// All connections in login.
#[derive(Clone, Default)]
pub struct PendingLogins(Arc<Mutex<PendingTable>>);

impl PendingLogins {
    fn table(&self) -> MutexGuard<'_, PendingTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has come and goes to this worker.
    pub fn add(&self, origin: AddressGroup, worker: usize) -> PendingLogin {
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        let mark = Arc::new(PendingState::default());
        table.by_age.insert(number, PendingEntry { origin, worker, mark: mark.clone() });
        table.by_origin.entry(origin).or_default().insert(number);
        PendingLogin { logins: self.clone(), number, mark }
    }

    /// Takes out the one that has been in login longest.
    pub fn evict_oldest(&self) -> Option<EvictedLogin> {
        let mut table = self.table();
        let oldest = table.by_age.first_key_value().map(|(number, _)| *number);
        table.evict(oldest)
    }

    /// Takes out the oldest of an origin if that has as many as it may while `sessions` of `max_client_conn` are
    /// logged in. One that stays below `max_client_conn` altogether never meets this bound.
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

    /// Connections in login.
    pub fn len(&self) -> usize {
        self.table().by_age.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A connection's place among those in login; given up when it is dropped.
pub struct PendingLogin {
    logins: PendingLogins,
    number: u64,
    mark: Arc<PendingState>,
}

impl PendingLogin {
    /// Its worker has put it into its table.
    pub fn set_slot(&self, slot: u32) {
        self.mark.slot.store(slot, Ordering::Release);
    }

    /// For whoever has to know when it is lost.
    pub fn place(&self) -> PendingHandle {
        PendingHandle(self.mark.clone())
    }
}

/// A look at a place among those in login.
pub struct PendingHandle(Arc<PendingState>);

impl PendingHandle {
    /// It has to make room for another.
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
    fn the_one_that_has_been_in_login_longest_makes_room() {
        let logins = PendingLogins::default();
        let first = logins.add(origin("10.0.0.1:1"), 0);
        let second = logins.add(origin("10.0.0.2:1"), 3);
        first.set_slot(7);
        drop(logins.add(origin("10.0.0.3:1"), 1));
        assert_eq!(logins.evict_oldest(), Some(EvictedLogin { worker: 0, slot: 7 }));
        assert!(first.place().is_evicted() && !second.place().is_evicted());
        drop(second);
        assert_eq!(logins.evict_oldest(), None);
        assert!(logins.is_empty() && logins.table().by_origin.is_empty());
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let logins = PendingLogins::default();
        let attacker = origin("10.0.0.1:1");
        let most = 10 + LEFT_TO_OTHERS;
        let held: Vec<_> = (0..most).map(|_| logins.add(attacker, 0)).collect();
        assert_eq!(logins.evict_of(origin("10.0.0.2:1"), 10, 0), None);
        assert!(logins.evict_of(attacker, 10, 0).is_some());
        assert!(held[0].place().is_evicted() && !held[1].place().is_evicted());
        // One fewer now; with a client more that is logged in, it is too many again.
        assert_eq!(logins.evict_of(attacker, 10, 0), None);
        assert!(logins.evict_of(attacker, 10, 1).is_some());
    }

    #[test]
    fn neighbours_in_an_ipv6_network_are_one_origin() {
        assert_eq!(origin("[2001:db8::1]:1"), origin("[2001:db8::ffff]:2"));
        assert_ne!(origin("[2001:db8::1]:1"), origin("[2001:db8:0:1::1]:1"));
        assert_eq!(origin("[::ffff:10.0.0.1]:1"), origin("10.0.0.1:2"));
    }
}
