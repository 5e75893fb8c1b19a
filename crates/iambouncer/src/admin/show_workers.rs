//! SHOW WORKERS: the threads that move bytes, and how busy each is. Owns its table.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::worker::{self, load, reactor};
use std::time::Duration;

pub(super) struct WorkerRecord {
    index: usize,
    engine: String,
    is_active: bool,
    clients: usize,
    servers: usize,
    load_percent: f64,
    cpu_us: u128,
    longest_turn: Option<Duration>,
}

pub(super) static WORKERS: Table<WorkerRecord> = Table {
    columns: &[
        int4("worker", |worker| shown(worker.index)),
        text("io_engine", |worker| shown(&worker.engine)),
        text("state", |worker| shown(if worker.is_active { "active" } else { "inactive" })),
        int4("clients", |worker| shown(worker.clients)),
        int4("servers", |worker| shown(worker.servers)),
        int4("load_percent", |worker| shown(worker.load_percent.round())),
        int8("cpu_time", |worker| shown(worker.cpu_us)),
        int8("longest_turn_us", |worker| worker.longest_turn.and_then(|turn| shown(turn.as_micros()))),
    ],
    records: Records::EachWorker(worker),
};

fn worker(console: &Console) -> Vec<WorkerRecord> {
    let index = console.context.worker.index();
    // Only pools that are maintained have servers.
    let pools = console.directory.maintained_pools();
    // A worker without work has taken no sample for a while.
    console.context.load.sample(worker::now(), worker::cpu_time());
    vec![WorkerRecord {
        index,
        is_active: console.context.process.placement.is_active(index),
        engine: reactor::kind().map(|engine| engine.to_string()).unwrap_or_default(),
        clients: console.clients.count(),
        servers: pools.iter().map(|pool| pool.table.count()).sum(),
        load_percent: console.context.load.percent(),
        cpu_us: worker::cpu_time().as_micros(),
        longest_turn: load::take_longest_turn(),
    }]
}
