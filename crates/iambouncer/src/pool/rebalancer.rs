//! What one worker does to get servers and room from the others. Owns the pace of its requests and the number of servers
//! that it is sending; `balance` decides and moves.

use super::directory::Directory;
use crate::limits::{Counter, Permit};
use crate::worker::workers::Workers;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Interval between requests for room in a full database.
const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// The requests of one pool at one worker.
pub(super) struct Rebalancer {
    workers: Workers<Directory>,
    /// Servers being moved to other workers.
    outgoing: Counter,
    /// True while a task retries for the waiting clients at short intervals.
    is_retrying: Cell<bool>,
    /// When another worker was last asked to make room, and which one, relative to this worker.
    room_requested_at: Cell<Option<Instant>>,
    room_requested_from: Cell<usize>,
}

impl Rebalancer {
    pub(super) fn new(workers: Workers<Directory>) -> Self {
        Self {
            workers,
            outgoing: Counter::default(),
            is_retrying: Cell::default(),
            room_requested_at: Cell::default(),
            room_requested_from: Cell::default(),
        }
    }

    /// Runs a job on another worker. One that has stopped or is overloaded cannot help; a server in the job is closed
    /// with it.
    pub(super) fn run_on(&self, worker: usize, job: impl FnOnce(&Rc<Directory>) + Send + 'static) {
        let _ = self.workers.run_on(worker, job);
    }

    /// A server leaves for another worker, and is counted until what is returned is dropped.
    pub(super) fn send(&self) -> Option<Permit> {
        self.outgoing.take(None)
    }

    /// Servers being moved to other workers.
    pub(super) fn outgoing(&self) -> usize {
        self.outgoing.taken() as usize
    }

    /// True for the caller that has to retry until [`Rebalancer::end_retrying`].
    pub(super) fn begin_retrying(&self) -> bool {
        !self.is_retrying.replace(true)
    }

    /// No client waits any more.
    pub(super) fn end_retrying(&self) {
        self.is_retrying.set(false);
    }

    /// True until the pause after the last request for room is over.
    pub(super) fn is_pausing(&self, now: Instant) -> bool {
        self.room_requested_at.get().is_some_and(|at| now.saturating_duration_since(at) < ROOM_PAUSE)
    }

    /// The worker to ask for room next, of `workers`: each in turn except `own`.
    pub(super) fn next_to_ask(&self, own: usize, workers: usize, now: Instant) -> usize {
        self.room_requested_at.set(Some(now));
        let next = 1 + self.room_requested_from.get() % (workers - 1);
        self.room_requested_from.set(next);
        (own + next) % workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::workers::WorkerSlot;

    #[test]
    fn the_other_workers_are_asked_in_turn() {
        let rebalancer = Rebalancer::new(WorkerSlot::<Directory>::create(1)[0].workers());
        let now = Instant::now();
        assert!(!rebalancer.is_pausing(now));
        let asked: Vec<_> = (0..4).map(|_| rebalancer.next_to_ask(1, 4, now)).collect();
        assert_eq!(asked, [2, 3, 0, 2]);
        assert!(rebalancer.is_pausing(now) && !rebalancer.is_pausing(now + ROOM_PAUSE));
    }
}
