//! Host names of servers, and that of the peers. Owns the known names, when a name is looked up again, and how pools detect changed
//! addresses: each server holds its address, and each pool checks its servers when the change counter has advanced.
//!
//! The locks are taken for lookups and new connections to servers, never for queries.

mod fresh;
mod host;
mod lookup;
#[cfg(test)]
mod tests;
mod watch;

pub use fresh::FreshAddresses;
pub use host::HostAddress;
pub use lookup::NameSources;

use host::{AddressChange, HostName};
use lookup::{MAX_ADDRESSES, NameAnswer, NameQuery};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A name, and whether its aliases are followed: the results may differ.
type NameKey = (String, bool);

/// How long results of lookups are used.
#[derive(Debug, Clone, Copy)]
pub struct CacheTimes {
    /// `dns_max_ttl`.
    pub max_ttl: Duration,
    /// `dns_nxdomain_ttl`.
    pub failure_ttl: Duration,
}

/// The host names of all workers.
#[derive(Clone, Default)]
pub struct HostNames(Arc<NameTable>);

#[derive(Default)]
struct NameTable {
    hosts: Mutex<HashMap<NameKey, Arc<HostName>>>,
    /// Number of results without an address that a server has.
    changes: AtomicU64,
}

/// The result of a lookup for a login.
pub struct NameRecord {
    host: Arc<HostName>,
    started_at: Instant,
    answer: NameAnswer,
}

impl NameRecord {
    /// The addresses, in the order of the answer.
    pub fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let with_port = |mut address: SocketAddr| {
            address.set_port(port);
            address
        };
        self.answer.addresses.iter().copied().map(with_port).collect()
    }

    /// The first RDS endpoint among the aliases of the name.
    pub fn rds_name(&self) -> Option<&String> {
        self.answer.rds_name.as_ref()
    }

    /// Registers a connection to one of the addresses. The returned value must live as long as the connection.
    pub fn connected(&self, ip: IpAddr) -> Arc<HostAddress> {
        self.host.connected(ip, self.started_at)
    }
}

impl HostNames {
    fn hosts(&self) -> MutexGuard<'_, HashMap<NameKey, Arc<HostName>>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, name: &str, follows_aliases: bool) -> Arc<HostName> {
        let key = (name.to_owned(), follows_aliases);
        self.hosts().entry(key).or_default().clone()
    }

    /// Looks up a name for a login, on the control runtime since the system's resolver blocks. Answers older than
    /// `times.max_ttl` are not used; a failure is repeated for `times.failure_ttl`.
    ///
    /// # Errors
    /// Why the name cannot be resolved.
    pub async fn look_up(
        &self,
        control: &Handle,
        sources: NameSources,
        (name, follows_aliases): (&str, bool),
        times: CacheTimes,
    ) -> Result<NameRecord, String> {
        let host = self.host(name, follows_aliases);
        let started_at = Instant::now();
        if let Some(reason) = host.failure_within(started_at, times.failure_ttl) {
            return Err(reason);
        }
        let is_due = host.begin(started_at, times.max_ttl);
        let query = NameQuery {
            sources,
            name: name.to_owned(),
            follows_aliases,
            bypasses_cache: is_due,
            max_addresses: MAX_ADDRESSES,
        };
        let result = control.spawn(query.run()).await;
        let answer = result
            .unwrap_or_else(|_| Err("lookup was aborted".to_owned()))
            .inspect_err(|reason| host.record_failure(Instant::now(), reason))?;
        host.forget_failure();
        if is_due {
            self.apply(name, &host, &answer, started_at);
        }
        Ok(NameRecord { host, started_at, answer })
    }

    /// Makes a result current. Servers at addresses that are not in it will be closed.
    fn apply(&self, name: &str, host: &HostName, answer: &NameAnswer, started_at: Instant) {
        let Some(AddressChange { old, new, servers }) = host.apply(answer, started_at) else { return };
        // After the marks on the addresses, so that a pool that sees the new count sees them, too.
        self.0.changes.fetch_add(1, Ordering::Release);
        tracing::info!(
            event = "addresses_changed",
            host = name,
            old = %list(&old),
            new = %list(&new),
            servers,
            "the address of a host name has changed: servers at the old address are closed on release"
        );
    }

    /// The cause of failed lookups may be gone.
    pub fn forget_failures(&self) {
        self.hosts().values().for_each(|host| host.forget_failure());
    }

    /// A counter that advances whenever servers may be at addresses that their names no longer have.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// The known names with their addresses, sorted by name, and the time for which they are cached.
    pub fn list(&self, now: Instant, max_ttl: Duration) -> Vec<(String, Duration, Vec<IpAddr>)> {
        let hosts = self.hosts();
        let mut all: Vec<_> = hosts
            .iter()
            .map(|((name, _), host)| {
                let (left, addresses) = host.cached(now, max_ttl);
                (name.clone(), left, addresses)
            })
            .collect();
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        all
    }

    /// Number of known names, and of background lookups under way.
    pub fn counts(&self) -> (usize, usize) {
        let hosts = self.hosts();
        (hosts.len(), hosts.values().filter(|host| host.is_looking_up()).count())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}
