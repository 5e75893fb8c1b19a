//! A worker: an OS thread with its own executor, reactor, clock and timers. Owns scheduling only; the tasks (clients,
//! logins, pools) are defined elsewhere. Threads share nothing here but the [`mailbox`], and the queues of
//! jobs in [`workers`].
//!
//! Why not a general runtime: the steady state of a pooler is "socket ready, read, examine, write". That needs only a
//! task table, an epoll set and a sorted list of deadlines, without atomic operations in between.

pub mod buffer;
pub mod executor;
pub mod load;
pub mod mailbox;
pub mod notify;
pub mod reactor;
pub mod timers;
pub mod upkeep;
pub mod workers;

use mailbox::Mailbox;
use reactor::{EngineKind, flow};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

thread_local! {
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time read once after the last wait. Accurate enough for limits and statistics, without a system call.
pub fn now() -> Instant {
    NOW.with(|now| match now.get() {
        Some(instant) => instant,
        None => refresh_clock(),
    })
}

/// Reads the clock again.
fn refresh_clock() -> Instant {
    let instant = Instant::now();
    NOW.with(|now| now.set(Some(instant)));
    instant
}

/// CPU time that this thread has used.
pub fn cpu_time() -> Duration {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into `used` only.
    #[allow(
        unsafe_code,
        reason = "rustix looks the call up in the vDSO, which Valgrind hides from static programs"
    )]
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) } != 0;
    match (failed, u64::try_from(used.tv_sec), u32::try_from(used.tv_nsec)) {
        (false, Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

/// Waits for the first of two futures: `Some` with the output of `first`, `None` if `second` finished first.
pub async fn either<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> Option<T> {
    let mut first = pin!(first);
    let mut second = pin!(second);
    poll_fn(|cx| match first.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => second.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Runs this thread as a worker until `main` is done.
///
/// # Errors
/// The kernel refuses the engine, or waiting fails.
pub fn run(engine: EngineKind, main: impl Future<Output = ()> + 'static) -> std::io::Result<()> {
    let mailbox = Mailbox::create()?;
    reactor::install(engine, &mailbox)?;
    work(mailbox, main)
}

/// The same with a ring or, if the kernel refuses that now, with epoll; `refused` receives the error. Locked memory is
/// counted per user over all its processes, so whether a ring is available can change at any time.
///
/// # Errors
/// As [`run`].
pub fn run_with_ring_or_epoll(
    refused: impl FnOnce(&std::io::Error),
    main: impl Future<Output = ()> + 'static,
) -> std::io::Result<()> {
    let mailbox = Mailbox::create()?;
    if let Err(error) = reactor::install(EngineKind::IoUring, &mailbox) {
        refused(&error);
        reactor::install(EngineKind::Epoll, &mailbox)?;
    }
    work(mailbox, main)
}

fn work(mailbox: Arc<Mailbox>, main: impl Future<Output = ()> + 'static) -> std::io::Result<()> {
    executor::install(mailbox);
    refresh_clock();
    let main = executor::spawn(main);
    let outcome = loop {
        let more = executor::turn();
        if !executor::is_alive(main) {
            break Ok(());
        }
        load::before_wait();
        let wait = if more { Some(Duration::ZERO) } else { timers::time_to_next(now()) };
        if let Err(error) = reactor::wait(flow::limit_wait(wait)) {
            break Err(error);
        }
        let now = refresh_clock();
        timers::fire(now);
        flow::after_wait(now);
        load::after_wait(now);
    };
    load::clear();
    executor::clear();
    reactor::remove();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn tasks_timers_and_other_threads_wake_each_other() {
        for engine in [EngineKind::Epoll, EngineKind::IoUring] {
            if engine == EngineKind::Epoll || reactor::probe_ring().is_ok() {
                std::thread::spawn(move || wake_each_other(engine)).join().unwrap();
            }
        }
    }

    fn wake_each_other(engine: EngineKind) {
        let done = Rc::new(Cell::new(0));
        let seen = done.clone();
        run(engine, async move {
            let inner = seen.clone();
            let notify = Rc::new(notify::Notify::default());
            let waiter = notify.clone();
            executor::spawn(async move {
                timers::sleep(Duration::from_millis(5)).await;
                inner.set(inner.get() + 1);
                waiter.notify_all();
            });
            notify.wait().await;
            let (tx, rx) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || tx.send(41));
            seen.set(seen.get() + rx.await.unwrap());
        })
        .unwrap();
        assert_eq!(done.get(), 42);
    }

    #[test]
    fn a_timeout_ends_a_pending_future() {
        run(EngineKind::Epoll, async {
            let never = std::future::pending::<()>();
            assert!(timers::timeout(Duration::from_millis(3), never).await.is_none());
            assert_eq!(timers::timeout(Duration::from_secs(60), async { 7 }).await, Some(7));
        })
        .unwrap();
    }
}
