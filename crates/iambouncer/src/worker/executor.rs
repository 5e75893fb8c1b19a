//! The task table and the ready queue of this thread. Owns futures; never handles sockets or time.
//!
//! A task is identified by a [`TaskKey`], two integers. Sockets and timers store the key of the task to wake instead of
//! a `Waker`, so waking costs a push onto a queue and no atomic operation. Futures from other crates receive a real
//! `Waker`, which goes through the [`super::mailbox`] when called on another thread; see `SharedWaker`.

use super::mailbox::Mailbox;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Identifies a task of this thread. Waking a key whose task has finished does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskKey {
    index: u32,
    generation: u32,
}

impl TaskKey {
    /// No task.
    pub const NONE: Self = Self { index: u32::MAX, generation: 0 };

    fn to_bits(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    fn from_bits(bits: u64) -> Self {
        Self { index: (bits >> 32) as u32, generation: bits as u32 }
    }
}

/// When a ready task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// In the next turn.
    Normal,
    /// After all of normal priority, as long as the turn has not used [`LOW_PRIORITY_TIME`].
    Low,
}

/// Time for tasks of low priority in a turn. Thousands of clients that log in at once would otherwise keep the queries of
/// others waiting until each has been served.
const LOW_PRIORITY_TIME: Duration = Duration::from_millis(1);

/// Ready tasks from which on work that can wait gets a low priority. Each takes some microseconds.
const CROWD: usize = 100;

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct TaskSlot {
    generation: u32,
    queued: bool,
    priority: Priority,
    /// Taken out while it is polled.
    task: Option<TaskFuture>,
}

/// The size of a task's slot, without its future.
#[cfg(test)]
pub(crate) const SLOT_BYTES: usize = std::mem::size_of::<TaskSlot>();

struct Executor {
    slots: RefCell<Vec<TaskSlot>>,
    free: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<TaskKey>>,
    /// Those of low priority.
    ready_low: RefCell<VecDeque<TaskKey>>,
    current: Cell<TaskKey>,
    waker: Cell<Option<SharedWaker>>,
    mailbox: RefCell<Option<Arc<Mailbox>>>,
}

thread_local! {
    static EXECUTOR: Executor = const {
        Executor {
            slots: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            ready: RefCell::new(VecDeque::new()),
            ready_low: RefCell::new(VecDeque::new()),
            current: Cell::new(TaskKey::NONE),
            waker: Cell::new(None),
            mailbox: RefCell::new(None),
        }
    };
}

impl Executor {
    #[inline]
    fn queue(&self, priority: Priority) -> &RefCell<VecDeque<TaskKey>> {
        match priority {
            Priority::Normal => &self.ready,
            Priority::Low => &self.ready_low,
        }
    }
}

struct CrossThreadWaker {
    /// A [`TaskKey`].
    key: AtomicU64,
    mailbox: Option<Arc<Mailbox>>,
}

impl Wake for CrossThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let key = TaskKey::from_bits(self.key.load(Ordering::Relaxed));
        match &self.mailbox {
            Some(mailbox) if !mailbox.is_of_this_thread() => mailbox.wake(key),
            _ => wake(key),
        }
    }
}

/// The waker that tasks are polled with. Few tasks need one, so all share it; it refers to the running task. When a
/// future clones it, the clone keeps referring to that task and the others get a new one.
struct SharedWaker {
    shared: Arc<CrossThreadWaker>,
    waker: Waker,
}

impl SharedWaker {
    fn new(mailbox: Option<Arc<Mailbox>>) -> Self {
        let shared = Arc::new(CrossThreadWaker { key: AtomicU64::new(TaskKey::NONE.to_bits()), mailbox });
        Self { waker: Waker::from(shared.clone()), shared }
    }

    fn for_task(&self, key: TaskKey) -> &Waker {
        self.shared.key.store(key.to_bits(), Ordering::Relaxed);
        &self.waker
    }

    /// True when a clone exists, which must keep referring to its task.
    fn is_cloned(&self) -> bool {
        // Two references belong to this struct: `shared`, and the one in `waker`.
        let kept = Arc::strong_count(&self.shared) > 2;
        // A thread that has just dropped its clone has read the key before: the next key is stored after that.
        fence(Ordering::Acquire);
        kept
    }
}

pub(super) fn install(mailbox: Arc<Mailbox>) {
    EXECUTOR.with(|e| {
        *e.mailbox.borrow_mut() = Some(mailbox);
        // It refers to the previous mailbox.
        e.waker.set(None);
    });
}

