//! Waiting clients: all of them are counted, they receive the error of a refused login, and their disconnect
//! is noticed.

use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::raw::{Client, tags};
use crate::support::scripted::{self, First};
use crate::support::{Bouncer, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A server that never completes a login.
fn silent_server() -> u16 {
    scripted::serve(|mut connection| {
        if let First::Startup = connection.first()? {
            while connection.message().is_ok() {}
        }
        Ok(())
    })
}

fn with_a_client_waiting_for_the_first_server() -> (Bouncer, Client) {
    let line = format!("app = host=127.0.0.1 port={}", silent_server());
    let bouncer = Start::databases(&line).set("http_port = auto").start();
    let client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let mut console = bouncer.console();
    eventually("it waits", || console.pools("cl_waiting") == ["1"]);
    (bouncer, client)
}

#[test]
fn a_client_that_waits_for_the_first_server_counts_as_waiting() {
    let (bouncer, mut client) = with_a_client_waiting_for_the_first_server();
    let mut console = bouncer.console();
    let states = console.column("SHOW CLIENTS", "state");
    assert!(states.contains(&"waiting".to_owned()), "{states:?}");
    eventually("the wait is reported", || console.pools("maxwait_us") != ["0"]);
    let scrape = crate::support::http::scrape(bouncer.http_port());
    assert_eq!(scrape.sum("iambouncer_client_connections", &[("state", "waiting")]), Some(1.0));
    assert_eq!(scrape.sum("iambouncer_pool_waiting", &[]), Some(1.0));
    assert!(scrape.sum("iambouncer_pool_maxwait_seconds", &[]) > Some(0.0));
    assert!(!client.has_pending_input());
    let id =
        console.column("SHOW CLIENTS", "id")[states.iter().position(|s| s == "waiting").unwrap()].clone();
    assert_eq!(tags(&console.query(&format!("KILL_CLIENT {id}"))), "CZ");
    assert_eq!(client.read().unwrap().error().0, "57P01");
}

#[test]
fn the_disconnect_of_a_client_that_waits_for_the_first_server_is_noticed() {
    let (bouncer, client) = with_a_client_waiting_for_the_first_server();
    drop(client);
    let mut console = bouncer.console();
    eventually("it is gone", || console.pools("cl_waiting") == ["0"]);
}

#[test]
fn a_shutdown_sends_an_error_to_clients_that_wait_for_the_first_server() {
    let (mut bouncer, mut client) = with_a_client_waiting_for_the_first_server();
    bouncer.signal(Signal::QUIT);
    assert_eq!(client.read().unwrap().error().0, "57P01");
    bouncer.wait_for_end();
}

/// A server whose role `app` has a password, and a pooler configured with it.
fn with_a_password() -> (Postgres, Bouncer) {
    let hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let server = start(PostgresOptions { hba: Some(hba.to_owned()), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    let line = format!("app = host=127.0.0.1 port={} dbname=postgres", server.port());
    let bouncer =
        Start::databases(&line).set("default_pool_size = 2").set("server_login_retry = 600").start();
    (server, bouncer)
}

#[test]
fn waiting_clients_receive_the_error_of_a_refused_login_while_the_only_server_is_busy() {
    let (server, bouncer) = with_a_password();
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    server.sql("ALTER ROLE app PASSWORD 'another'").unwrap();
    let mut waiting = bouncer.client();
    let began = Instant::now();
    waiting.send_query("SELECT 1");
    let end = waiting.until_end();
    assert_eq!(end[0].error().0, "28P01", "{:?}", end[0].error());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A client with a server keeps it, and no client is refused while servers are being released.
    assert_eq!(holder.value("SELECT 'mine'"), "mine");
    holder.query("COMMIT");
    let mut clients: Vec<Client> = (0..4).map(|_| bouncer.client()).collect();
    for round in 0..5 {
        for client in &mut clients {
            client.send_query("SELECT pg_sleep(0.1)");
        }
        for client in &mut clients {
            assert_eq!(tags(&client.until_ready()), "TDCZ", "round {round}");
        }
    }
}

/// Otherwise the failure would be cached for ten minutes.
#[test]
fn a_cached_refusal_is_dropped_when_reload_corrects_the_password() {
    let (server, bouncer) = with_a_password();
    server.sql("ALTER ROLE app PASSWORD 'another'").unwrap();
    assert_eq!(bouncer.refused_login("app", "app").0, "28P01");
    assert_eq!(bouncer.refused_login("app", "app").0, "28P01");
    std::fs::write(bouncer.dir().join("users.txt"), "\"app\" \"another\"\n\"postgres\" \"\"\n").unwrap();
    assert_eq!(tags(&bouncer.console().query("RELOAD")), "CZ");
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
}

/// The refused login used settings that RELOAD has replaced.
#[test]
fn a_refusal_that_arrives_after_reload_is_not_cached() {
    let (answer, may_answer) = std::sync::mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let logins = std::sync::atomic::AtomicUsize::new(0);
    let port = scripted::serve(move |mut connection| {
        connection.first()?;
        if logins.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            let _ = may_answer.lock().unwrap().recv();
            return connection.send(&scripted::message(b'E', b"SFATAL\0C28P01\0Mwrong\0\0"));
        }
        connection.admit(7)?;
        while connection.message().is_ok() {}
        Ok(())
    });
    let line = format!("app = host=127.0.0.1 port={port}");
    let bouncer = Start::databases(&line).set("server_login_retry = 600").start();
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let mut console = bouncer.console();
    eventually("the login is under way", || console.pools("sv_login") == ["1"]);
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    answer.send(()).unwrap();
    let greeting = client.until_ready();
    assert_eq!(greeting.last().unwrap().tag, b'Z');
    bouncer.wait_for_line("server login failed: FATAL wrong");
}

#[test]
fn a_cached_refusal_is_dropped_when_set_changes_a_login_setting() {
    let hba = "local all all trust\nhostnossl all all 127.0.0.1/32 trust\n";
    let authority = crate::tls::Authority::new();
    let server = start(PostgresOptions {
        hba: Some(hba.to_owned()),
        tls: Some(authority.certificates.for_postgres()),
        ..Default::default()
    });
    server.sql("CREATE ROLE app LOGIN").unwrap();
    let line = format!("app = host=127.0.0.1 port={} dbname=postgres", server.port());
    let bouncer =
        Start::databases(&line).set("server_tls_sslmode = require").set("server_login_retry = 600").start();
    assert_eq!(bouncer.refused_login("app", "app").0, "28000");
    assert_eq!(tags(&bouncer.console().query("SET server_tls_sslmode = 'disable'")), "CZ");
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
}

#[test]
fn query_timeout_limits_the_wait_for_a_server_too() {
    let bouncer = Bouncer::in_front_of(crate::support::postgres(), &["default_pool_size = 1"]);
    let (mut busy, mut waiting) = (bouncer.client(), bouncer.client());
    busy.query("BEGIN");
    bouncer.console().query("SET query_timeout = 0.5");
    waiting.send_query("SELECT 1");
    let (code, text) = waiting.until_end().last().unwrap().error();
    assert_eq!((code.as_str(), text.as_str()), ("57014", "query_timeout"));
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
}
