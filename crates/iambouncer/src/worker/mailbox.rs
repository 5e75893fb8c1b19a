//! The only interface between a worker and other threads: a list of wake-ups, and an eventfd that interrupts the
//! worker's wait. Owns that list; steady-state traffic never passes through it.

use super::executor::{self, TaskKey};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

static WAKE_UPS: AtomicU64 = AtomicU64::new(0);

/// How often other threads have woken the workers of this process. Constant while queries run, which a test verifies.
pub fn wake_ups() -> u64 {
    WAKE_UPS.load(Ordering::Relaxed)
}

/// The queue of a worker for other threads.
pub struct Mailbox {
    wakes: Mutex<Vec<TaskKey>>,
    wake_fd: OwnedFd,
    thread: ThreadId,
}

impl Mailbox {
    /// Creates the mailbox of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub(super) fn create() -> std::io::Result<Arc<Self>> {
        let wake_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { wakes: Mutex::default(), wake_fd, thread: std::thread::current().id() }))
    }

    pub(super) fn is_of_this_thread(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }

    fn wakes(&self) -> std::sync::MutexGuard<'_, Vec<TaskKey>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes a task. Called from other threads.
    pub(super) fn wake(&self, key: TaskKey) {
        self.wakes().push(key);
        WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        // A full counter means that the eventfd is already readable.
        let _ = rustix::io::write(&self.wake_fd, &1u64.to_ne_bytes());
    }

    /// Wakes the tasks. Called by the engine when the eventfd is readable.
    pub(super) fn deliver(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake_fd, &mut count);
        let wakes = std::mem::take(&mut *self.wakes());
        for key in wakes {
            executor::wake(key);
        }
    }
}
