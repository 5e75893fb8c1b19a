//! The addresses of a name of which an old answer is of no use, that of the peers: one that has started a second ago
//! must be found. Owns its last addresses and the one lookup that is under way; connects to none.

use super::lookup::{NameQuery, NameSources};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Maximum number of addresses.
const MAX_FRESH_ADDRESSES: usize = 64;
/// Longest time for which an answer is used.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Time limit of a lookup, after which the last addresses are used.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
/// Period of lookups without a request, so that there are last addresses if a lookup fails.
const BACKGROUND_PERIOD: Duration = Duration::from_secs(15);

/// The latest lookup.
#[derive(Default)]
enum LatestLookup {
    #[default]
    None,
    UnderWay,
    Succeeded {
        started_at: Instant,
    },
    Failed {
        ended_at: Instant,
        reason: String,
    },
}

/// What a request for the addresses does.
enum NextStep {
    Use(Result<Arc<[IpAddr]>, String>),
    AwaitLookup,
    LookUp,
}

#[derive(Default)]
struct FreshState {
    latest: LatestLookup,
    /// True if the last complete lookup has failed.
    has_failed: bool,
    /// Those of the last successful lookup.
    ips: Arc<[IpAddr]>,
}

#[derive(Default)]
struct FreshTable {
    state: Mutex<FreshState>,
    ended: Notify,
}

/// The addresses of one name, for the whole process.
#[derive(Clone, Default)]
pub struct FreshAddresses(Arc<FreshTable>);

/// A lookup under way; one that is dropped has failed.
struct FreshLookup {
    table: Arc<FreshTable>,
    started_at: Instant,
    is_complete: bool,
}

impl FreshTable {
    fn state(&self) -> MutexGuard<'_, FreshState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FreshState {
    /// What to do at `now` with an answer that may be this old. Marks the start of a lookup.
    fn next(&mut self, now: Instant, max_age: Duration) -> NextStep {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < max_age;
        match &self.latest {
            LatestLookup::UnderWay => return NextStep::AwaitLookup,
            LatestLookup::Succeeded { started_at } if is_fresh(*started_at) => {
                return NextStep::Use(Ok(self.ips.clone()));
            }
            LatestLookup::Failed { ended_at, reason } if is_fresh(*ended_at) => {
                let is_known = !self.ips.is_empty();
                return NextStep::Use(is_known.then(|| self.ips.clone()).ok_or_else(|| reason.clone()));
            }
            _ => {}
        }
        self.latest = LatestLookup::UnderWay;
        NextStep::LookUp
    }
}

impl FreshAddresses {
    /// The addresses of the name, by a lookup that began less than a second before the call or later. If it fails, the
    /// last ones.
    ///
    /// # Errors
    /// Why the name cannot be resolved, if it never could.
    pub async fn current(
        &self,
        control: &Handle,
        sources: &NameSources,
        name: &str,
    ) -> Result<Arc<[IpAddr]>, String> {
        let asked_at = Instant::now();
        loop {
            let mut ended = pin!(self.0.ended.notified());
            // Registered before the state is read, so that an end in between is noticed.
            ended.as_mut().enable();
            let step = self.0.state().next(asked_at, MAX_AGE);
            match step {
                NextStep::Use(result) => return result,
                NextStep::AwaitLookup => {}
                NextStep::LookUp => self.look_up(control, sources.clone(), name),
            }
            ended.await;
        }
    }

    /// The last known addresses, of whatever age.
    pub fn last(&self) -> Arc<[IpAddr]> {
        self.0.state().ips.clone()
    }

    /// Starts a lookup if there was none for a while. Called periodically by one worker.
    pub fn keep_up_to_date(&self, control: &Handle, sources: &NameSources, name: &str) {
        let step = self.0.state().next(Instant::now(), BACKGROUND_PERIOD);
        if matches!(step, NextStep::LookUp) {
            self.look_up(control, sources.clone(), name);
        }
    }