/// Starts a task. It is first polled in the next turn.
#[inline]
pub fn spawn(future: impl Future<Output = ()> + 'static) -> TaskKey {
    spawn_with(Priority::Normal, future)
}

/// Starts a task with this priority.
#[inline]
pub fn spawn_with(priority: Priority, future: impl Future<Output = ()> + 'static) -> TaskKey {
    // Boxed here, since passing a future on copies it.
    enqueue(priority, Box::pin(future))
}

fn enqueue(priority: Priority, future: TaskFuture) -> TaskKey {
    EXECUTOR.with(|e| {
        let mut slots = e.slots.borrow_mut();
        let index = e.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(TaskSlot { generation: 0, queued: false, priority, task: None });
            // Bounded by the number of open files, far below 2^32.
            (slots.len() - 1) as u32
        });
        let slot = &mut slots[index as usize];
        let key = TaskKey { index, generation: slot.generation };
        slot.task = Some(future);
        slot.queued = true;
        slot.priority = priority;
        e.queue(priority).borrow_mut().push_back(key);
        key
    })
}

/// Lets all other ready tasks run first.
pub async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        wake(current());
        Poll::Pending
    })
    .await;
}

/// Calls a function for each item. All other ready tasks run after every `per_step` items (at least 1).
pub async fn for_each_in_steps<I: IntoIterator>(items: I, per_step: usize, each: impl FnMut(I::Item)) {
    for_each_in_steps_while(|| true, items, per_step, each).await;
}

/// The same, as long as `goes_on` after each step. False if it did not.
pub async fn for_each_in_steps_while<I: IntoIterator>(
    goes_on: impl Fn() -> bool,
    items: I,
    per_step: usize,
    mut each: impl FnMut(I::Item),
) -> bool {
    for (place, item) in items.into_iter().enumerate() {
        each(item);
        if (place + 1).is_multiple_of(per_step) {
            yield_now().await;
            if !goes_on() {
                return false;
            }
        }
    }
    true
}

/// The task being polled.
#[inline]
pub fn current() -> TaskKey {
    EXECUTOR.with(|e| e.current.get())
}

/// Queues a task for the next turn, once.
#[inline]
pub fn wake(key: TaskKey) {
    // A waker may be dropped while the thread exits and its locals are gone.
    let _ = EXECUTOR.try_with(|e| {
        let mut slots = e.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(key.index as usize)
            && slot.generation == key.generation
            && !slot.queued
        {
            slot.queued = true;
            e.queue(slot.priority).borrow_mut().push_back(key);
        }
    });
}

/// True while many tasks of normal priority are ready, so that the last of them waits noticeably.
pub fn is_crowded() -> bool {
    EXECUTOR.with(|e| e.ready.borrow().len() >= CROWD)
}

/// True while the task has not finished.
pub(super) fn is_alive(key: TaskKey) -> bool {
    EXECUTOR.with(|e| {
        e.slots.borrow().get(key.index as usize).is_some_and(|slot| slot.generation == key.generation)
    })
}

/// Polls every task of normal priority that was ready when the turn began, and as many of low priority as there is time
/// for. True if more are ready. One turn per wait keeps a busy task from starving the sockets of the others.
pub(super) fn turn() -> bool {
    EXECUTOR.with(|e| {
        let count = e.ready.borrow().len();
        let fresh = || SharedWaker::new(e.mailbox.borrow().clone());
        let mut waker = e.waker.take().unwrap_or_else(fresh);
        for _ in 0..count {
            let Some(key) = e.ready.borrow_mut().pop_front() else { break };
            poll(e, key, waker.for_task(key));
            if waker.is_cloned() {
                waker = fresh();
            }
        }
        if !e.ready_low.borrow().is_empty() {
            waker = turn_of_low_priority(e, waker, fresh);
        }
        e.waker.set(Some(waker));
        !e.ready.borrow().is_empty() || !e.ready_low.borrow().is_empty()
    })
}

#[cold]
fn turn_of_low_priority(
    e: &Executor,
    mut waker: SharedWaker,
    fresh: impl Fn() -> SharedWaker,
) -> SharedWaker {
    let (began, count) = (Instant::now(), e.ready_low.borrow().len());
    for _ in 0..count {
        let Some(key) = e.ready_low.borrow_mut().pop_front() else { break };
        poll(e, key, waker.for_task(key));
        if waker.is_cloned() {
            waker = fresh();
        }
        if began.elapsed() >= LOW_PRIORITY_TIME {
            break;
        }
    }
    waker
}

