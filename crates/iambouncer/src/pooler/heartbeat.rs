//! The heartbeat of a worker: a task that runs every second shows that its loop is running, and measures its load. Owns the period, and
//! the report when the worker stops; the liveness probe in [`crate::http`] evaluates it.

use crate::context::Context;
use crate::worker::{self, timers};
use std::rc::Rc;
use std::time::Duration;

/// Time between two beats. Independent of the janitor, which may wait for another worker.
const PERIOD: Duration = Duration::from_secs(1);

/// Reports that the worker has stopped, which drops its tasks.
struct Heartbeat(Rc<Context>);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.process.health.end(self.0.worker.index());
    }
}

/// Beats until the worker stops.
pub(super) async fn run(context: Rc<Context>) {
    let heartbeat = Heartbeat(context);
    loop {
        let context = &heartbeat.0;
        context.process.health.heartbeat(context.worker.index(), worker::now());
        context.load.sample(worker::now(), worker::cpu_time());
        timers::sleep(PERIOD).await;
    }
}
