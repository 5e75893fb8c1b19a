//! The addresses of one host name. Owns which of the addresses that servers are connected to the name does not have any
//! more; asks nobody.

use super::lookup::NameAnswer;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Holders of an address that no connection uses: the name.
const UNUSED_HOLDERS: usize = 1;

/// An address of a host name, held by each connection to it, at whatever worker.
#[derive(Debug)]
pub struct HostAddress {
    ip: IpAddr,
    is_old: AtomicBool,
}

impl HostAddress {
    /// The name does not have this address any more.
    pub fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Acquire)
    }
}

/// An address to which there are connections.
struct Used {
    address: Arc<HostAddress>,
    /// When the latest answer that had it was asked for.
    seen_at: Instant,
}

impl Used {
    fn connections(&self) -> usize {
        Arc::strong_count(&self.address).saturating_sub(UNUSED_HOLDERS)
    }
}

/// The answer in force.
struct Decision {
    asked_at: Instant,
    addresses: Vec<IpAddr>,
}

impl Decision {
    /// The questions for IPv4 and IPv6 are two, and one of them may fail alone: an answer without any address of a family
    /// says nothing about that family.
    fn lacks(&self, ip: IpAddr) -> bool {
        let has_family = self.addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4());
        has_family && !self.addresses.contains(&ip)
    }
}

#[derive(Default)]
struct Known {
    /// When the latest look-up that was due began.
    asked_at: Option<Instant>,
    /// One is under way that no login waits for.
    is_asking: bool,
    /// The last one of that kind has failed.
    has_failed: bool,
    decision: Option<Decision>,
    used: Vec<Used>,
}

impl Known {
    fn is_due(&self, now: Instant, max_ttl: Duration) -> bool {
        self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= max_ttl)
    }

    fn forget_unused(&mut self) {
        self.used.retain(|used| used.connections() > 0);
    }
}

/// What an answer has changed for the servers of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AddressChange {
    /// Addresses that servers have and the name has not any more.
    pub(super) old: Vec<IpAddr>,
    /// Addresses that it has.
    pub(super) new: Vec<IpAddr>,
    /// Number of these servers.
    pub(super) servers: usize,
}

/// One name, for the whole process.
#[derive(Default)]
pub(super) struct HostName(Mutex<Known>);

impl HostName {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A login is about to look the name up. True when the answer of before has become too old: then this one is the
    /// answer in force.
    pub(super) fn begin(&self, now: Instant, max_ttl: Duration) -> bool {
        let mut known = self.known();
        let is_due = known.is_due(now, max_ttl);
        if is_due {
            known.asked_at = Some(now);
        }
        is_due
    }

    /// The time of the latest look-up, if another one is due and there are servers to close.
    pub(super) fn due_since(&self, now: Instant, max_ttl: Duration) -> Option<Instant> {
        let known = self.known();
        let is_used = known.used.iter().any(|used| used.connections() > 0);
        known.asked_at.filter(|_| is_used && !known.is_asking && known.is_due(now, max_ttl))
    }

    /// Nothing about it has to be remembered.
    pub(super) fn is_unused(&self, now: Instant, max_ttl: Duration) -> bool {
        let mut known = self.known();
        known.forget_unused();
        known.used.is_empty() && known.is_due(now, max_ttl)
    }

    pub(super) fn is_asking(&self) -> bool {
        self.known().is_asking
    }

    /// A look-up begins that no login waits for.
    pub(super) fn ask(&self, now: Instant) {
        let mut known = self.known();
        known.asked_at = Some(now);
        known.is_asking = true;
    }

    /// It has ended.
    pub(super) fn asked(&self) {
        self.known().is_asking = false;
    }

    /// It has failed: the answer of before stays in force. True when the one before it had not failed.
    pub(super) fn note_failure(&self) -> bool {
        !std::mem::replace(&mut self.known().has_failed, true)
    }

    /// Marks the addresses that a newer answer lacks. One that holds a part of the addresses only lacks none.
    pub(super) fn take_over(&self, answer: &NameAnswer, asked_at: Instant) -> Option<AddressChange> {
        let mut known = self.known();
        known.has_failed = false;
        let is_late = known.decision.as_ref().is_some_and(|decision| decision.asked_at >= asked_at);
        if !answer.is_complete || is_late {
            return None;
        }
        let decision = Decision { asked_at, addresses: answer.ips() };
        known.forget_unused();
        let (mut old, mut servers) = (Vec::new(), 0);
        for used in &mut known.used {
            let ip = used.address.ip;
            if decision.addresses.contains(&ip) {
                used.seen_at = used.seen_at.max(asked_at);
                used.address.is_old.store(false, Ordering::Release);
            } else if decision.lacks(ip)
                && used.seen_at < asked_at
                && !used.address.is_old.swap(true, Ordering::AcqRel)
            {
                old.push(ip);
                servers += used.connections();
            }
        }
        let new = decision.addresses.clone();
        known.decision = Some(decision);
        (!old.is_empty()).then_some(AddressChange { old, new, servers })
    }

    /// A connection was made to an address of an answer that was asked for at this time.
    pub(super) fn connected(&self, ip: IpAddr, asked_at: Instant) -> Arc<HostAddress> {
        let ip = ip.to_canonical();
        let mut known = self.known();
        known.forget_unused();
        // A login takes its time: there may be a newer answer by now.
        let newer = known.decision.as_ref().filter(|decision| decision.asked_at > asked_at);
        let (is_decided, is_old) = (newer.is_some(), newer.is_some_and(|decision| decision.lacks(ip)));
        if let Some(used) = known.used.iter_mut().find(|used| used.address.ip == ip) {
            used.seen_at = used.seen_at.max(asked_at);
            if !is_decided {
                used.address.is_old.store(false, Ordering::Release);
            }
            return used.address.clone();
        }
        let address = Arc::new(HostAddress { ip, is_old: AtomicBool::new(is_old) });
        known.used.push(Used { address: address.clone(), seen_at: asked_at });
        address
    }
}
