//! The addresses of one host name. Owns the current which server addresses are no longer those of the name; makes no
//! lookups.

use super::CacheTimes;
use super::lookup::NameAnswer;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// References to an address without connections: that of the name.
const UNUSED_HOLDERS: usize = 1;

/// An address of a host name, shared by all connections to it on all workers.
#[derive(Debug)]
pub struct HostAddress {
    ip: IpAddr,
    is_old: AtomicBool,
}

impl HostAddress {
    /// True if the name does not have this address any more.
    pub fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Acquire)
    }
}

/// An address with connections.
struct Used {
    address: Arc<HostAddress>,
    /// Start time of the latest lookup that returned it.
    seen_at: Instant,
}

impl Used {
    fn connections(&self) -> usize {
        Arc::strong_count(&self.address).saturating_sub(UNUSED_HOLDERS)
    }
}

/// The result of the current lookup.
struct Current {
    started_at: Instant,
    addresses: Vec<IpAddr>,
}

impl Current {
    /// IPv4 and IPv6 are queried separately, and one query may fail alone: an answer without any address of a family
    /// is ignored for that family.
    fn lacks(&self, ip: IpAddr) -> bool {
        let has_family = self.addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4());
        has_family && !self.addresses.contains(&ip)
    }
}

#[derive(Default)]
struct HostState {
    /// Start time of the latest lookup that was due.
    started_at: Option<Instant>,
    /// True while a background lookup is under way.
    is_looking_up: bool,
    /// True if the last background lookup failed.
    has_failed: bool,
    /// When a lookup for a login failed, and why, unless another has succeeded since.
    failure: Option<(Instant, String)>,
    current: Option<Current>,
    used: Vec<Used>,
}

impl HostState {
    fn is_due(&self, now: Instant, max_ttl: Duration) -> bool {
        self.started_at.is_none_or(|at| now.saturating_duration_since(at) >= max_ttl)
    }

    fn failure_within(&self, now: Instant, ttl: Duration) -> Option<&str> {
        let (at, reason) = self.failure.as_ref()?;
        (now.saturating_duration_since(*at) < ttl).then_some(reason.as_str())
    }

    fn forget_unused(&mut self) {
        self.used.retain(|used| used.connections() > 0);
    }
}

/// How a lookup has changed the servers of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AddressChange {
    /// Addresses of servers that the name does not have any more.
    pub(super) old: Vec<IpAddr>,
    /// Addresses that it has.
    pub(super) new: Vec<IpAddr>,
    /// Number of servers at the old addresses.
    pub(super) servers: usize,
}

/// One name, for the whole process.
#[derive(Default)]
pub(super) struct HostName(Mutex<HostState>);

impl HostName {
    fn state(&self) -> MutexGuard<'_, HostState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before a lookup for a login. True if the current result has expired, so that this lookup will replace
    /// it.
    pub(super) fn begin(&self, now: Instant, max_ttl: Duration) -> bool {
        let mut state = self.state();
        let is_due = state.is_due(now, max_ttl);
        if is_due {
            state.started_at = Some(now);
        }
        is_due
    }

    /// The time of the latest lookup, if another one is due and there are servers.
    pub(super) fn due_since(&self, now: Instant, max_ttl: Duration) -> Option<Instant> {
        let state = self.state();
        let is_used = state.used.iter().any(|used| used.connections() > 0);
        state.started_at.filter(|_| is_used && !state.is_looking_up && state.is_due(now, max_ttl))
    }

    /// The current addresses, and for how long they are cached.
    pub(super) fn cached(&self, now: Instant, max_ttl: Duration) -> (Duration, Vec<IpAddr>) {
        let state = self.state();
        let age = state.started_at.map_or(max_ttl, |at| now.saturating_duration_since(at));
        let addresses = state.current.as_ref().map(|current| current.addresses.clone()).unwrap_or_default();
        (max_ttl.saturating_sub(age), addresses)
    }

    /// True if the name can be removed.
    pub(super) fn is_unused(&self, now: Instant, times: CacheTimes) -> bool {
        let mut state = self.state();
        state.forget_unused();
        state.used.is_empty()
            && state.is_due(now, times.max_ttl)
            && state.failure_within(now, times.failure_ttl).is_none()
    }

    /// Why a lookup has failed less than `ttl` ago.
    pub(super) fn failure_within(&self, now: Instant, ttl: Duration) -> Option<String> {
        self.state().failure_within(now, ttl).map(str::to_owned)
    }

    /// Records that a lookup for a login has failed.
    pub(super) fn record_failure(&self, at: Instant, reason: &str) {
        self.state().failure = Some((at, reason.to_owned()));
    }

    /// The next login makes a lookup.
    pub(super) fn forget_failure(&self) {
        self.state().failure = None;
    }

    pub(super) fn is_looking_up(&self) -> bool {
        self.state().is_looking_up
    }

    /// Marks the start of a background lookup.
    pub(super) fn begin_background_lookup(&self, now: Instant) {
        let mut state = self.state();
        state.started_at = Some(now);
        state.is_looking_up = true;
    }

    /// Marks the end of a background lookup.
    pub(super) fn end_background_lookup(&self) {
        self.state().is_looking_up = false;
    }

    /// Records a failed lookup, after which the previous result stays current. True unless the one before it had
    /// failed, too.
    pub(super) fn note_failure(&self) -> bool {
        !std::mem::replace(&mut self.state().has_failed, true)
    }

    /// Makes a result current and marks addresses that are not in it. An incomplete or outdated result is ignored.
    pub(super) fn apply(&self, answer: &NameAnswer, started_at: Instant) -> Option<AddressChange> {
        let mut state = self.state();
        state.has_failed = false;
        state.failure = None;
        let is_late = state.current.as_ref().is_some_and(|current| current.started_at >= started_at);
        if !answer.is_complete || is_late {
            return None;
        }
        let current = Current { started_at, addresses: answer.ips() };
        state.forget_unused();
        let (mut old, mut servers) = (Vec::new(), 0);
        for used in &mut state.used {
            let ip = used.address.ip;
            if current.addresses.contains(&ip) {
                used.seen_at = used.seen_at.max(started_at);
                used.address.is_old.store(false, Ordering::Release);
            } else if current.lacks(ip)
                && used.seen_at < started_at
                && !used.address.is_old.swap(true, Ordering::AcqRel)
            {
                old.push(ip);
                servers += used.connections();
            }
        }
        let new = current.addresses.clone();
        state.current = Some(current);
        (!old.is_empty()).then_some(AddressChange { old, new, servers })
    }

    /// Returns the shared address of a new connection, made after a lookup at this time.
    pub(super) fn connected(&self, ip: IpAddr, started_at: Instant) -> Arc<HostAddress> {
        let ip = ip.to_canonical();
        let mut state = self.state();
        state.forget_unused();
        // A login takes time: there may be a newer result by now.
        let newer = state.current.as_ref().filter(|current| current.started_at > started_at);
        let (is_decided, is_old) = (newer.is_some(), newer.is_some_and(|current| current.lacks(ip)));
        if let Some(used) = state.used.iter_mut().find(|used| used.address.ip == ip) {
            used.seen_at = used.seen_at.max(started_at);
            if !is_decided {
                used.address.is_old.store(false, Ordering::Release);
            }
            return used.address.clone();
        }
        let address = Arc::new(HostAddress { ip, is_old: AtomicBool::new(is_old) });
        state.used.push(Used { address: address.clone(), seen_at: started_at });
        address
    }
}
