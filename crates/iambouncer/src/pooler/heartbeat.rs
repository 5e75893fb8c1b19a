//! The sign of life of a worker: its loop turns, so a task of its own runs every second. Owns the period, and what is
//! said when the worker ends; who looks at it is [`crate::http`]'s liveness probe.

use crate::context::Context;
use crate::worker::{self, timers};
use std::rc::Rc;
use std::time::Duration;

/// Time between two beats. Not the janitor's: that may wait for another worker.
const PERIOD: Duration = Duration::from_secs(1);

/// Says when the worker has ended, which drops its tasks.
struct Heartbeat(Rc<Context>);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.process.health.end(self.0.workers.index());
    }
}

/// Beats until the worker ends.
pub(super) async fn run(context: Rc<Context>) {
    let heartbeat = Heartbeat(context);
    loop {
        heartbeat.0.process.health.heartbeat(heartbeat.0.workers.index(), worker::now());
        timers::sleep(PERIOD).await;
    }
}
