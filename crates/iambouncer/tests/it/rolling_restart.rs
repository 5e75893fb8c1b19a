//! Processes that share a port are restarted one after the other under load: no query fails.

use crate::support::TIMEOUT;
use crate::support::fleet::Fleet;
use crate::support::updated_client::UpdatedClient;
use rustix::process::Signal;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const RESTARTS: usize = 20;
const CLIENTS: usize = 6;
/// Transactions after which a client reconnects, as pools do with connections of a certain age.
const TRANSACTIONS: u32 = 20;

#[derive(Default)]
struct LoadCounts {
    transactions: AtomicU32,
    connections: AtomicU32,
    /// Connections that were closed before the login was complete, and tried again.
    retried: AtomicU32,
}

fn connect(port: u16, counts: &LoadCounts) -> UpdatedClient {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        // Any error is one that a client may retry: nothing was asked.
        match UpdatedClient::log_in(port) {
            Ok(client) => return client,
            Err(error) => {
                counts.retried.fetch_add(1, Ordering::Relaxed);
                assert!(Instant::now() < deadline, "no login in time: {error}");
            }
        }
    }
}

fn run_client(port: u16, counts: &LoadCounts, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let mut client = connect(port, counts);
        for n in 0..TRANSACTIONS {
            if client.is_closed() {
                break;
            }
            let statements: &[&str] =
                if n % 2 == 0 { &["SELECT 1"] } else { &["BEGIN", "SELECT pg_sleep(0.001)", "COMMIT"] };
            for sql in statements {
                client.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
            counts.transactions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_query_fails_while_two_processes_are_restarted_in_turn() {
    let mut fleet = Fleet::start(2, &["default_pool_size = 4"], &[]);
    let (port, counts, is_over) = (fleet.port(), LoadCounts::default(), AtomicBool::new(false));
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| run_client(port, &counts, &is_over))).collect();
        for n in 0..RESTARTS {
            let id = n % 2 + 1;
            let before = counts.transactions.load(Ordering::Relaxed);
            let restarting = Instant::now();
            let mut old = fleet.members[id - 1].take().unwrap();
            old.signal(Signal::TERM);
            assert_eq!(old.wait_for_end().code(), Some(0));
            fleet.start_member(id);
            longest = longest.max(restarting.elapsed());
            assert!(counts.transactions.load(Ordering::Relaxed) > before, "the other process serves");
        }
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    println!(
        "{RESTARTS} restarts in {:?} (longest {longest:?}), {} transactions, {} connections, {} retried",
        began.elapsed(),
        counts.transactions.load(Ordering::Relaxed),
        counts.connections.load(Ordering::Relaxed),
        counts.retried.load(Ordering::Relaxed),
    );
}

/// The kernel gives a connection to a process when its first bytes arrive (`tcp_defer_accept`). If that process has closed
/// its listener meanwhile, `net.ipv4.tcp_migrate_req` decides.
#[test]
fn silent_connections_move_to_the_other_process_if_the_kernel_may_move_them() {
    let mut fleet = Fleet::start(2, &[], &[]);
    let moves =
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1");
    let silent: Vec<_> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", fleet.port())).expect("a connection")).collect();
    let mut old = fleet.members[0].take().unwrap();
    old.signal(Signal::TERM);
    assert_eq!(old.wait_for_end().code(), Some(0));
    let served =
        silent.into_iter().filter(|stream| UpdatedClient::start(stream.try_clone().unwrap()).is_ok());
    let served = served.count();
    println!("tcp_migrate_req = {}: {served} of 20 silent connections were served", u8::from(moves));
    assert!(served == 20 || !moves, "{served}");
}

#[test]
fn without_tcp_defer_accept_silent_connections_are_served_by_the_process_that_stops() {
    let mut fleet = Fleet::start(2, &["tcp_defer_accept = 0"], &[]);
    let silent: Vec<_> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", fleet.port())).expect("a connection")).collect();
    fleet.member(1).signal(Signal::TERM);
    fleet.member(1).wait_for_line("no new clients; waiting");
    for stream in silent {
        UpdatedClient::start(stream).expect("a login");
    }
    assert_eq!(fleet.members[0].take().unwrap().wait_for_end().code(), Some(0));
}
