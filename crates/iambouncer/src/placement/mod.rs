//! Which workers serve clients. Owns the number of active workers, the load of each, and what follows from them: which
//! worker gets a new client, when another worker joins, when one leaves, and which clients move. It moves nothing.
//!
//! With `workers = auto`, as few workers are active as the load needs: every additional one costs more than it saves as
//! long as another is not busy, since events that arrive together at one worker share a system call. A worker that is
//! busy gives a part of its active clients to one that is not, which may be one that joins now. A worker leaves when the
//! others have been sufficient for a while; its clients move as they become active, and its idle clients stay.

mod moves;

pub use moves::{MoveTicket, Moves};

use crate::limits::{Counter, Permit};
use crate::worker::load::ThreadLoad;
use crate::worker::workers::WorkerIndex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

/// The whole of a thread's time, as a load.
pub const FULL_LOAD: u32 = 1000;
/// Measurements in a row in which a worker is busy before clients move: a single one may be chance.
const BUSY_MEASUREMENTS: u32 = 2;
/// Time over which the mean load is measured that decides whether a worker leaves. Load comes in bursts, so neither the
/// highest nor the lowest load of some milliseconds says whether it is needed.
const LEAVING_PERIOD: Duration = Duration::from_secs(2);
/// Time between two workers that join, in which the first takes effect.
const JOINING_PAUSE: Duration = Duration::from_millis(10);
/// A load that was measured longer ago belongs to a worker that has had nothing to do since.
const LOAD_TTL: Duration = Duration::from_millis(500);
/// Number of clients that a worker may have more than another before new clients go to the other. Clients that connect
/// one after another, each after the last has left, should find the server that the last has used.
const TOLERATED_DIFFERENCE: u32 = 1;

/// The loads at which clients move.
#[derive(Debug, Clone, Copy)]
pub struct LoadLimits {
    /// From this load on, a worker is busy.
    busy: u32,
    /// Up to this load, it can take clients of a busy one.
    can_take_more: u32,
    /// A worker leaves if the remaining ones would have had less than this mean load each.
    after_leaving: u32,
}

impl LoadLimits {
    /// Those in use.
    pub const DEFAULT: Self = Self { busy: 850, can_take_more: 600, after_leaving: 500 };

    /// The same for a worker that is busy from `busy` on. Tests use it, since their load is small.
    #[cfg(debug_assertions)]
    pub fn from_busy(busy: u32) -> Self {
        let scaled = |limit: u32| limit * busy / Self::DEFAULT.busy;
        Self {
            busy,
            can_take_more: scaled(Self::DEFAULT.can_take_more),
            after_leaving: scaled(Self::DEFAULT.after_leaving),
        }
    }
}

/// What is known about a worker, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct WorkerLoad {
    /// Its clients.
    clients: Counter,
    /// Its load when it was last measured, of [`FULL_LOAD`].
    load: AtomicU32,
    /// In how many measurements in a row it has been busy.
    busy_for: AtomicU32,
    /// When it was measured, in µs since the process started.
    measured_us: AtomicU64,
    /// CPU time of its thread at that time, in µs.
    computed_us: AtomicU64,
}

/// The workers of the process.
pub struct Placement {
    limits: LoadLimits,
    began: Instant,
    /// How many are active without load.
    least: usize,
    /// The first of them are active.
    active: AtomicUsize,
    workers: Box<[WorkerLoad]>,
    /// The worker that got the last client.
    last_chosen: AtomicUsize,
    /// When a worker last joined, in µs since the process started.
    joined_us: AtomicU64,
    /// Since when the mean load is measured, likewise.
    period_began_us: AtomicU64,
    /// CPU time of all workers until then, in µs.
    computed_before_us: AtomicU64,
    /// Clients on their way to another worker.
    moving: Counter,
    /// Commands that clients must not move during.
    holds: Counter,
    /// A client has moved.
    has_moved: AtomicBool,
}

/// A part of a worker's active clients that is to move to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relief {
    /// The worker that takes them.
    pub to: usize,
    /// The part, of [`FULL_LOAD`].
    pub share: u32,
    /// It was not active before.
    pub joins: bool,
}

/// What a worker is to do after its load was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Stay,
    /// It is busy: a part of its active clients moves.
    Relieve(Relief),
    /// This worker has just left: its servers move, and its clients as they become active.
    Leave(usize),
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

impl Placement {
    /// `count` workers without clients, of which `least` are active without load.
    pub fn new(least: usize, count: usize, limits: LoadLimits, began: Instant) -> Self {
        Self {
            limits,
            began,
            least,
            active: AtomicUsize::new(least),
            workers: (0..count).map(|_| WorkerLoad::default()).collect(),
            last_chosen: AtomicUsize::new(0),
            joined_us: AtomicU64::new(0),
            period_began_us: AtomicU64::new(0),
            computed_before_us: AtomicU64::new(0),
            moving: Counter::default(),
            holds: Counter::default(),
            has_moved: AtomicBool::new(false),
        }
    }

