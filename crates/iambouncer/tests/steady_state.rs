//! While every worker has servers enough, the workers leave each other alone: no lock, no wake from another thread.
//! Runs the pooler in this process and counts the bells rung in it, which is why it is a test binary of its own.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[expect(unreachable_pub, reason = "a support library inside a test binary")]
mod in_process;

use iambouncer::worker::mailbox::wake_ups;
use in_process::{framed, log_in, start_pooler, until_ready};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::io::Write;
use std::net::TcpStream;
use std::thread;

/// As many servers may be opened.
const CLIENTS: usize = 8;
/// Queries of each client while counting.
const QUERIES: u64 = 1000;
/// What may ring besides: nothing that is known, and far below one per query.
const MAX_BELLS: u64 = CLIENTS as u64 * QUERIES / 100;

fn query(client: &mut TcpStream, sql: &str) -> u8 {
    client.write_all(&framed(b'Q', format!("{sql}\0").as_bytes())).unwrap();
    until_ready(client)
}

#[test]
fn no_worker_wakes_another_while_all_have_servers_enough() {
    let server = Postgres::start(&PostgresOptions::default()).unwrap();
    let settings = format!("workers = 2\ndefault_pool_size = {CLIENTS}");
    let port = start_pooler(&server, &settings, || {});
    let before_clients = wake_ups();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| log_in(port)).collect();
    assert!(wake_ups() > before_clients, "a client that goes to the other worker rings its bell");
    // Each in a transaction of its own at the same time: now every worker has as many servers as clients.
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
    let rung = wake_ups() - before;
    assert!(rung <= MAX_BELLS, "{rung} bells in {} queries", CLIENTS as u64 * QUERIES);
}
