//! Workers that join and leave with the load. Owns what a worker does after its load was measured; the decisions belong to
//! [`crate::placement`].

use crate::placement::Outcome;
use crate::worker::load::{self, ThreadLoad};
use crate::worker::{self, executor};
use crate::worker_state::Worker;
use std::rc::Rc;

/// Makes every client of a debug build move after every request.
#[cfg(debug_assertions)]
const ALWAYS_MOVE: &str = "TEST_MOVE_CLIENTS";

/// Begins to measure the load of this worker, if the number of active workers depends on it.
pub(super) fn begin(worker: &Rc<Worker>) {
    #[cfg(debug_assertions)]
    if std::env::var_os(ALWAYS_MOVE).is_some() {
        let own = worker.context.worker;
        return worker.context.moves.begin_always((own.index() + 1) % own.count());
    }
    if !worker.context.process.placement.is_elastic() {
        return;
    }
    join_or_leave(worker);
    let weak = Rc::downgrade(worker);
    load::observe(move |measurement| {
        if let Some(worker) = weak.upgrade() {
            react(&worker, measurement);
        }
    });
}

fn react(worker: &Worker, measurement: ThreadLoad) {
    let (context, now) = (&worker.context, worker::now());
    match context.process.placement.measured(context.worker, measurement, now) {
        Outcome::Stay => {}
        Outcome::Relieve(relief) => {
            if relief.joins {
                tracing::debug!(worker = relief.to, load = measurement.load, "another worker joins");
                // It joins as soon as it runs this; new clients may already be assigned to it.
                let _ = worker.workers.run_on(relief.to, join_or_leave);
            }
            context.moves.begin_part(relief, now);
        }
        Outcome::Leave(leaving) => {
            tracing::debug!(worker = leaving, "a worker leaves");
            let _ = worker.workers.run_on(leaving, join_or_leave);
        }
    }
}

/// Brings a worker in line with the number of active workers.
fn join_or_leave(worker: &Rc<Worker>) {
    let context = &worker.context;
    if context.process.placement.is_active(context.worker.index()) {
        return context.moves.end();
    }
    context.moves.begin_all();
    let directory = worker.directory.clone();
    executor::spawn(async move { directory.send_idle_away().await });
}
