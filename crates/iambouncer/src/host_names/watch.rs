//! Repeated lookups of host names with servers, once per `dns_max_ttl` for the whole process. Owns which are due, and
//! the limit of concurrent lookups.

use super::host::HostName;
use super::lookup::{MAX_ADDRESSES, NameQuery, NameSources};
use super::{CacheTimes, HostNames};
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// Maximum number of concurrent lookups; each may block a thread.
const MAX_LOOKUPS: usize = 16;

/// A background lookup under way; ends when dropped.
struct LookupInProgress(Arc<HostName>);

impl Drop for LookupInProgress {
    fn drop(&mut self) {
        self.0.end_background_lookup();
    }
}

impl HostNames {
    /// Starts the lookups that are due and removes names without servers. Called periodically by one worker. With a
    /// `max_ttl` of 0 nothing is cached: each login makes a lookup, and no others are needed.
    pub fn look_up_again(&self, control: &Handle, sources: &NameSources, times: CacheTimes) {
        let now = Instant::now();
        for (name, follows_aliases, host) in self.due(now, times) {
            host.begin_background_lookup(now);
            let lookup = LookupInProgress(host);
            let (names, sources) = (self.clone(), sources.clone());
            control.spawn(async move {
                let host = &lookup.0;
                let query = NameQuery {
                    sources,
                    name: name.clone(),
                    follows_aliases,
                    bypasses_cache: true,
                    max_addresses: MAX_ADDRESSES,
                };
                match query.run().await {
                    Ok(answer) => names.apply(&name, host, &answer, now),
                    // A failed lookup is no reason to close servers.
                    Err(error) if host.note_failure() => {
                        tracing::warn!(
                            host = name,
                            error,
                            "cannot look up a host name: its servers are kept"
                        );
                    }
                    Err(_) => {}
                }
            });
        }
    }

    /// The lookups that have been due longest, up to the limit.
    fn due(&self, now: Instant, times: CacheTimes) -> Vec<(String, bool, Arc<HostName>)> {
        let mut hosts = self.hosts();
        // A login or a lookup under way holds its name.
        hosts.retain(|_, host| Arc::strong_count(host) > 1 || !host.is_unused(now, times));
        let max_ttl = times.max_ttl;
        if max_ttl.is_zero() {
            return Vec::new();
        }
        let under_way = hosts.values().filter(|host| host.is_looking_up()).count();
        let mut due: Vec<_> = hosts
            .iter()
            .filter_map(|(key, host)| Some((host.due_since(now, max_ttl)?, key.clone(), host.clone())))
            .collect();
        due.sort_unstable_by_key(|(started_at, ..)| *started_at);
        due.truncate(MAX_LOOKUPS.saturating_sub(under_way));
        due.into_iter().map(|(_, (name, follows_aliases), host)| (name, follows_aliases, host)).collect()
    }
}
