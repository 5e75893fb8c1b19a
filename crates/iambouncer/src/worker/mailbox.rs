//! The only door between a worker and other threads: a list of what they want and an eventfd that ends the worker's
//! wait. Owns that list; steady-state traffic never passes here.

use super::executor::{self, TaskKey};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

/// Errands that may wait at one worker. Orders and servers on the move are few; whoever sends more is told.
const MAX_ERRANDS: usize = 16 * 1024;

static BELLS_RUNG: AtomicU64 = AtomicU64::new(0);

/// How often the workers of this process were woken by other threads. While queries flow it stands still; a test
/// counts.
pub fn bells_rung() -> u64 {
    BELLS_RUNG.load(Ordering::Relaxed)
}

/// Something to be done on another worker's thread. It runs in a task of its own.
pub type Errand = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Wanted {
    wakes: Vec<TaskKey>,
    errands: Vec<Errand>,
    is_closed: bool,
}

/// What other threads want of a worker.
pub struct Mailbox {
    wanted: Mutex<Wanted>,
    bell: OwnedFd,
    thread: OnceLock<ThreadId>,
}

impl Mailbox {
    /// A mailbox for a worker that is about to start.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub fn create() -> std::io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { wanted: Mutex::default(), bell, thread: OnceLock::new() }))
    }

    /// The calling thread is the worker from now on.
    pub(super) fn move_in(&self) {
        let _ = self.thread.set(std::thread::current().id());
    }

    pub(super) fn is_of_this_thread(&self) -> bool {
        self.thread.get() == Some(&std::thread::current().id())
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        BELLS_RUNG.fetch_add(1, Ordering::Relaxed);
        // A full counter means that the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Wakes a task. Called from other threads.
    pub(super) fn wake(&self, key: TaskKey) {
        self.wanted().wakes.push(key);
        self.ring();
    }

    /// Has something done on the worker's thread. Called from other threads.
    ///
    /// # Errors
    /// The worker has ended, or does not keep up; the errand comes back.
    pub fn post(&self, errand: Errand) -> Result<(), Errand> {
        {
            let mut wanted = self.wanted();
            if wanted.is_closed || wanted.errands.len() >= MAX_ERRANDS {
                return Err(errand);
            }
            wanted.errands.push(errand);
        }
        self.ring();
        Ok(())
    }

    /// Nothing is taken any more; what has come and was not done is dropped.
    pub(super) fn close(&self) {
        let left = {
            let mut wanted = self.wanted();
            wanted.is_closed = true;
            std::mem::take(&mut wanted.errands)
        };
        drop(left);
    }

    /// Wakes and starts what was asked for. Called by the engine when the bell rang.
    pub(super) fn deliver(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
        let (wakes, errands) = {
            let mut wanted = self.wanted();
            (std::mem::take(&mut wanted.wakes), std::mem::take(&mut wanted.errands))
        };
        for key in wakes {
            executor::wake(key);
        }
        for errand in errands {
            executor::spawn(async move { errand() });
        }
    }
}
