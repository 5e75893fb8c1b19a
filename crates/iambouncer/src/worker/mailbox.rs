//! The only door between a worker and other threads: a list of what they want and an eventfd that ends the worker's
//! wait. Owns that list; steady-state traffic never passes here.

use super::executor::{self, TaskKey};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

/// Errands that may wait at one worker. Orders and servers on the move are few; whoever sends more is told.
const MAX_JOBS: usize = 16 * 1024;

static WAKE_UPS: AtomicU64 = AtomicU64::new(0);

/// How often the workers of this process were woken by other threads. While queries flow it stands still; a test
/// counts.
pub fn wake_ups() -> u64 {
    WAKE_UPS.load(Ordering::Relaxed)
}

/// Something to be done on another worker's thread. It runs in a task of its own.
pub type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inbox {
    wakes: Vec<TaskKey>,
    jobs: Vec<Job>,
    is_closed: bool,
}

/// What other threads want of a worker.
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    wake_fd: OwnedFd,
    thread: OnceLock<ThreadId>,
}

impl Mailbox {
    /// A mailbox for a worker that is about to start.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub fn create() -> std::io::Result<Arc<Self>> {
        let wake_fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { inbox: Mutex::default(), wake_fd, thread: OnceLock::new() }))
    }

    /// The calling thread is the worker from now on.
    pub(super) fn move_in(&self) {
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

    fn ring(&self) {
        WAKE_UPS.fetch_add(1, Ordering::Relaxed);
        // A full counter means that the wake_fd rings already.
        let _ = rustix::io::write(&self.wake_fd, &1u64.to_ne_bytes());
    }

    /// Wakes a task. Called from other threads.
    pub(super) fn wake(&self, key: TaskKey) {
        self.inbox().wakes.push(key);
        self.ring();
    }

    /// Has something done on the worker's thread. Called from other threads.
    ///
    /// # Errors
    /// The worker has ended, or does not keep up; the job comes back.
    pub fn post(&self, job: Job) -> Result<(), Job> {
        {
            let mut inbox = self.inbox();
            if inbox.is_closed || inbox.jobs.len() >= MAX_JOBS {
                return Err(job);
            }
            inbox.jobs.push(job);
        }
        self.ring();
        Ok(())
    }

    /// Nothing is taken any more; what has come and was not done is dropped.
    pub(super) fn close(&self) {
        let left = {
            let mut inbox = self.inbox();
            inbox.is_closed = true;
            std::mem::take(&mut inbox.jobs)
        };
        drop(left);
    }

    /// Wakes and starts what was asked for. Called by the engine when the wake_fd rang.
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
