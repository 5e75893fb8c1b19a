//! Whether we are running, draining or ending. Owns that one state and who is told when it changes.

use crate::worker::notify::Notify;
use std::cell::Cell;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new clients; ends when the last one has left (SHUTDOWN WAIT_FOR_CLIENTS, SIGTERM).
    WaitForClients,
    /// No new clients; ends when the last server is free (SHUTDOWN WAIT_FOR_SERVERS, SIGINT).
    WaitForServers,
    /// Ends now (SHUTDOWN, SIGQUIT, or a second signal).
    Now,
}

/// The phase, shared by signals, console and the main task.
pub struct Lifecycle {
    phase: Cell<Phase>,
    /// Told at every change, and when another configuration is in force.
    pub changed: Notify,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: Cell::new(Phase::Running), changed: Notify::default() }
    }
}

impl Lifecycle {
    /// Where we are.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to `phase`. Asking twice to drain means now; there is no way back.
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
    fn asking_twice_means_now() {
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
