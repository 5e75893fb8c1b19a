//! The only interface between a worker and other threads: a list of wake-ups and jobs, and an eventfd that interrupts
//! the worker's wait. Owns that list; steady-state traffic never passes through it.

use super::executor::{self, TaskKey};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

/// Jobs that may be queued for one worker. Commands and moved servers are few; a sender that exceeds the limit receives
/// an error.
const MAX_JOBS: usize = 16 * 1024;

static WAKE_UPS: AtomicU64 = AtomicU64::new(0);

/// How often other threads have woken the workers of this process. Constant while queries run, which a test verifies.
pub fn wake_ups() -> u64 {
    WAKE_UPS.load(Ordering::Relaxed)
}

/// A function to run on another worker's thread, in a task of its own.
pub type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inbox {
    wakes: Vec<TaskKey>,
    jobs: Vec<Job>,
    is_closed: bool,
}

/// The queue of a worker for other threads.
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    wake_fd: OwnedFd,
    thread: OnceLock<ThreadId>,
}

impl Mailbox {
    /// Creates a mailbox for a worker that is about to start.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub fn create() -> std::io::Result<Arc<Self>> {
        let wake_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { inbox: Mutex::default(), wake_fd, thread: OnceLock::new() }))
    }

    /// Declares the calling thread to be the worker.
    pub(super) fn bind_to_thread(&self) {
        let _ = self.thread.set(std::thread::current().id());
    }

    pub(super) fn is_of_this_thread(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }

    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        // A full counter means that the eventfd is already readable.
        let _ = rustix::io::write(&self.wake_fd, &1u64.to_ne_bytes());
    }

    /// Wakes a task. Called from other threads.
    pub(super) fn wake(&self, key: TaskKey) {
        self.inbox().wakes.push(key);
        self.signal();
    }

    /// Runs a job on the worker's thread. Called from other threads.
    ///
    /// # Errors
    /// The worker has stopped or its queue is full; the job is returned.
    pub fn post(&self, job: Job) -> Result<(), Job> {
        {
            let mut inbox = self.inbox();
            if inbox.is_closed || inbox.jobs.len() >= MAX_JOBS {
                return Err(job);
            }
            inbox.jobs.push(job);
        }
        self.signal();
        Ok(())
    }

    /// Closes the mailbox and drops queued jobs.
    pub(super) fn close(&self) {
        let undone = {
            let mut inbox = self.inbox();
            inbox.is_closed = true;
            std::mem::take(&mut inbox.jobs)
        };
        drop(undone);
    }

    /// Wakes tasks and starts jobs. Called by the engine when the eventfd is readable.
    pub(super) fn deliver(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake_fd, &mut count);
        let (wakes, jobs) = {
            let mut inbox = self.inbox();
            (std::mem::take(&mut inbox.wakes), std::mem::take(&mut inbox.jobs))
        };
        for key in wakes {
            executor::wake(key);
        }
        for job in jobs {
            executor::spawn(async move { job() });
        }
    }
}