    /// True if the number of active workers depends on the load.
    pub fn is_elastic(&self) -> bool {
        self.least < self.workers.len()
    }

    /// Number of active workers, at least one.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// True if new clients may be assigned to a worker.
    pub fn is_active(&self, worker: usize) -> bool {
        worker < self.active()
    }

    /// Chooses the worker for a new client. The permit is its place there.
    pub fn assign(&self, now: Instant) -> Option<(usize, Permit)> {
        let chosen = if self.is_elastic() { self.next_not_busy(now) } else { self.with_fewest_clients() };
        let chosen = chosen.min(self.workers.len() - 1);
        self.last_chosen.store(chosen, Ordering::Relaxed);
        Some((chosen, self.workers[chosen].clients.take(None)?))
    }

    /// The worker with the fewest clients, or the one that got the last client if it has hardly more.
    fn with_fewest_clients(&self) -> usize {
        let taken = |worker: &usize| self.workers[*worker].clients.taken();
        let fewest = (0..self.workers.len()).min_by_key(taken).unwrap_or_default();
        let last = self.last_chosen.load(Ordering::Relaxed);
        if taken(&last) <= taken(&fewest) + TOLERATED_DIFFERENCE { last } else { fewest }
    }

    /// The next one in turn of the active workers that can take more; if none can, of all active workers. Idle clients cost
    /// nothing, so their numbers do not count.
    fn next_not_busy(&self, now: Instant) -> usize {
        let (active, now_us) = (self.active(), self.micros_since(now));
        let last = self.last_chosen.load(Ordering::Relaxed);
        let in_turn = || (1..=active).map(|step| (last + step) % active);
        in_turn()
            .find(|worker| self.load(*worker, now_us) <= self.limits.can_take_more)
            .or_else(|| in_turn().next())
            .unwrap_or_default()
    }

    /// The worker for a client of one that has left.
    pub fn for_moved(&self, now: Instant) -> usize {
        let now_us = self.micros_since(now);
        (0..self.active()).min_by_key(|worker| self.load(*worker, now_us)).unwrap_or_default()
    }

    /// Clients of a worker.
    pub fn clients(&self, worker: usize) -> u32 {
        self.workers.get(worker).map_or(0, |worker| worker.clients.taken())
    }

