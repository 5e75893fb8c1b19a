//! The phase of the process: running, draining or stopping. Owns that state and the notification of changes.

use crate::worker::notify::Notify;
use std::cell::Cell;

/// Phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal operation.
    Running,
    /// No new clients; stops when the last one has disconnected (SHUTDOWN WAIT_FOR_CLIENTS, SIGTERM).
    WaitForClients,
    /// No new clients; stops when no server is in use (SHUTDOWN WAIT_FOR_SERVERS, SIGINT).
    WaitForServers,
    /// Stops now (SHUTDOWN, SIGQUIT, or a second signal).
    Now,
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

    /// Advances to `phase`. A repeated request to drain means now; phases never go back.
    pub fn advance(&self, phase: Phase) {
        let now = self.phase.get();
        let next = if now == phase && phase != Phase::Running { Phase::Now } else { phase.max(now) };
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
}
