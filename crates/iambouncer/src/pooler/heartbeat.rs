//! The heartbeat of a worker: a task that runs every second shows that its loop is running, and measures its load. Owns the period, and
//! the report when the worker stops; the liveness probe in [`crate::http`] evaluates it.

use crate::context::Context;
use crate::worker::{self, timers, upkeep};
use crate::worker_state::Worker;
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

/// Beats until the worker stops; a worker without work sleeps, and is not expected to beat.
pub(super) async fn run(worker: Rc<Worker>) {
    let heartbeat = Heartbeat(worker.context.clone());
    let (context, index) = (&heartbeat.0, worker.context.worker.index());
    loop {
        context.process.health.heartbeat(index, worker::now());
        context.load.sample(worker::now(), worker::cpu_time());
        if super::janitor::has_no_work(&worker) {
            context.process.health.sleep(index);
            upkeep::requested().await;
        } else {
            timers::sleep(PERIOD).await;
        }
    }
}
