//! The task table and the ready queue of this thread. Owns futures; knows neither sockets nor time.
//!
//! A task is named by a [`TaskKey`], two integers. Sockets and timers keep the key of the task to wake instead of
//! a `Waker`, so waking costs a push onto a queue and no atomic operation. The real `Waker` that futures from
//! other crates get goes through the [`super::mailbox`] when another thread calls it.

use super::mailbox::Mailbox;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// Names a task of this thread. A key outlives its task harmlessly: waking it then does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskKey {
    index: u32,
    generation: u32,
}

impl TaskKey {
    /// No task.
    pub const NONE: Self = Self { index: u32::MAX, generation: 0 };
}

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    future: TaskFuture,
    waker: Waker,
}

struct Slot {
    generation: u32,
    queued: bool,
    /// Taken out while it is polled.
    task: Option<Task>,
}

struct Executor {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<TaskKey>>,
    current: Cell<TaskKey>,
    mailbox: RefCell<Option<Arc<Mailbox>>>,
}

thread_local! {
    static EXECUTOR: Executor = const {
        Executor {
            slots: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            ready: RefCell::new(VecDeque::new()),
            current: Cell::new(TaskKey::NONE),
            mailbox: RefCell::new(None),
        }
    };
}

struct CrossThreadWaker {
    key: TaskKey,
    mailbox: Option<Arc<Mailbox>>,
}

impl Wake for CrossThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match &self.mailbox {
            Some(mailbox) if !mailbox.is_of_this_thread() => mailbox.wake(self.key),
            _ => wake(self.key),
        }
    }
}

pub(super) fn install(mailbox: Arc<Mailbox>) {
    EXECUTOR.with(|e| *e.mailbox.borrow_mut() = Some(mailbox));
}

/// Starts a task. It is first polled on the next turn.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> TaskKey {
    EXECUTOR.with(|e| {
        let mut slots = e.slots.borrow_mut();
        let index = e.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot { generation: 0, queued: false, task: None });
            // Bounded by open files long before 2^32.
            (slots.len() - 1) as u32
        });
        let slot = &mut slots[index as usize];
        let key = TaskKey { index, generation: slot.generation };
        let waker = Waker::from(Arc::new(CrossThreadWaker { key, mailbox: e.mailbox.borrow().clone() }));
        slot.task = Some(Task { future: Box::pin(future), waker });
        slot.queued = true;
        e.ready.borrow_mut().push_back(key);
        key
    })
}

/// The task being polled.
#[inline]
pub fn current() -> TaskKey {
    EXECUTOR.with(|e| e.current.get())
}

/// Queues a task for the next turn, once.
#[inline]
pub fn wake(key: TaskKey) {
    // A waker may be dropped while the thread ends and its locals are gone.
    let _ = EXECUTOR.try_with(|e| {
        let mut slots = e.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(key.index as usize)
            && slot.generation == key.generation
            && !slot.queued
        {
            slot.queued = true;
            e.ready.borrow_mut().push_back(key);
        }
    });
}

/// True while the task has not ended.
pub(super) fn is_alive(key: TaskKey) -> bool {
    EXECUTOR.with(|e| {
        e.slots.borrow().get(key.index as usize).is_some_and(|slot| slot.generation == key.generation)
    })
}

/// Polls every task that was ready when the turn began, and says whether more have become ready since. One turn
/// per wait keeps a busy task from starving the sockets of the others.
pub(super) fn turn() -> bool {
    EXECUTOR.with(|e| {
        let count = e.ready.borrow().len();
        for _ in 0..count {
            let Some(key) = e.ready.borrow_mut().pop_front() else { break };
            poll(e, key);
        }
        !e.ready.borrow().is_empty()
    })
}

fn poll(e: &Executor, key: TaskKey) {
    let Some(mut task) = take(e, key) else { return };
    e.current.set(key);
    let outcome = task.future.as_mut().poll(&mut Context::from_waker(&task.waker));
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

fn take(e: &Executor, key: TaskKey) -> Option<Task> {
    let mut slots = e.slots.borrow_mut();
    let slot = slots.get_mut(key.index as usize)?;
    if slot.generation != key.generation {
        return None;
    }
    slot.queued = false;
    slot.task.take()
}

/// Drops all tasks, so that what they hold (sockets, servers) is let go in a known order.
pub(super) fn clear() {
    EXECUTOR.with(|e| {
        let tasks: Vec<_> = e.slots.borrow_mut().iter_mut().filter_map(|slot| slot.task.take()).collect();
        drop(tasks);
        e.slots.borrow_mut().clear();
        e.free.borrow_mut().clear();
        e.ready.borrow_mut().clear();
    });
}
