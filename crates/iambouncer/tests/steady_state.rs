//! While every worker has enough servers, workers do not interact: no lock, no wakeup from another thread.
//! Runs the pooler in this process and counts its wakeups, and is therefore a test binary of its own.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[expect(unreachable_pub, reason = "a support library inside a test binary")]
mod in_process;

use iambouncer::worker::mailbox::wake_ups;
use in_process::{framed, log_in, start_pooler, until_ready};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::io::Write;
use std::net::TcpStream;
use std::thread;

/// Also the pool size of each worker.
const CLIENTS: usize = 8;
/// Queries of each client per measurement.
const QUERIES: u64 = 1000;
/// Tolerated wakeups: none is expected, and the limit is far below one per query.
const MAX_WAKEUPS: u64 = CLIENTS as u64 * QUERIES / 100;

fn query(client: &mut TcpStream, sql: &str) -> u8 {
    client.write_all(&framed(b'Q', format!("{sql}\0").as_bytes())).unwrap();
    until_ready(client)
}

#[test]
fn no_worker_wakes_another_while_all_have_enough_servers() {
    let server = Postgres::start(&PostgresOptions::default()).unwrap();
    let settings = format!("workers = 2\ndefault_pool_size = {CLIENTS}");
    let port = start_pooler(&server, &settings, || {});
    let before_clients = wake_ups();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| log_in(port)).collect();
    assert!(wake_ups() > before_clients, "a client assigned to the other worker wakes it");
    // Each client has its own transaction at the same time: every worker then has as many servers as clients.
    for sql in ["BEGIN", "COMMIT"] {
        for client in &mut clients {
            assert_eq!(query(client, sql), if sql == "BEGIN" { b'T' } else { b'I' });
        }
    }
    let before = wake_ups();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                for _ in 0..QUERIES {
                    assert_eq!(query(client, "SELECT 1"), b'I');
                }
            });
        }
    });
    let count = wake_ups() - before;
    assert!(count <= MAX_WAKEUPS, "{count} wakeups in {} queries", CLIENTS as u64 * QUERIES);
}
