//! Host names that have servers are looked up again, once in `dns_max_ttl` for the whole process. Owns which are due, and
//! how many look-ups are under way at a time.

use super::HostNames;
use super::host::HostName;
use super::lookup::{NameQuery, NameSources};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Look-ups under way at a time; each may block a thread.
const MAX_LOOKUPS: usize = 16;

/// A look-up under way.
struct Asking(Arc<HostName>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asked();
    }
}

impl HostNames {
    /// Starts the look-ups that are due, and forgets names without servers. One worker calls it, every moment. With a
    /// `max_ttl` of 0 no answer is kept, so each login asks, and nothing is due besides.
    pub fn look_up_again(&self, control: &Handle, sources: &NameSources, max_ttl: Duration) {
        let now = Instant::now();
        for (name, follows_aliases, host) in self.due(now, max_ttl) {
            host.ask(now);
            let asking = Asking(host);
            let (names, sources) = (self.clone(), sources.clone());
            control.spawn(async move {
                let host = &asking.0;
                let question = NameQuery { sources, name: name.clone(), follows_aliases, is_anew: true };
                match question.ask().await {
                    Ok(answer) => names.take_over(&name, host, &answer, now),
                    // Servers are closed for what is known, not for what is not.
                    Err(error) if host.note_failure() => {
                        tracing::warn!(
                            host = name,
                            error,
                            "a host name cannot be looked up: its servers stay"
                        );
                    }
                    Err(_) => {}
                }
            });
        }
    }

    /// Those that have waited longest, as many as there is room for.
    fn due(&self, now: Instant, max_ttl: Duration) -> Vec<(String, bool, Arc<HostName>)> {
        let mut hosts = self.hosts();
        // A login or a look-up under way holds its name.
        hosts.retain(|_, host| Arc::strong_count(host) > 1 || !host.is_unused(now, max_ttl));
        if max_ttl.is_zero() {
            return Vec::new();
        }
        let under_way = hosts.values().filter(|host| host.is_asking()).count();
        let mut due: Vec<_> = hosts
            .iter()
            .filter_map(|(key, host)| Some((host.due_since(now, max_ttl)?, key.clone(), host.clone())))
            .collect();
        due.sort_unstable_by_key(|(asked_at, ..)| *asked_at);
        due.truncate(MAX_LOOKUPS.saturating_sub(under_way));
        due.into_iter().map(|(_, (name, follows_aliases), host)| (name, follows_aliases, host)).collect()
    }
}
