//! Wakes the periodic tasks of this worker, which sleep while they have nothing to do: a worker without work is never
//! scheduled. Owns that signal; what there is to do is known to the callers.

use super::notify::Notify;
use std::rc::Rc;

thread_local! {
    static REQUESTED: Rc<Notify> = Rc::default();
}

/// There is, or may be, something to do for a periodic task.
#[inline]
pub fn request() {
    // A server may be dropped while the thread exits and its locals are gone.
    let _ = REQUESTED.try_with(|requested| requested.notify_all());
}

/// Waits for the next [`request`]. Cancel safe.
pub async fn requested() {
    let requested = REQUESTED.with(Rc::clone);
    requested.wait().await;
}
