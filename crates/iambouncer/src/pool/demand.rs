//! Which workers need servers of a pool, and which have idle ones. Owns these figures, on one cache line per worker, and
//! the choice of the worker that gets a server; it moves none.

use super::shared::SharedPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Waiting clients elsewhere get a busy server first if they have waited twice as long and this much longer. Waits at
/// the workers of a busy machine differ by less than this by chance.
const MARGIN: Duration = Duration::from_millis(10);
/// A demand expires unless it is renewed within this time: its worker has what it needed, or is not getting CPU time.
const DEMAND_TTL: Duration = Duration::from_millis(4);

/// The demand and the idle servers of a worker, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Demand {
    /// Idle servers still needed from others.
    wanted: AtomicU32,
    /// Servers being moved to it.
    incoming: AtomicU32,
    /// Since when its first client waits, in µs since the process started.
    since_us: AtomicU64,
    /// When it last published its demand, in µs since the process started.
    published_us: AtomicU64,
    /// Idle servers it has.
    idle: AtomicU32,
}

impl Demand {
    /// Promises one idle server. False when all demand has been promised.
    fn promise(&self) -> bool {
        let wanted = &self.wanted;
        let one_less =
            wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |wanted| wanted.checked_sub(1));
        one_less.is_ok()
    }

    /// How long the first client has waited, if the demand has not expired.
    fn waited_us(&self, now_us: u64) -> Option<u64> {
        let is_fresh = now_us.saturating_sub(self.published_us.load(Ordering::Acquire)) <= micros(DEMAND_TTL);
        is_fresh.then(|| now_us.saturating_sub(self.since_us.load(Ordering::Acquire)))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

fn bit(worker: usize) -> u64 {
    1 << worker
}

/// True if clients elsewhere, the first of which has waited for `remote_us`, get a busy server on release before those
/// here, the first of which has waited for `local_us`.
fn takes_precedence(remote_us: u64, local_us: Option<u64>) -> bool {
    local_us.is_none_or(|local_us| remote_us >= 2 * local_us + micros(MARGIN))
}

/// The demands of all workers for servers of one pool.
pub(super) struct Demands {
    /// One bit for each worker that would take a server that becomes free.
    starving: AtomicU64,
    workers: Box<[Demand]>,
}

impl Demands {
    pub(super) fn new(workers: usize) -> Self {
        Self { starving: AtomicU64::new(0), workers: (0..workers).map(|_| Demand::default()).collect() }
    }

    /// Publishes the demand of a worker with `waiting` clients, the first of which waits since `since_us`. False if as
    /// many servers are on their way.
    pub(super) fn publish(&self, worker: usize, waiting: usize, since_us: Option<u64>, now_us: u64) -> bool {
        let demand = &self.workers[worker];
        // Logins under way are not counted: they may hang or be refused.
        let wanted = waiting.saturating_sub(demand.incoming.load(Ordering::Acquire) as usize);
        if wanted == 0 {
            return false;
        }
        if let Some(since_us) = since_us {
            demand.since_us.store(since_us, Ordering::Release);
        }
        demand.published_us.store(now_us, Ordering::Release);
        demand.wanted.store(wanted as u32, Ordering::Release);
        self.starving.fetch_or(bit(worker), Ordering::AcqRel);
        true
    }

    /// No client waits at a worker any more.
    pub(super) fn withdraw(&self, worker: usize) {
        self.workers[worker].wanted.store(0, Ordering::Release);
        self.starving.fetch_and(!bit(worker), Ordering::AcqRel);
    }

    /// True when another worker than this one needs servers. One load, at every release.
    #[inline]
    pub(super) fn are_elsewhere(&self, worker: usize) -> bool {
        self.starving.load(Ordering::Relaxed) & !bit(worker) != 0
    }

    /// Records how many idle servers a worker has.
    #[inline]
    pub(super) fn set_idle(&self, worker: usize, count: usize) {
        // On this worker's own cache line; other workers read it only when they are short of servers.
        self.workers[worker].idle.store(count as u32, Ordering::Release);
    }

    /// True when a worker has idle servers.
    pub(super) fn has_idle(&self, worker: usize) -> bool {
        self.workers[worker].idle.load(Ordering::Acquire) > 0
    }

    /// The same for any worker.
    pub(super) fn any_has_idle(&self) -> bool {
        (0..self.workers.len()).any(|worker| self.has_idle(worker))
    }

    /// Of these workers, the one that needs an idle server and whose first client has waited longest.
    pub(super) fn first_in_need(&self, workers: impl Iterator<Item = usize>) -> Option<usize> {
        workers
            .filter(|&worker| self.workers[worker].wanted.load(Ordering::Acquire) > 0)
            .min_by_key(|&worker| self.workers[worker].since_us.load(Ordering::Acquire))
    }

    /// Promises a worker one idle server. False if it needs no more.
    pub(super) fn promise(&self, worker: usize) -> bool {
        self.workers[worker].promise()
    }

    /// Of these workers, the one that gets a busy server on release, if its clients precede those here, the first of which
    /// has waited for `local_us`. One server per published demand.
    pub(super) fn take_precedence(
        &self,
        workers: impl Iterator<Item = usize>,
        now_us: u64,
        local_us: Option<u64>,
    ) -> Option<usize> {
        let starving = self.starving.load(Ordering::Acquire);
        let (remote_us, worker) = workers
            .filter(|&worker| starving & bit(worker) != 0)
            .filter_map(|worker| Some((self.workers[worker].waited_us(now_us)?, worker)))
            .max()?;
        let is_first = takes_precedence(remote_us, local_us)
            // Otherwise another worker was faster.
            && self.starving.fetch_and(!bit(worker), Ordering::AcqRel) & bit(worker) != 0;
        is_first.then_some(worker)
    }
}

/// A server being moved to a worker, counted there until this is dropped.
pub(super) struct InTransit {
    shared: Arc<SharedPool>,
    to: usize,
}

impl InTransit {
    pub(super) fn begin(shared: &Arc<SharedPool>, to: usize) -> Self {
        shared.demands.workers[to].incoming.fetch_add(1, Ordering::AcqRel);
        Self { shared: shared.clone(), to }
    }
}

impl Drop for InTransit {
    fn drop(&mut self) {
        self.shared.demands.workers[self.to].incoming.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_longer_waits_take_precedence() {
        assert!(takes_precedence(0, None));
        assert!(!takes_precedence(micros(MARGIN), Some(1)));
        assert!(takes_precedence(micros(MARGIN) + 2, Some(1)));
        // Equal waits never move a server, so it cannot go back and forth.
        for waited in [0, 10, 1_000_000] {
            assert!(!takes_precedence(waited, Some(waited)));
        }
    }

    #[test]
    fn promised_servers_do_not_exceed_the_demand() {
        let demand = Demand::default();
        demand.wanted.store(2, Ordering::Release);
        assert!(demand.promise() && demand.promise() && !demand.promise());
    }

    #[test]
    fn an_old_demand_expires() {
        let demand = Demand::default();
        demand.since_us.store(1_000, Ordering::Release);
        demand.published_us.store(20_000, Ordering::Release);
        assert_eq!(demand.waited_us(21_000), Some(20_000));
        assert_eq!(demand.waited_us(20_001 + micros(DEMAND_TTL)), None);
    }

    #[test]
    fn a_published_demand_gets_one_busy_server() {
        let demands = Demands::new(3);
        assert!(demands.publish(1, 1, Some(0), 20_000));
        assert!(demands.are_elsewhere(0) && !demands.are_elsewhere(1));
        assert_eq!(demands.take_precedence([1, 2].into_iter(), 20_000, Some(20_000)), None);
        assert_eq!(demands.take_precedence([1, 2].into_iter(), 20_000, None), Some(1));
        assert_eq!(demands.take_precedence([1, 2].into_iter(), 20_000, None), None);
        assert!(!demands.are_elsewhere(0));
    }

    #[test]
    fn servers_on_their_way_are_not_requested_again() {
        let demands = Demands::new(2);
        demands.workers[1].incoming.store(2, Ordering::Release);
        assert!(!demands.publish(1, 2, Some(0), 0) && demands.first_in_need(0..2).is_none());
        assert!(demands.publish(1, 3, Some(0), 0));
        assert_eq!(demands.first_in_need(0..2), Some(1));
        demands.withdraw(1);
        assert_eq!(demands.first_in_need(0..2), None);
    }
}
