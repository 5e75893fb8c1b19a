//! What all workers know about cancel requests: where wrong keys come from, and whether the keys of clients may have the
//! process IDs of servers. Owns the limit of wrong keys; knows no key.
//!
//! Without peers a key has 32 secret bits, and the process ID in it may be known. With this limit, guessing one takes
//! 2^31 attempts on average, which at ten per second are almost seven years. Requests that are under way when the limit is
//! reached are still compared: at most as many as there may be connections that have not logged in.

use crate::pending_logins::AddressGroup;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wrong keys that one source may send at once.
const MAX_WRONG_KEYS: u32 = 100;
/// Time after which it may send one more.
const WRONG_KEY_PERIOD: Duration = Duration::from_millis(100);
/// Sources of wrong keys that are remembered.
const MAX_SOURCES: usize = 4096;

/// Where a cancel request comes from, for the purpose of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CancelSource {
    /// An address or a network.
    Remote(AddressGroup),
    /// An account of the host, at a UNIX socket: one account cannot keep another one from canceling its queries.
    Account(u32),
}

/// State of the process.
#[derive(Default)]
pub struct CancelRequests {
    has_server_pids: AtomicBool,
    /// For each source of wrong keys, when all of them are forgotten.
    wrong: Mutex<HashMap<CancelSource, Instant>>,
}

impl CancelRequests {
    /// The key of a client has the process ID of its server, which does not say which worker has the client.
    pub fn note_server_pid(&self) {
        if !self.has_server_pids() {
            self.has_server_pids.store(true, Ordering::Release);
        }
    }

    /// True if there has been such a key.
    pub fn has_server_pids(&self) -> bool {
        self.has_server_pids.load(Ordering::Acquire)
    }

    fn wrong(&self) -> MutexGuard<'_, HashMap<CancelSource, Instant>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if this source has sent too many wrong keys: its key is not compared.
    pub fn admits(&self, source: CancelSource, now: Instant) -> bool {
        let latest = now + (MAX_WRONG_KEYS - 1) * WRONG_KEY_PERIOD;
        self.wrong().get(&source).is_none_or(|forgotten_at| *forgotten_at <= latest)
    }

    /// Counts a wrong key. If there are too many sources, the one that would be forgotten first makes room.
    pub fn record_wrong(&self, source: CancelSource, now: Instant) {
        let mut wrong = self.wrong();
        if wrong.len() >= MAX_SOURCES && !wrong.contains_key(&source) {
            wrong.retain(|_, forgotten_at| *forgotten_at > now);
            if wrong.len() >= MAX_SOURCES
                && let Some(first) = wrong.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source)
            {
                wrong.remove(&first);
            }
        }
        let forgotten_at = wrong.entry(source).or_insert(now);
        *forgotten_at = now.max(*forgotten_at) + WRONG_KEY_PERIOD;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;

    fn source(text: &str) -> CancelSource {
        CancelSource::Remote(AddressGroup::of(&Endpoint::Tcp(text.parse().unwrap())))
    }

    #[test]
    fn wrong_keys_are_limited_by_address_and_other_addresses_are_not_concerned() {
        let (requests, now) = (CancelRequests::default(), Instant::now());
        let (attacker, other) = (source("10.0.0.1:1"), source("10.0.0.2:1"));
        for _ in 0..MAX_WRONG_KEYS {
            assert!(requests.admits(attacker, now) && requests.admits(other, now));
            requests.record_wrong(attacker, now);
        }
        assert!(!requests.admits(source("10.0.0.1:2"), now));
        assert!(requests.admits(other, now) && requests.admits(CancelSource::Account(0), now));
        let later = now + WRONG_KEY_PERIOD;
        assert!(requests.admits(attacker, later));
        requests.record_wrong(attacker, later);
        assert!(!requests.admits(attacker, later));
        let much_later = now + 2 * MAX_WRONG_KEYS * WRONG_KEY_PERIOD;
        for _ in 0..MAX_WRONG_KEYS {
            assert!(requests.admits(attacker, much_later));
            requests.record_wrong(attacker, much_later);
        }
        assert!(!requests.admits(attacker, much_later));
    }

    #[test]
    fn a_network_is_one_source_and_accounts_are_several() {
        let (requests, now) = (CancelRequests::default(), Instant::now());
        for _ in 0..MAX_WRONG_KEYS {
            requests.record_wrong(source("[2001:db8::1]:1"), now);
            requests.record_wrong(CancelSource::Account(1000), now);
        }
        assert!(!requests.admits(source("[2001:db8::2]:1"), now));
        assert!(requests.admits(source("[2001:db8:0:1::1]:1"), now));
        assert!(!requests.admits(CancelSource::Account(1000), now));
        assert!(requests.admits(CancelSource::Account(1001), now));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_that_have_sent_most() {
        let (requests, now) = (CancelRequests::default(), Instant::now());
        let attacker = CancelSource::Account(u32::MAX);
        for _ in 0..MAX_WRONG_KEYS {
            requests.record_wrong(attacker, now);
        }
        for account in 0..2 * MAX_SOURCES as u32 {
            requests.record_wrong(CancelSource::Account(account), now);
        }
        assert_eq!(requests.wrong().len(), MAX_SOURCES);
        assert!(!requests.admits(attacker, now));
        // All but the attacker are forgotten by then, when one more comes.
        requests.record_wrong(CancelSource::Account(u32::MAX - 1), now + WRONG_KEY_PERIOD);
        assert_eq!(requests.wrong().len(), 2);
    }
}
