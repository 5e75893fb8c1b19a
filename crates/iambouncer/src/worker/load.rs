//! How busy this thread is. Owns the measurement of its CPU time over short periods in which it runs, and of its longest
//! turn; a thread that sleeps is not woken for it.

use super::cpu_time;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// Length of a period. Longer than a scheduler keeps a thread waiting that shares a core, several times.
const PERIOD: Duration = Duration::from_millis(5);
/// The result for a thread that has computed all the time.
const FULL: u128 = 1000;

/// What a thread has computed.
#[derive(Debug, Clone, Copy)]
pub struct ThreadLoad {
    /// The part of the last period in which it has computed, from 0 to 1000.
    pub load: u32,
    /// Its CPU time since it started.
    pub computed: Duration,
}

type Observer = Box<dyn FnMut(ThreadLoad)>;

/// The current period.
#[derive(Clone, Copy)]
struct Period {
    began: Instant,
    /// The CPU time of the thread at its beginning.
    cpu: Duration,
}

/// The turns since they were asked for: what the thread computes between two waits.
#[derive(Clone, Copy)]
struct Turns {
    /// The CPU time of the thread at the beginning of the current turn.
    began: Duration,
    longest: Duration,
}

impl Turns {
    /// The current turn ends at this CPU time.
    fn end(self, cpu: Duration) -> Self {
        Self { began: cpu, longest: self.longest.max(cpu.saturating_sub(self.began)) }
    }
}

thread_local! {
    /// `None` until they are asked for: each turn reads the CPU time once more.
    static TURNS: Cell<Option<Turns>> = const { Cell::new(None) };
    static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
    static PERIOD_BEGAN: Cell<Option<Period>> = const { Cell::new(None) };
}

/// Calls `observer` at the end of each period. A thread that waits for a core does not compute: another thread would have
/// to wait for it as well.
pub fn observe(observer: impl FnMut(ThreadLoad) + 'static) {
    OBSERVER.set(Some(Box::new(observer)));
    PERIOD_BEGAN.set(Some(Period { began: super::now(), cpu: cpu_time() }));
}

/// The CPU time of the longest turn since the previous call, and so for how long others waited for this thread; `None`
/// at the first call.
pub fn take_longest_turn() -> Option<Duration> {
    let cpu = cpu_time();
    let before = TURNS.replace(Some(Turns { began: cpu, longest: Duration::ZERO }))?;
    Some(before.end(cpu).longest)
}

/// Called before each wait.
#[inline]
pub(super) fn before_wait() {
    if TURNS.get().is_some() {
        end_turn();
    }
}

#[cold]
fn end_turn() {
    TURNS.set(TURNS.get().map(|turns| turns.end(cpu_time())));
}

/// Called after each wait.
#[inline]
pub(super) fn after_wait(now: Instant) {
    if let Some(period) = PERIOD_BEGAN.get()
        && now.saturating_duration_since(period.began) >= PERIOD
    {
        end_period(period, now);
    }
}

#[cold]
fn end_period(period: Period, now: Instant) {
    let cpu = cpu_time();
    PERIOD_BEGAN.set(Some(Period { began: now, cpu }));
    let passed = now.saturating_duration_since(period.began).as_nanos().max(1);
    let load = (cpu.saturating_sub(period.cpu).as_nanos() * FULL / passed).min(FULL) as u32;
    OBSERVER.with_borrow_mut(|observer| {
        if let Some(observer) = observer {
            observer(ThreadLoad { load, computed: cpu });
        }
    });
}

/// Stops observing.
pub(super) fn clear() {
    TURNS.set(None);
    PERIOD_BEGAN.set(None);
    OBSERVER.set(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{executor, reactor::EngineKind, timers};
    use std::rc::Rc;

    #[test]
    fn the_longest_turn_is_that_since_the_previous_question() {
        const TURN: Duration = Duration::from_millis(3);
        crate::worker::run(EngineKind::Epoll, async {
            assert_eq!(take_longest_turn(), None, "not measured yet");
            let began = cpu_time();
            while cpu_time() - began < TURN {}
            executor::yield_now().await;
            assert!(take_longest_turn().is_some_and(|turn| turn >= TURN));
            let began = cpu_time();
            executor::yield_now().await;
            assert!(take_longest_turn().is_some_and(|turn| turn <= cpu_time() - began + TURN / 2));
        })
        .unwrap();
    }

    #[test]
    fn a_thread_that_computes_is_busy_and_one_that_sleeps_is_not() {
        crate::worker::run(EngineKind::Epoll, async {
            let loads: Rc<RefCell<Vec<u32>>> = Rc::default();
            let seen = loads.clone();
            observe(move |measurement| seen.borrow_mut().push(measurement.load));
            timers::sleep(4 * PERIOD).await;
            assert!(loads.take().iter().all(|load| *load < 500), "it has slept");
            // Until it has had a core for most of a period, which other load may delay.
            let began = Instant::now();
            while loads.borrow().iter().all(|load| *load < 700) && began.elapsed() < Duration::from_secs(30) {
                executor::yield_now().await;
            }
            assert!(loads.borrow().iter().any(|load| *load >= 700), "{:?}", loads.borrow());
        })
        .unwrap();
    }
}
