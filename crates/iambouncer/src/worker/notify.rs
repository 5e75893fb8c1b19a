//! A condition that several tasks of this thread wait for. Owns the list of waiting tasks.

use super::executor::{self, TaskKey};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;

/// Wakes all waiting tasks. Keeps no state: a task that waits later waits for the next call.
#[derive(Default)]
pub struct Notify {
    waiting: RefCell<Vec<TaskKey>>,
    round: Cell<u64>,
}

impl Notify {
    /// Wakes all tasks that wait now; usually there are none.
    #[inline]
    pub fn notify_all(&self) {
        self.round.set(self.round.get() + 1);
        if !self.waiting.borrow().is_empty() {
            self.wake_all();
        }
    }

    #[inline(never)]
    fn wake_all(&self) {
        for key in self.waiting.borrow_mut().drain(..) {
            executor::wake(key);
        }
    }

    /// Waits for the next [`Notify::notify_all`]. Cancel safe.
    pub async fn wait(&self) {
        let round = self.round.get();
        poll_fn(|_| {
            if self.round.get() != round {
                return Poll::Ready(());
            }
            let task = executor::current();
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.contains(&task) {
                waiting.push(task);
            }
            Poll::Pending
        })
        .await;
    }
}
