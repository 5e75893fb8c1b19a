//! Closing clients between their transactions, spread over a period, so that they do not all reconnect in the same
//! moment. Owns which client is asked to leave when; its own task closes it. Draining and RECONNECT_CLIENTS use this.

use super::{ClientInfo, ClientState, ClientTable};
use crate::client_error::{self, ClientError};
use crate::client_identity::Replication;
use crate::worker::workers::WorkerIndex;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Time between two steps.
pub const STEP: Duration = Duration::from_millis(100);
/// A client that has been quiet for this long is hardly about to send its next request, so it may be closed without
/// having sent one. Any other is closed with its next answer. More than the half second after which HikariCP checks a
/// connection before its next use.
pub const QUIET: Duration = Duration::from_millis(700);
/// Time that is kept free at the end of a period.
const MARGIN: Duration = Duration::from_secs(1);
/// A short period keeps this part free.
const MARGIN_PARTS: u32 = 5;

/// Whether a client is to be closed between two transactions, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It stays.
    NotRequested,
    /// The process drains.
    Drain,
    /// RECONNECT_CLIENTS.
    Reconnect,
}

impl Departure {
    /// What the client receives.
    pub fn error(self) -> ClientError {
        match self {
            Self::NotRequested | Self::Drain => client_error::shutting_down(),
            Self::Reconnect => client_error::killed(),
        }
    }
}

/// The period over which clients are closed.
#[derive(Debug, Clone, Copy)]
pub struct DeparturePeriod {
    /// When it begins.
    pub begin: Instant,
    /// When the last client has left.
    pub end: Instant,
}

impl DeparturePeriod {
    /// The part of it that has passed, without the margin at its end: from 0 to 1.
    fn progress(&self, now: Instant) -> f64 {
        let length = self.end.saturating_duration_since(self.begin);
        let length = length.saturating_sub(MARGIN.min(length / MARGIN_PARTS));
        if length.is_zero() {
            return 1.0;
        }
        (now.saturating_duration_since(self.begin).as_secs_f64() / length.as_secs_f64()).min(1.0)
    }
}

/// The clients of one worker that are to leave.
pub struct Departures {
    reason: Departure,
    /// Shifts the moments of this worker, so that workers with one client each do not all close it at the same time.
    shift: f64,
    requested: usize,
}

impl Departures {
    /// No client has been asked yet.
    pub fn new(reason: Departure, worker: WorkerIndex) -> Self {
        let shift = (worker.index() as f64 + 0.5) / worker.count() as f64;
        Self { reason, shift, requested: 0 }
    }

    /// How many clients are to be asked now, of those that have not been asked.
    fn due(&self, not_asked: usize, progress: f64) -> usize {
        let total = (self.requested + not_asked) as f64;
        let target = if progress >= 1.0 { total } else { (total * progress + self.shift).floor().min(total) };
        (target as usize).saturating_sub(self.requested)
    }

    /// Asks the clients that are due, those first that have been quiet for longest, and wakes those asked earlier that
    /// are quiet now.
    pub fn step(
        &mut self,
        clients: &ClientTable,
        is_chosen: impl Fn(&ClientInfo) -> bool,
        period: &DeparturePeriod,
        now: Instant,
    ) {
        let mut not_asked: Vec<Rc<ClientInfo>> = Vec::new();
        for client in clients.list() {
            match client.departure() {
                Departure::NotRequested if can_leave(&client) && is_chosen(&client) => not_asked.push(client),
                Departure::NotRequested => {}
                _ if is_quiet(&client, now) => client.wake(),
                _ => {}
            }
        }
        let due = self.due(not_asked.len(), period.progress(now));
        if due == 0 {
            return;
        }
        not_asked.sort_by_cached_key(|client| {
            (!is_quiet(client, now), !is_between_transactions(client), client.timing.get().quiet_since)
        });
        for client in not_asked.iter().take(due) {
            client.request_departure(self.reason);
            if is_quiet(client, now) {
                client.wake();
            }
        }
        self.requested += due;
    }
}

/// True for a session. The console is not asked, and a replication connection has no transactions.
fn can_leave(client: &ClientInfo) -> bool {
    client.pool.get().is_some() && client.identity().replication == Replication::No
}

/// True if nothing is under way for the client. It may have a server, in session pooling.
fn is_between_transactions(client: &ClientInfo) -> bool {
    let timing = client.timing.get();
    matches!(client.state.get(), ClientState::Idle | ClientState::Active)
        && timing.query_at.is_none()
        && timing.transaction_at.is_none()
}

fn is_quiet(client: &ClientInfo, now: Instant) -> bool {
    is_between_transactions(client) && now.saturating_duration_since(client.timing.get().quiet_since) >= QUIET
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps, of 100, in which clients are asked.
    fn moments(worker: usize, workers: usize, clients: usize) -> Vec<usize> {
        let shift = (worker as f64 + 0.5) / workers as f64;
        let mut departures = Departures { reason: Departure::Drain, shift, requested: 0 };
        let mut moments = Vec::new();
        for step in 0..=100 {
            let due = departures.due(clients - departures.requested, step as f64 / 100.0);
            departures.requested += due;
            moments.extend(std::iter::repeat_n(step, due));
        }
        moments
    }

    #[test]
    fn departures_are_spread_evenly_also_over_workers() {
        assert_eq!(moments(0, 1, 4), [13, 38, 63, 88]);
        assert_eq!(moments(0, 2, 1), [75]);
        assert_eq!(moments(1, 2, 1), [25]);
        assert!(moments(0, 1, 0).is_empty());
        let many = moments(0, 1, 1000);
        assert_eq!(many.len(), 1000);
        assert!((1..100).all(|step| many.iter().filter(|at| **at == step).count() == 10));
    }

    #[test]
    fn clients_that_leave_by_themselves_make_others_stay_longer() {
        let departures = Departures { reason: Departure::Drain, shift: 0.5, requested: 5 };
        assert_eq!(departures.due(5, 0.6), 1);
        assert_eq!(departures.due(2, 0.6), 0);
        assert_eq!(departures.due(2, 1.0), 2);
    }

    #[test]
    fn a_margin_is_kept_at_the_end() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let period = DeparturePeriod { begin, end: after(11) };
        assert_eq!(period.progress(after(5)), 0.5);
        assert_eq!(period.progress(after(10)), 1.0);
        assert_eq!(DeparturePeriod { begin, end: begin }.progress(begin), 1.0);
    }
}
