//! Host names of servers. Owns which names the process knows, when one is looked up anew, and how the pools learn that a
//! name has other addresses: each server holds its address, and each pool looks at its servers when the count of changes
//! has moved.
//!
//! The locks are taken when a name is looked up and when a connection to a server is made, never while queries flow.

mod host;
mod lookup;
#[cfg(test)]
mod tests;
mod watch;

pub use host::HostAddress;
pub use lookup::{MAX_ADDRESSES, NameSources};

use host::{AddressChange, HostName};
use lookup::{NameAnswer, NameQuery};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A name, and whether the names that it stands for are followed: the two may have different answers.
type NameKey = (String, bool);

/// The host names of all workers.
#[derive(Clone, Default)]
pub struct HostNames(Arc<NameTable>);

#[derive(Default)]
struct NameTable {
    hosts: Mutex<HashMap<NameKey, Arc<HostName>>>,
    /// Counts answers that lack an address of a server.
    changes: AtomicU64,
}

/// What a look-up for a login has found.
pub struct NameRecord {
    host: Arc<HostName>,
    asked_at: Instant,
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

    /// The first RDS endpoint among the names that the name stands for.
    pub fn rds_name(&self) -> Option<&String> {
        self.answer.rds_name.as_ref()
    }

    /// A connection was made to one of the addresses. What is returned lives as long as the connection.
    pub fn connected(&self, ip: IpAddr) -> Arc<HostAddress> {
        self.host.connected(ip, self.asked_at)
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

    /// Looks a name up for a login, on the control side: the system's resolver blocks. An answer older than `max_ttl` is
    /// not used.
    ///
    /// # Errors
    /// Why the name does not resolve.
    pub async fn look_up(
        &self,
        control: &Handle,
        sources: NameSources,
        (name, follows_aliases): (&str, bool),
        max_ttl: Duration,
    ) -> Result<NameRecord, String> {
        let host = self.host(name, follows_aliases);
        let asked_at = Instant::now();
        let is_due = host.begin(asked_at, max_ttl);
        let question = NameQuery { sources, name: name.to_owned(), follows_aliases, is_anew: is_due };
        let asked = control.spawn(question.ask()).await;
        let answer = asked.unwrap_or_else(|_| Err("lookup was given up".to_owned()))?;
        if is_due {
            self.take_over(name, &host, &answer, asked_at);
        }
        Ok(NameRecord { host, asked_at, answer })
    }

    /// An answer is in force from now on. Servers whose addresses it lacks have to go.
    fn take_over(&self, name: &str, host: &HostName, answer: &NameAnswer, asked_at: Instant) {
        let Some(AddressChange { old, new, servers }) = host.take_over(answer, asked_at) else { return };
        // After the marks at the addresses: whoever sees the count sees them.
        self.0.changes.fetch_add(1, Ordering::Release);
        tracing::info!(
            host = name,
            old = %list(&old),
            new = %list(&new),
            servers,
            "the address of a host name has changed: servers at the old address close as soon as they are free"
        );
    }

    /// Another value than before when servers may be at addresses that their names do not have any more.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Names that are known, and look-ups under way that no login waits for.
    pub fn counts(&self) -> (usize, usize) {
        let hosts = self.hosts();
        (hosts.len(), hosts.values().filter(|host| host.is_asking()).count())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}
