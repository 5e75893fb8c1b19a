//! Deadlines of this thread, sorted. Owns no policy: queries have no timer of their own (the janitor checks them a few
//! times a second); logins, retries and the janitor itself have.

use super::executor::{self, TaskKey};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

thread_local! {
    static TIMERS: RefCell<BTreeMap<(Instant, u64), TaskKey>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT_ID: Cell<u64> = const { Cell::new(0) };
}

/// A registered deadline; removed from the list when dropped.
struct Timer {
    key: Option<(Instant, u64)>,
}

impl Timer {
    fn register(deadline: Instant) -> Self {
        let id = NEXT_ID.with(|next| next.replace(next.get() + 1));
        TIMERS.with(|timers| timers.borrow_mut().insert((deadline, id), executor::current()));
        Self { key: Some((deadline, id)) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let _ = TIMERS.try_with(|timers| timers.borrow_mut().remove(&key));
        }
    }
}

/// Waits until `deadline`. Cancel safe.
pub async fn sleep_until(deadline: Instant) {
    let mut timer = None;
    poll_fn(|_| {
        if super::now() >= deadline {
            return Poll::Ready(());
        }
        timer.get_or_insert_with(|| Timer::register(deadline));
        Poll::Pending
    })
    .await;
}

/// Waits for `duration`. Cancel safe.
pub async fn sleep(duration: Duration) {
    sleep_until(super::now() + duration).await;
}

/// Runs `future` for at most `duration`; a zero duration means no limit. `None` on timeout, in which case the future is
/// dropped.
pub async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Option<T> {
    if duration.is_zero() {
        return Some(future.await);
    }
    super::either(future, sleep(duration)).await
}

/// How long the reactor may wait; `None` means forever.
pub(super) fn time_to_next(now: Instant) -> Option<Duration> {
    TIMERS.with(|timers| {
        timers.borrow().first_key_value().map(|((at, _), _)| at.saturating_duration_since(now))
    })
}

/// Wakes every task whose deadline has passed.
pub(super) fn fire(now: Instant) {
    TIMERS.with(|timers| {
        let mut timers = timers.borrow_mut();
        while let Some(entry) = timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            executor::wake(entry.remove());
        }
    });
}
