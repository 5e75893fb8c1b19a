//! Draining: SIGTERM and DRAIN with `drain_max_seconds`, and RECONNECT_CLIENTS. Clients are closed between transactions,
//! one after the other; what is left at the end is closed, too.

mod commands;
mod difficult_clients;
mod reconnecting;
mod rolling_update;

use crate::support::bouncer::Start;
use crate::support::raw::tags;
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{Bouncer, Client, Workers, eventually, http, postgres};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A pooler with these limits of a drain, and other settings.
fn start(min: &str, max: &str, settings: &[&str]) -> Bouncer {
    let (min, max) = (format!("drain_min_seconds = {min}"), format!("drain_max_seconds = {max}"));
    let mut all = vec![min.as_str(), max.as_str(), "http_port = auto"];
    all.extend(settings);
    Bouncer::in_front_of(postgres(), &all)
}

/// True if a new client is not answered or receives an error.
fn is_refused(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return true };
    let mut packet = Vec::new();
    wire::encode::startup(&mut packet, wire::startup::Version::V3_0, &[("user", "app"), ("database", "app")]);
    let _ = stream.write_all(&packet);
    let mut answer = [0];
    !matches!(stream.read(&mut answer), Ok(1)) || answer[0] == b'E'
}

/// Expects that the client is closed because the process stops.
#[track_caller]
fn assert_closed(client: &mut Client) {
    let end = client.until_end();
    let error = end.last().expect("a final message").error();
    assert_eq!(error, ("57P01".to_owned(), "server shutting down".to_owned()));
}

/// The times at which clients were closed, until all are.
fn times_of_ends(clients: &[Client]) -> Vec<Duration> {
    let began = Instant::now();
    let mut ends = vec![None; clients.len()];
    eventually("all clients are closed", || {
        for (client, end) in clients.iter().zip(&mut ends) {
            if end.is_none() && client.has_pending_input() {
                *end = Some(began.elapsed());
            }
        }
        ends.iter().all(Option::is_some)
    });
    let mut ends: Vec<_> = ends.into_iter().flatten().collect();
    ends.sort();
    ends
}

/// Time between the first and the last.
fn spread(ends: &[Duration]) -> Duration {
    *ends.last().unwrap() - *ends.first().unwrap()
}

