//! The only door between a worker and other threads: a queue of task keys and an eventfd that ends the worker's
//! wait. Owns that queue; steady-state traffic never passes here.

use super::executor::{self, TaskKey};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

/// Tasks that other threads want woken.
pub struct Mailbox {
    wanted: Mutex<Vec<TaskKey>>,
    bell: OwnedFd,
    thread: ThreadId,
}

impl Mailbox {
    /// A mailbox of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub(super) fn create() -> std::io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { wanted: Mutex::new(Vec::new()), bell, thread: std::thread::current().id() }))
    }

    pub(super) fn is_of_this_thread(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Called from other threads.
    pub(super) fn wake(&self, key: TaskKey) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        // A full counter means that the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Wakes what was asked for. Called by the reactor when the bell rang.
    pub(super) fn deliver(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
        let wanted = std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        for key in wanted {
            executor::wake(key);
        }
    }
}
