//! The phase of the process: running, draining or stopping. Owns that state and the notification of changes.

use crate::worker::notify::Notify;
use std::cell::Cell;
use std::time::Instant;

/// Phase of the process. A later one includes what the earlier ones refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal operation.
    Running,
    /// No new clients; stops when the last one has disconnected (SHUTDOWN WAIT_FOR_CLIENTS; SIGTERM without
    /// `drain_max_seconds`).
    WaitForClients,
    /// Not ready any more, but everything is served until `drain_min_seconds` after this time (DRAIN, SIGTERM).
    DrainAnnounced(Instant),
    /// No new clients, only cancel requests; those that are connected are closed until `drain_max_seconds` after this time.
    Draining(Instant),
    /// No new clients; stops when no server is in use (SHUTDOWN WAIT_FOR_SERVERS, SIGINT).
    WaitForServers,
    /// Stops now (SHUTDOWN, SIGQUIT, or a second signal).
    Now,
}

impl Phase {
    /// True from the announcement of a drain until the process stops.
    pub fn is_drain(self) -> bool {
        matches!(self, Self::DrainAnnounced(_) | Self::Draining(_))
    }

    /// True while PAUSE and RESUME have a meaning.
    pub fn is_serving(self) -> bool {
        self == Self::Running || self.is_drain()
    }
}

/// The phase, shared by signals, console and the main task.
pub struct Lifecycle {
    phase: Cell<Phase>,
    /// Notified at every change, and when another configuration is activated.
    pub changed: Notify,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: Cell::new(Phase::Running), changed: Notify::default() }
    }
}

impl Lifecycle {
    /// The current phase.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Advances to `phase`. A repeated request to wait means now; phases never go back.
    pub fn advance(&self, phase: Phase) {
        let now = self.phase.get();
        let is_repeated = now == phase && matches!(phase, Phase::WaitForClients | Phase::WaitForServers);
        let next = if is_repeated { Phase::Now } else { phase.max(now) };
        self.phase.set(next);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_shutdown_request_means_now() {
        let life = Lifecycle::default();
        life.advance(Phase::WaitForClients);
        assert_eq!(life.phase(), Phase::WaitForClients);
        life.advance(Phase::WaitForServers);
        assert_eq!(life.phase(), Phase::WaitForServers);
        life.advance(Phase::WaitForClients);
        assert_eq!(life.phase(), Phase::WaitForServers);
        life.advance(Phase::WaitForServers);
        assert_eq!(life.phase(), Phase::Now);
    }

    #[test]
    fn a_drain_ends_a_wait_for_clients_and_is_not_repeated() {
        let (life, since) = (Lifecycle::default(), Instant::now());
        life.advance(Phase::WaitForClients);
        life.advance(Phase::Draining(since));
        life.advance(Phase::Draining(since));
        life.advance(Phase::DrainAnnounced(since));
        life.advance(Phase::WaitForClients);
        assert_eq!(life.phase(), Phase::Draining(since));
        life.advance(Phase::WaitForServers);
        assert_eq!(life.phase(), Phase::WaitForServers);
    }
}