    fn micros_since(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.began))
    }

    fn load(&self, worker: usize, now_us: u64) -> u32 {
        let worker = &self.workers[worker];
        let age_us = now_us.saturating_sub(worker.measured_us.load(Ordering::Acquire));
        if age_us > micros(LOAD_TTL) { 0 } else { worker.load.load(Ordering::Acquire) }
    }

    /// Records what a worker has measured over its last milliseconds.
    pub fn measured(&self, worker: WorkerIndex, measurement: ThreadLoad, now: Instant) -> Outcome {
        let ThreadLoad { load, computed } = measurement;
        let now_us = self.micros_since(now);
        let index = worker.index();
        let record = &self.workers[index];
        record.computed_us.store(micros(computed), Ordering::Release);
        record.load.store(load, Ordering::Release);
        record.measured_us.store(now_us, Ordering::Release);
        let busy_for = if load < self.limits.busy { 0 } else { record.busy_for.load(Ordering::Relaxed) + 1 };
        record.busy_for.store(busy_for, Ordering::Relaxed);
        if busy_for >= BUSY_MEASUREMENTS && self.is_active(index) {
            let relief = self.relief(index, load, now_us);
            if relief.is_some() {
                record.busy_for.store(0, Ordering::Relaxed);
            }
            return relief.map_or(Outcome::Stay, Outcome::Relieve);
        }
        self.leaving(now_us).map_or(Outcome::Stay, Outcome::Leave)
    }

    /// The relief for a busy worker: the active worker with the lowest load, or another one, which joins.
    fn relief(&self, busy: usize, load: u32, now_us: u64) -> Option<Relief> {
        let active = self.active();
        let others = (0..active).filter(|worker| *worker != busy);
        let lowest = others.map(|worker| (self.load(worker, now_us), worker)).min();
        if let Some((lowest, to)) = lowest.filter(|(lowest, _)| *lowest <= self.limits.can_take_more) {
            let share = FULL_LOAD * (load - lowest) / (2 * load);
            return Some(Relief { to, share, joins: false });
        }
        let joined_us = self.joined_us.load(Ordering::Acquire);
        let is_pausing = joined_us > 0 && now_us.saturating_sub(joined_us) < micros(JOINING_PAUSE);
        if active == self.workers.len() || is_pausing {
            return None;
        }
        self.active.compare_exchange(active, active + 1, Ordering::AcqRel, Ordering::Acquire).ok()?;
        self.joined_us.store(now_us.max(1), Ordering::Release);
        let _ = self.begin_period(now_us);
        Some(Relief { to: active, share: FULL_LOAD / 2, joins: true })
    }

    /// The worker that leaves now, if the others would have been sufficient in a period that has just ended.
    fn leaving(&self, now_us: u64) -> Option<usize> {
        let active = self.active();
        let passed_us = now_us.saturating_sub(self.period_began_us.load(Ordering::Acquire));
        if active == self.least || passed_us < micros(LEAVING_PERIOD) {
            return None;
        }
        let computed_us = self.begin_period(now_us)?;
        let mean_load = u64::from(FULL_LOAD) * computed_us / passed_us;
        if mean_load >= u64::from(self.limits.after_leaving) * (active as u64 - 1) {
            return None;
        }
        self.active.compare_exchange(active, active - 1, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(active - 1)
    }

    /// Begins a period in which the mean load is measured. Returns the CPU time of all workers in the last one, in µs;
    /// `None` if another worker has done so at the same time.
    fn begin_period(&self, now_us: u64) -> Option<u64> {
        let began_us = self.period_began_us.load(Ordering::Acquire);
        self.period_began_us.compare_exchange(began_us, now_us, Ordering::AcqRel, Ordering::Acquire).ok()?;
        // Idle clients of a worker that has left still cost it something.
        let computed_us = self.workers.iter().map(|worker| worker.computed_us.load(Ordering::Acquire)).sum();
        Some(computed_us - self.computed_before_us.swap(computed_us, Ordering::AcqRel).min(computed_us))
    }

    /// A client begins to move to a worker; counted until the ticket is dropped. `None` while a command holds moves back.
    pub fn begin_move(&self, to: usize) -> Option<MoveTicket> {
        let moving = self.moving.take(None)?;
        // Pairs with the fence in `hold_moves`: either this move is seen there, or the hold here.
        fence(Ordering::SeqCst);
        if self.holds.taken() > 0 {
            return None;
        }
        self.has_moved.store(true, Ordering::Release);
        let place = self.workers.get(to)?.clients.take(None)?;
        Some(MoveTicket { place, _moving: moving })
    }

    /// No further client moves until the permit is dropped; the caller waits while [`Placement::is_moving`].
    pub fn hold_moves(&self) -> Option<Permit> {
        let hold = self.holds.take(None);
        fence(Ordering::SeqCst);
        hold
    }

    /// True while a client is between two workers, and so in no table.
    pub fn is_moving(&self) -> bool {
        self.moving.taken() > 0
    }

    /// True if a client has ever moved: the worker named in its cancel key may not be the one that has it.
    pub fn has_moved(&self) -> bool {
        self.has_moved.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::workers::WorkerSlot;
    use std::cell::RefCell;

    /// Workers with the time at which each was measured last, in ms, and the CPU time that it has had until then, in µs.
    struct TestWorkers {
        placement: Placement,
        indexes: Vec<WorkerIndex>,
        began: Instant,
        computed: RefCell<Vec<(u64, u64)>>,
    }

    impl TestWorkers {
        fn new(least: usize, count: usize) -> Self {
            let began = Instant::now();
            let indexes = WorkerSlot::<()>::create(count).iter().map(WorkerSlot::index).collect();
            let placement = Placement::new(least, count, LoadLimits::DEFAULT, began);
            Self { placement, indexes, began, computed: RefCell::new(vec![(0, 0); count]) }
        }

        fn measured(&self, worker: usize, load: u32, at_ms: u64) -> Outcome {
            let mut computed = self.computed.borrow_mut();
            let (measured_ms, computed_us) = computed[worker];
            let computed_us = computed_us + (at_ms - measured_ms) * u64::from(load);
            computed[worker] = (at_ms, computed_us);
            let measurement = ThreadLoad { load, computed: Duration::from_micros(computed_us) };
            self.placement.measured(
                self.indexes[worker],
                measurement,
                self.began + Duration::from_millis(at_ms),
            )
        }
    }

    #[test]
    fn another_worker_joins_when_the_active_ones_are_busy() {
        let workers = TestWorkers::new(1, 4);
        assert_eq!(workers.measured(0, 990, 100), Outcome::Stay, "one measurement may be chance");
        let joins = |to| Outcome::Relieve(Relief { to, share: 500, joins: true });
        assert_eq!(workers.measured(0, 990, 105), joins(1));
        assert_eq!(workers.placement.active(), 2);
        // The new one takes its part first.
        assert_eq!(workers.measured(0, 990, 108), Outcome::Stay);
        workers.measured(1, 300, 110);
        let Outcome::Relieve(relief) = workers.measured(0, 900, 112) else { panic!("it is still busy") };
        assert_eq!((relief.to, relief.share, relief.joins), (1, 333, false));
        workers.measured(1, 900, 120);
        workers.measured(0, 900, 121);
        assert_eq!(workers.measured(0, 900, 126), joins(2));
    }

    #[test]
    fn a_worker_leaves_when_the_others_would_have_been_sufficient_for_a_while() {
        let workers = TestWorkers::new(1, 2);
        workers.measured(0, 990, 100);
        workers.measured(0, 990, 105);
        assert_eq!(workers.placement.active(), 2);
        for at_ms in (200..2100).step_by(100) {
            assert_eq!(workers.measured(0, 200, at_ms), Outcome::Stay, "{at_ms}");
        }
        assert_eq!(workers.measured(0, 200, 2105), Outcome::Leave(1));
        assert!(!workers.placement.is_active(1));
        // One is always active.
        for at_ms in (2200..9000).step_by(100) {
            assert_eq!(workers.measured(0, 0, at_ms), Outcome::Stay);
        }
    }

    #[test]
    fn a_worker_stays_while_the_mean_load_needs_it() {
        let workers = TestWorkers::new(1, 2);
        workers.measured(0, 990, 100);
        workers.measured(0, 990, 105);
        for at_ms in (200..9000).step_by(100) {
            // Every other measurement would be low enough.
            let load = if at_ms % 200 == 0 { 100 } else { 600 };
            assert_eq!(workers.measured(1, load, at_ms), Outcome::Stay, "{at_ms}");
            assert_eq!(workers.measured(0, load, at_ms), Outcome::Stay, "{at_ms}");
        }
        assert_eq!(workers.placement.active(), 2);
    }

    #[test]
    fn a_worker_leaves_although_there_are_moments_of_load() {
        let workers = TestWorkers::new(1, 2);
        workers.measured(0, 990, 100);
        workers.measured(0, 990, 105);
        let outcomes = (200..4000).step_by(100).flat_map(|at_ms| {
            let rest = workers.measured(0, 10, at_ms - 5);
            [rest, workers.measured(0, 800, at_ms)]
        });
        assert!(outcomes.into_iter().any(|outcome| outcome == Outcome::Leave(1)));
    }

    #[test]
    fn a_fixed_number_of_workers_is_always_active() {
        let workers = TestWorkers::new(3, 3);
        assert_eq!(workers.placement.active(), 3);
        for at_ms in 0..9000 {
            assert!(!matches!(workers.measured(0, 0, at_ms), Outcome::Leave(_)));
        }
    }

    #[test]
    fn clients_one_after_another_get_the_same_worker_and_many_are_spread() {
        let placement = Placement::new(2, 2, LoadLimits::DEFAULT, Instant::now());
        let now = Instant::now();
        let (first, place) = placement.assign(now).unwrap();
        // The last one may not have left completely when the next arrives.
        let (second, _place) = placement.assign(now).unwrap();
        drop(place);
        assert_eq!((first, second), (0, 0));
        let many: Vec<_> = (0..100).map_while(|_| placement.assign(now)).collect();
        assert_eq!(many.len(), 100);
        assert!(placement.clients(0).abs_diff(placement.clients(1)) <= 2);
    }

    #[test]
    fn new_clients_go_to_active_workers_that_are_not_busy() {
        let workers = TestWorkers::new(1, 4);
        let assigned = |at_ms: u64| {
            let at = workers.began + Duration::from_millis(at_ms);
            (0..6).filter_map(|_| workers.placement.assign(at)).map(|(worker, _)| worker).collect::<Vec<_>>()
        };
        assert_eq!(assigned(50), [0; 6]);
        workers.measured(0, 990, 100);
        workers.measured(0, 990, 105);
        assert_eq!(assigned(105), [1; 6], "the first is busy");
        workers.measured(1, 990, 106);
        assert_eq!(assigned(106), [0, 1, 0, 1, 0, 1], "both are");
    }

    #[test]
    fn no_client_moves_while_a_command_holds_moves_back() {
        let placement = Placement::new(1, 2, LoadLimits::DEFAULT, Instant::now());
        let ticket = placement.begin_move(1).unwrap();
        assert!(placement.is_moving() && placement.has_moved());
        let hold = placement.hold_moves();
        assert!(placement.begin_move(1).is_none());
        let place = ticket.arrive();
        assert!(!placement.is_moving());
        assert_eq!(placement.clients(1), 1);
        drop((hold, place));
        assert!(placement.begin_move(1).is_some());
    }
}
