//! SHOW WORKERS: the threads that move bytes, and how busy each is. Owns its table.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::worker::{self, reactor};

pub(super) struct WorkerRecord {
    index: usize,
    engine: String,
    clients: usize,
    servers: usize,
    load_percent: f64,
    cpu_us: u128,
}

pub(super) static WORKERS: Table<WorkerRecord> = Table {
    columns: &[
        int4("worker", |worker| shown(worker.index)),
        text("io_engine", |worker| shown(&worker.engine)),
        int4("clients", |worker| shown(worker.clients)),
        int4("servers", |worker| shown(worker.servers)),
        int4("load_percent", |worker| shown(worker.load_percent.round())),
        int8("cpu_time", |worker| shown(worker.cpu_us)),
    ],
    records: Records::EachWorker(worker),
};

fn worker(console: &Console) -> Vec<WorkerRecord> {
    let pools = console.directory.pools();
    vec![WorkerRecord {
        index: console.context.worker.index(),
        engine: reactor::kind().map(|engine| engine.to_string()).unwrap_or_default(),
        clients: console.clients.count(),
        servers: pools.iter().map(|pool| pool.table.count()).sum(),
        load_percent: console.context.load.percent(),
        cpu_us: worker::cpu_time().as_micros(),
    }]
}