fn poll(e: &Executor, key: TaskKey, waker: &Waker) {
    let Some(mut task) = take(e, key) else { return };
    e.current.set(key);
    let outcome = task.as_mut().poll(&mut Context::from_waker(waker));
    e.current.set(TaskKey::NONE);
    let finished = {
        let mut slots = e.slots.borrow_mut();
        let slot = &mut slots[key.index as usize];
        match outcome {
            Poll::Pending => {
                slot.task = Some(task);
                None
            }
            Poll::Ready(()) => {
                slot.generation = slot.generation.wrapping_add(1);
                slot.queued = false;
                e.free.borrow_mut().push(key.index);
                Some(task)
            }
        }
    };
    // Dropping a future may wake or spawn others, so no borrow is held here.
    drop(finished);
}

fn take(e: &Executor, key: TaskKey) -> Option<TaskFuture> {
    let mut slots = e.slots.borrow_mut();
    let slot = slots.get_mut(key.index as usize)?;
    if slot.generation != key.generation {
        return None;
    }
    slot.queued = false;
    slot.task.take()
}

/// Drops all tasks, so that their resources (sockets, servers) are released in a defined order.
pub(super) fn clear() {
    EXECUTOR.with(|e| {
        loop {
            let tasks: Vec<_> = e.slots.borrow_mut().iter_mut().filter_map(|slot| slot.task.take()).collect();
            if tasks.is_empty() {
                break;
            }
            // A task may start another to close what it had.
            drop(tasks);
        }
        e.slots.borrow_mut().clear();
        e.free.borrow_mut().clear();
        e.ready.borrow_mut().clear();
        e.ready_low.borrow_mut().clear();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::mpsc;

    /// Waits until another thread has called the waker of this task.
    async fn woken_through(wakers: mpsc::Sender<Waker>, polls: Rc<Cell<u32>>) {
        poll_fn(|cx| {
            polls.set(polls.get() + 1);
            if polls.get() > 1 {
                return Poll::Ready(());
            }
            // The receiver may be gone.
            let _ = wakers.send(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn a_cloned_waker_keeps_its_task() {
        let polls: [Rc<Cell<u32>>; 2] = Default::default();
        let seen = polls.clone();
        super::super::run(crate::worker::reactor::EngineKind::Epoll, async move {
            let (sender, wakers) = mpsc::channel();
            for polls in &seen {
                spawn(woken_through(sender.clone(), polls.clone()));
            }
            // Only the first is woken, by another thread, after other tasks have been polled.
            super::super::timers::sleep(std::time::Duration::from_millis(1)).await;
            let first = wakers.recv().unwrap();
            std::thread::spawn(move || first.wake()).join().unwrap();
            super::super::timers::sleep(std::time::Duration::from_millis(1)).await;
        })
        .unwrap();
        assert_eq!(polls.each_ref().map(|polls| polls.get()), [2, 1]);
    }

    #[test]
    fn a_waker_is_replaced_only_if_it_was_cloned() {
        let shared_waker = SharedWaker::new(None);
        let key = TaskKey { index: 3, generation: 9 };
        let waker = shared_waker.for_task(key);
        assert!(!shared_waker.is_cloned());
        let kept = waker.clone();
        assert!(shared_waker.is_cloned());
        drop(kept);
        assert!(!shared_waker.is_cloned());
        assert_eq!(TaskKey::from_bits(shared_waker.shared.key.load(Ordering::Relaxed)), key);
    }

    #[test]
    fn tasks_of_low_priority_run_after_the_others_and_for_a_part_of_the_turn() {
        super::super::run(crate::worker::reactor::EngineKind::Epoll, async move {
            let log: Rc<RefCell<Vec<&str>>> = Rc::default();
            for _ in 0..3 {
                let log = log.clone();
                spawn_with(Priority::Low, async move {
                    log.borrow_mut().push("low");
                    std::thread::sleep(2 * LOW_PRIORITY_TIME);
                });
            }
            let normal = log.clone();
            spawn(async move {
                for _ in 0..3 {
                    normal.borrow_mut().push("normal");
                    yield_now().await;
                }
            });
            while log.borrow().len() < 6 {
                yield_now().await;
            }
            // The first one runs at the end of the turn in which it was spawned.
            assert_eq!(*log.borrow(), ["low", "normal", "low", "normal", "low", "normal"]);
        })
        .unwrap();
    }
}
