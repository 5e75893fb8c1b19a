//! Shutdown that waits: the TCP listeners close, and the UNIX socket stays open for the console.

use crate::support::bouncer::Start;
use crate::support::program::{self, ProgramOutput};
use crate::support::{Bouncer, Client, eventually, postgres};
use rustix::process::Signal;
use std::process::Command;
use tempfile::TempDir;

fn start(settings: &[&str]) -> (Bouncer, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let start = Start::databases(&databases).set(&format!("unix_socket_dir = {}", dir.path().display()));
    (settings.iter().fold(start, |start, line| start.set(line)).start(), dir)
}

/// psql over the UNIX socket.
fn psql(bouncer: &Bouncer, dir: &TempDir, user: &str, database: &str, sql: &str) -> ProgramOutput {
    let mut psql = Command::new("psql");
    let target = format!("host={} port={} user={user} dbname={database}", dir.path().display(), bouncer.port);
    program::to_end(psql.args(["-w", "-At", "-c", sql, &target]))
}

fn refuses_tcp(bouncer: &Bouncer) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", bouncer.port)).is_err()
}

#[test]
fn the_console_is_reachable_while_the_pooler_waits() {
    for (signal, workers) in [(Signal::TERM, 1), (Signal::TERM, 2), (Signal::INT, 1), (Signal::INT, 2)] {
        let (mut bouncer, dir) = start(&[&format!("workers = {workers}")]);
        let mut client = bouncer.client();
        client.query("BEGIN");
        let mut consoles: Vec<Client> = (0..2).map(|_| bouncer.console()).collect();
        bouncer.signal(signal);
        eventually("the TCP listener is closed", || refuses_tcp(&bouncer));
        let output = psql(&bouncer, &dir, "pgbouncer", "pgbouncer", "SHOW VERSION");
        assert_eq!(output.code, Some(0), "{output:?}");
        let output = psql(&bouncer, &dir, "app", "app", "SELECT 1");
        assert!(output.stderr.contains("FATAL:  pooler is shutting down"), "{output:?}");
        for console in &mut consoles {
            let (code, text, ..) = console.query("RESUME")[0].error();
            assert_eq!((code.as_str(), text.as_str()), ("08P01", "pooler is shutting down"));
        }
        bouncer.signal(Signal::USR2);
        bouncer.wait_for_line("got SIGUSR2 while shutting down, ignoring");
        client.query("COMMIT");
        drop(client);
        assert_eq!(bouncer.wait_for_end().code(), Some(0), "consoles are not waited for");
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the socket is removed");
    }
}

#[test]
fn a_different_second_signal_ends_the_process_at_once() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::TERM)] {
        let (mut bouncer, _dir) = start(&[]);
        let mut client = bouncer.client();
        client.query("BEGIN");
        bouncer.signal(first);
        bouncer.wait_for_line("shutting down, waiting for all");
        bouncer.signal(second);
        assert_eq!(bouncer.wait_for_end().code(), Some(0));
        assert!(bouncer.log().contains("while shutting down, fast exit"));
    }
}

/// The kernel resets the connections in the queue of a listener that closes.
#[test]
fn connections_in_the_queue_of_a_closing_listener_are_served() {
    let (mut bouncer, _dir) = start(&["workers = 1"]);
    let first = bouncer.client();
    // The stopped process cannot accept; the kernel completes the connections.
    bouncer.signal(Signal::STOP);
    let mut queued: Vec<Client> =
        (0..10).map(|_| Client::start(bouncer.port, &[("user", "app"), ("database", "app")])).collect();
    bouncer.signal(Signal::TERM);
    bouncer.signal(Signal::CONT);
    bouncer.wait_for_line("got SIGTERM");
    for client in &mut queued {
        client.until_ready();
        assert_eq!(client.value("SELECT 1"), "1");
    }
    drop((first, queued));
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn a_login_that_is_never_finished_does_not_prevent_shutdown() {
    let (mut bouncer, _dir) = start(&["workers = 1"]);
    let _silent = std::net::TcpStream::connect(("127.0.0.1", bouncer.port)).unwrap();
    drop(bouncer.client());
    bouncer.signal(Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}