    /// Runs on the control runtime, so that it is completed if its request is given up.
    fn look_up(&self, control: &Handle, sources: NameSources, name: &str) {
        let lookup = FreshLookup { table: self.0.clone(), started_at: Instant::now(), is_complete: false };
        let query = NameQuery {
            sources,
            name: name.to_owned(),
            follows_aliases: false,
            bypasses_cache: true,
            max_addresses: MAX_FRESH_ADDRESSES,
        };
        let name = name.to_owned();
        control.spawn(async move {
            let answer = tokio::time::timeout(LOOKUP_LIMIT, query.run()).await;
            let ips = answer.unwrap_or_else(|_| Err("timed out".to_owned())).map(|answer| answer.ips());
            lookup.end(&name, ips);
        });
    }
}

impl FreshLookup {
    fn end(mut self, name: &str, result: Result<Vec<IpAddr>, String>) {
        self.is_complete = true;
        let mut state = self.table.state();
        let had_failed = std::mem::replace(&mut state.has_failed, result.is_err());
        match result {
            Ok(ips) => {
                let had_maximum = state.ips.len() == MAX_FRESH_ADDRESSES;
                if ips.len() == MAX_FRESH_ADDRESSES && !had_maximum {
                    tracing::warn!(
                        host = name,
                        "peer_host has {MAX_FRESH_ADDRESSES} addresses or more: others receive no cancel requests"
                    );
                }
                if had_failed {
                    tracing::info!(host = name, addresses = ips.len(), "peer_host is resolved again");
                }
                state.ips = ips.into();
                state.latest = LatestLookup::Succeeded { started_at: self.started_at };
            }
            Err(reason) => {
                if !had_failed {
                    tracing::warn!(
                        host = name,
                        error = reason,
                        addresses = state.ips.len(),
                        "cannot look up peer_host: cancel requests are sent to its last known addresses"
                    );
                }
                state.latest = LatestLookup::Failed { ended_at: Instant::now(), reason };
            }
        }
    }
}

impl Drop for FreshLookup {
    fn drop(&mut self) {
        if !self.is_complete {
            let reason = "lookup was aborted".to_owned();
            self.table.state().latest = LatestLookup::Failed { ended_at: Instant::now(), reason };
        }
        self.table.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))];

    fn used(step: NextStep) -> Result<Vec<IpAddr>, String> {
        match step {
            NextStep::Use(result) => result.map(|ips| ips.to_vec()),
            NextStep::AwaitLookup => panic!("a lookup is under way"),
            NextStep::LookUp => panic!("a lookup is due"),
        }
    }

    /// A lookup that began at this time and has this result.
    fn complete(addresses: &FreshAddresses, at: Instant, result: Result<Vec<IpAddr>, String>) {
        assert!(matches!(addresses.0.state().next(at, MAX_AGE), NextStep::LookUp));
        FreshLookup { table: addresses.0.clone(), started_at: at, is_complete: false }.end("peers", result);
    }

    #[test]
    fn an_answer_is_used_for_a_second_from_the_start_of_its_lookup() {
        let addresses = FreshAddresses::default();
        let began = Instant::now();
        complete(&addresses, began, Ok(PEER.to_vec()));
        let next = |millis| addresses.0.state().next(began + Duration::from_millis(millis), MAX_AGE);
        assert_eq!(used(next(999)), Ok(PEER.to_vec()));
        assert!(matches!(next(1000), NextStep::LookUp));
        assert!(matches!(next(1000), NextStep::AwaitLookup), "one at a time");
        assert_eq!(*addresses.last(), PEER);
    }

    #[test]
    fn a_failed_lookup_leaves_the_last_addresses() {
        let addresses = FreshAddresses::default();
        let next = || addresses.0.state().next(Instant::now(), MAX_AGE);
        complete(&addresses, Instant::now(), Err("no such host".to_owned()));
        assert_eq!(used(next()), Err("no such host".to_owned()));
        let later = Instant::now() + MAX_AGE;
        complete(&addresses, later, Ok(PEER.to_vec()));
        complete(&addresses, later + MAX_AGE, Err("timed out".to_owned()));
        assert_eq!(used(next()), Ok(PEER.to_vec()));
    }

    #[test]
    fn a_lookup_that_is_dropped_has_failed() {
        let addresses = FreshAddresses::default();
        assert!(matches!(addresses.0.state().next(Instant::now(), MAX_AGE), NextStep::LookUp));
        drop(FreshLookup { table: addresses.0.clone(), started_at: Instant::now(), is_complete: false });
        assert_eq!(
            used(addresses.0.state().next(Instant::now(), MAX_AGE)),
            Err("lookup was aborted".to_owned())
        );
    }
}