#[test]
fn clients_are_accepted_and_served_until_the_minimum_although_readiness_is_off() {
    let mut bouncer = start("2", "4", &[]);
    let mut before = bouncer.client();
    assert_eq!(before.value("SELECT 1"), "1");
    assert_eq!(http::get(bouncer.http_port(), "/readiness").status, 200);
    let signaled = Instant::now();
    bouncer.signal(Signal::TERM);
    eventually("not ready", || http::get(bouncer.http_port(), "/readiness").status == 503);
    let line = bouncer.wait_for_line("draining: not ready any more");
    assert!(line.contains("accepted for 2 s") && line.contains("within 4 s"), "{line}");
    let mut after = bouncer.client();
    assert_eq!(after.value("SELECT 'new'"), "new");
    assert_eq!(before.value("SELECT 'old'"), "old");
    eventually("new clients are refused", || is_refused(bouncer.port));
    assert!(signaled.elapsed() >= Duration::from_secs(2), "{:?}", signaled.elapsed());
    assert_closed(&mut before);
    assert_closed(&mut after);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn idle_clients_are_closed_one_after_the_other_and_the_process_ends_with_the_last_one() {
    let mut bouncer = start("0", "6", &[]);
    let clients: Vec<_> = (0..10).map(|_| bouncer.client()).collect();
    let signaled = Instant::now();
    bouncer.signal(Signal::TERM);
    let ends = times_of_ends(&clients);
    // Every half a second, on a machine that is not busy.
    assert!(spread(&ends) >= Duration::from_secs(2), "{ends:?}");
    for mut client in clients {
        assert_closed(&mut client);
    }
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    println!("closed after {ends:?}, ended after {:?}", signaled.elapsed());
}

#[test]
fn idle_clients_go_first_and_a_transaction_is_finished() {
    let mut bouncer = start("0", "8", &[]);
    let mut busy = bouncer.client();
    busy.query("BEGIN");
    let idle: Vec<_> = (0..3).map(|_| bouncer.client()).collect();
    bouncer.signal(Signal::TERM);
    times_of_ends(&idle);
    assert_eq!(busy.value("SELECT 'still'"), "still");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_closed(&mut busy);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn a_client_that_is_never_quiet_is_closed_together_with_an_answer() {
    for mode in ["transaction", "session"] {
        let mut bouncer = start("0", "3", &[&format!("pool_mode = {mode}")]);
        let mut client = bouncer.client();
        bouncer.signal(Signal::TERM);
        let mut transactions = 0;
        while !client.has_pending_input() {
            for statement in ["BEGIN", "SELECT 1", "COMMIT"] {
                let answer = client.query(statement);
                assert_eq!(answer.last().unwrap().tag, b'Z', "{statement} after {transactions} transactions");
            }
            transactions += 1;
        }
        assert!(transactions > 0);
        assert_closed(&mut client);
        assert_eq!(bouncer.wait_for_end().code(), Some(0));
    }
}

/// Pools check a connection with an empty query just before they give it to the application.
#[test]
fn no_client_is_closed_after_an_empty_query() {
    let mut bouncer = start("0", "3", &[]);
    let mut client = bouncer.client();
    bouncer.signal(Signal::TERM);
    loop {
        let check = client.query("");
        if tags(&check) != "IZ" {
            // Closed between two uses.
            assert_eq!(check.last().unwrap().error().0, "57P01");
            break;
        }
        assert_eq!(tags(&client.query("SELECT 1")), "TDCZ");
    }
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn what_is_left_at_the_end_is_closed_and_its_statement_is_canceled() {
    let mut bouncer = start("0", "2", &[]);
    let (mut in_transaction, mut in_statement) = (bouncer.client(), bouncer.client());
    in_transaction.query("BEGIN");
    in_statement.send_query("SELECT pg_sleep(600), 'left at the end of a drain'");
    let mut observer = Client::log_in(postgres().port(), "postgres", "app");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
                   AND query LIKE '%left at the end of a drain%'";
    eventually("the statement runs", || observer.value(running) == "1");
    bouncer.signal(Signal::TERM);
    assert_closed(&mut in_transaction);
    assert_closed(&mut in_statement);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    eventually("the statement was canceled", || observer.value(running) == "0");
}

#[test]
fn a_second_signal_ends_a_drain() {
    for second in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut bouncer = start("600", "900", &[]);
        let mut client = bouncer.client();
        client.query("BEGIN");
        bouncer.signal(Signal::TERM);
        bouncer.wait_for_line("draining: not ready");
        assert_eq!(client.value("SELECT 1"), "1");
        bouncer.signal(second);
        assert_eq!(bouncer.wait_for_end().code(), Some(0));
        assert_closed(&mut client);
    }
}

#[test]
fn the_console_drains_and_a_signal_that_follows_does_not_end_that() {
    let mut bouncer = start("600", "900", &[]);
    let mut console = bouncer.console();
    let mut client = bouncer.client();
    for _ in 0..2 {
        assert_eq!(tags(&console.query("DRAIN")), "CZ");
    }
    bouncer.wait_for_line("DRAIN command issued");
    assert_eq!(console.column("SHOW STATUS", "value")[1..3], ["draining", "no"]);
    bouncer.signal(Signal::TERM);
    bouncer.wait_for_line("already draining");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(bouncer.client().value("SELECT 2"), "2");
    bouncer.signal(Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn without_a_limit_drain_is_refused() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    assert_eq!(console.query("DRAIN")[0].error().0, "55000");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    assert_eq!(tags(&console.query("SET drain_max_seconds = 1")), "CZ");
    assert!(console.query("SET drain_min_seconds = 2")[0].detail().contains("more than drain_max_seconds"));
}

#[test]
fn reload_changes_the_limits_of_a_drain() {
    let mut bouncer = start("600", "900", &[]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    bouncer.signal(Signal::TERM);
    bouncer.wait_for_line("draining: not ready");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    std::fs::write(bouncer.ini(), text.replace("= 600", "= 0").replace("= 900", "= 1")).unwrap();
    bouncer.signal(Signal::HUP);
    assert_closed(&mut client);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn a_client_of_a_paused_pool_is_closed_at_the_end() {
    let mut bouncer = start("0", "1", &[]);
    let mut client = bouncer.client();
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query("PAUSE")), "CZ");
    client.send_query("SELECT 1");
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    bouncer.signal(Signal::TERM);
    assert_closed(&mut client);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn a_waiting_client_is_served_first() {
    let mut bouncer = start("0", "900", &["default_pool_size = 1"]);
    let (mut busy, mut waiting) = (bouncer.client(), bouncer.client());
    busy.query("BEGIN");
    waiting.send_query("SELECT 'served'");
    let mut console = bouncer.console();
    eventually("one client waits", || console.pools("cl_waiting") == ["1"]);
    bouncer.signal(Signal::TERM);
    bouncer.wait_for_line("draining: not ready");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_eq!(waiting.until_ready()[1].row(), [Some("served".to_owned())]);
    bouncer.signal(Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn a_session_that_keeps_its_server_is_idle_between_transactions() {
    let mut bouncer = start("0", "4", &["pool_mode = session"]);
    let mut clients: Vec<_> = (0..3).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.value("SELECT 1");
    }
    bouncer.signal(Signal::TERM);
    times_of_ends(&clients);
    clients.iter_mut().for_each(assert_closed);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    assert!(!bouncer.log().contains("has reached its end"), "{}", bouncer.log());
}

#[test]
fn the_clients_of_all_workers_are_spread_over_the_period() {
    let settings = ["drain_max_seconds = 6", "http_port = 0"];
    let mut workers = Workers::start("draining", 3, &settings);
    let clients = workers.clients_at(&[0, 1, 2]);
    workers.bouncer.signal(Signal::TERM);
    let ends = times_of_ends(&clients);
    // One client each: the workers do not close them at the same time.
    assert!(spread(&ends) >= Duration::from_secs(1), "{ends:?}");
    for mut client in clients {
        assert_closed(&mut client);
    }
    assert_eq!(workers.bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn clients_with_tls_receive_the_reason() {
    let side = ClientSide::new();
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let mut bouncer = side.set(Start::databases(&databases), "require").set("drain_max_seconds = 2").start();
    let mut idle = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
    let mut busy = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
    busy.query("BEGIN");
    bouncer.signal(Signal::TERM);
    for client in [&mut idle, &mut busy] {
        assert_eq!(client.until_end().unwrap()[0].error().0, "57P01");
    }
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

/// A pooler that was started without a file.
fn start_without_file(pairs: &[(&str, &str)]) -> Bouncer {
    let port = postgres().port().to_string();
    let own = [
        ("DB_HOST", "127.0.0.1"),
        ("DB_PORT", port.as_str()),
        ("DB_USER", "app"),
        ("DB_NAME", "app"),
        ("IAMBOUNCER_SERVER_AUTH", "password"),
        ("IAMBOUNCER_SERVER_TLS_SSLMODE", "disable"),
        ("IAMBOUNCER_LISTEN_PORT", "0"),
        ("IAMBOUNCER_HTTP_PORT", "0"),
    ];
    let environment: Vec<_> =
        own.iter().chain(pairs).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Bouncer::spawn(&[], &environment, tempfile::tempdir().unwrap())
}

#[test]
fn without_a_file_term_closes_idle_clients() {
    let bouncer = start_without_file(&[]);
    assert!(bouncer.log().contains("drain_max_seconds = 25"), "{}", bouncer.log());
    drop(bouncer);
    let mut bouncer = start_without_file(&[("IAMBOUNCER_DRAIN_MAX_SECONDS", "2")]);
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    bouncer.signal(Signal::TERM);
    assert_closed(&mut client);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn without_a_file_a_unix_socket_that_cannot_be_created_does_not_prevent_the_start() {
    let mut bouncer = start_without_file(&[("IAMBOUNCER_UNIX_SOCKET_DIR", "/no/such/directory")]);
    assert!(bouncer.log().contains("no UNIX socket"), "{}", bouncer.log());
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    bouncer.signal(Signal::QUIT);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}
