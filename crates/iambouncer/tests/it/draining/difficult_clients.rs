//! Clients that could delay a drain: they do not read, do not log in, or are canceled meanwhile.

use super::{assert_closed, start};
use crate::support::{Client, eventually};
use rustix::process::Signal;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// At the end, final messages and cancel requests have two seconds each; the rest is for a busy machine.
const AFTER_THE_END: Duration = Duration::from_secs(9);

#[test]
fn a_client_that_does_not_read_does_not_delay_the_end() {
    let mut bouncer = start("0", "2", &[]);
    let mut client = bouncer.client();
    client.send_query("SELECT repeat('x', 100000000)");
    let mut console = bouncer.console();
    eventually("the query runs", || console.pools("sv_active") == ["1"]);
    let signaled = Instant::now();
    bouncer.signal(Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    assert!(signaled.elapsed() < Duration::from_secs(2) + AFTER_THE_END, "{:?}", signaled.elapsed());
}

#[test]
fn a_connection_that_has_not_logged_in_does_not_delay_the_end() {
    let mut bouncer = start("0", "1", &["tcp_defer_accept = 0"]);
    let silent = TcpStream::connect(("127.0.0.1", bouncer.port)).unwrap();
    let signaled = Instant::now();
    bouncer.signal(Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    assert!(signaled.elapsed() < Duration::from_secs(1) + AFTER_THE_END, "{:?}", signaled.elapsed());
    drop(silent);
}

/// For this client the pooler was there, so it is served, and closed like the others.
#[test]
fn a_login_that_began_before_the_listeners_closed_is_completed() {
    let mut bouncer = start("0", "4", &["tcp_defer_accept = 0"]);
    let mut keeps_the_process = bouncer.client();
    keeps_the_process.query("BEGIN");
    let mut late = Client::connect(bouncer.port);
    let mut console = bouncer.console();
    eventually("it was accepted", || console.column("SHOW LISTS", "items")[7].parse::<usize>().unwrap() >= 1);
    bouncer.signal(Signal::TERM);
    eventually("the listener is closed", || TcpStream::connect(("127.0.0.1", bouncer.port)).is_err());
    let mut packet = Vec::new();
    let user = [("user", "app"), ("database", "app")];
    wire::encode::startup(&mut packet, wire::startup::Version::V3_0, &user);
    late.send(&packet);
    assert_eq!(late.until_ready().last().unwrap().tag, b'Z');
    assert_eq!(late.value("SELECT 'served'"), "served");
    assert_closed(&mut late);
    assert_closed(&mut keeps_the_process);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn a_query_can_be_canceled_before_the_listeners_close() {
    let mut bouncer = start("600", "900", &[]);
    let mut client = bouncer.client();
    client.send_query("SELECT pg_sleep(600)");
    let mut console = bouncer.console();
    eventually("the query runs", || console.pools("sv_active") == ["1"]);
    bouncer.signal(Signal::TERM);
    bouncer.wait_for_line("draining: not ready");
    let (pid, key) = client.cancel_key();
    let mut request = Vec::new();
    wire::encode::cancel_request(&mut request, pid, &key);
    Client::connect(bouncer.port).send(&request);
    let answer = client.until_ready();
    let error = answer.iter().find(|message| message.tag == b'E').expect("an error");
    assert_eq!(error.error().0, "57014");
    bouncer.signal(Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}
