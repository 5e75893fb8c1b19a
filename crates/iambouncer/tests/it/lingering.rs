//! Statements whose clients have disconnected: they are canceled, and count toward the limits until the
//! server has closed.

use crate::support::bouncer::Start;
use crate::support::raw::{self, Client};
use crate::support::scripted::{self, First};
use crate::support::{Bouncer, Workers, eventually, postgres};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Survives one cancel request; the second ends it.
const STUBBORN: &str = "DO $$ BEGIN PERFORM pg_sleep(60); \
                        EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60); END $$";

/// Runs `sql` from as many clients as the pool has servers, ends them with `end`, and watches PostgreSQL's
/// backends while the same number of new clients take their places.
fn limits_hold(user: &str, settings: &[&str], sql: &str, end: impl Fn(&Workers, Vec<Client>)) {
    let settings = [&["default_pool_size = 2"], settings].concat();
    let workers = Workers::start(user, 2, &settings);
    let mut observer = workers.observer();
    let mut first = workers.clients_at(&[0, 1]);
    for client in &mut first {
        client.send_query(sql);
    }
    observer.wait_for_active(2);
    let old = observer.backends();
    end(&workers, first);
    let mut second = workers.clients_at(&[0, 1]);
    for client in &mut second {
        client.send_query("SELECT pg_sleep(3)");
    }
    eventually("the others run", || {
        let now = observer.backends();
        assert!(now.len() <= 2, "{old:?} {now:?}");
        now.len() == 2 && now.is_disjoint(&old)
    });
    observer.wait_for_active(2);
}

#[test]
fn a_statement_of_a_disconnected_client_counts_until_its_server_has_closed() {
    for (user, sql) in [("lingering_left", "SELECT pg_sleep(60)"), ("lingering_stubborn", STUBBORN)] {
        limits_hold(user, &[], sql, |_, clients| drop(clients));
    }
}

#[test]
fn a_statement_of_a_killed_client_counts_until_its_server_has_closed() {
    limits_hold("lingering_killed", &[], STUBBORN, |workers, clients| {
        let mut console = workers.bouncer.console();
        let users = console.column("SHOW CLIENTS", "user");
        let ids = console.column("SHOW CLIENTS", "id");
        for (_, id) in users.iter().zip(&ids).filter(|(user, _)| **user == workers.user) {
            console.query(&format!("KILL_CLIENT {id}"));
        }
        for mut client in clients {
            assert_eq!(client.until_end().last().unwrap().error().0, "57P01");
        }
    });
}

#[test]
fn a_statement_that_reached_query_timeout_counts_until_its_server_has_closed() {
    limits_hold("lingering_timeout", &["query_timeout = 1"], STUBBORN, |workers, clients| {
        for mut client in clients {
            assert_eq!(client.until_end().last().unwrap().error().1, "query timeout");
        }
        workers.bouncer.console().query("SET query_timeout = 600");
    });
}

#[test]
fn every_statement_of_a_pipeline_is_canceled() {
    let workers = Workers::start("lingering_pipeline", 1, &["default_pool_size = 1"]);
    let mut client = workers.client();
    client.send(&raw::query("SELECT pg_sleep(60)").repeat(3));
    let mut observer = workers.observer();
    observer.wait_for_active(1);
    let old = observer.backends();
    drop(client);
    assert_eq!(workers.client().value("SELECT 'served'"), "served");
    assert!(observer.backends().is_disjoint(&old));
}

/// A server that accepts every client and then neither answers, nor cancels, nor notices a disconnect.
fn unresponsive_server(takes_cancels: bool) -> u16 {
    scripted::serve(move |mut connection| {
        match connection.first()? {
            First::Startup => {
                connection.admit(7)?;
                while connection.message().is_ok() {}
            }
            First::Cancel if takes_cancels => return Ok(()),
            First::Cancel => {}
        }
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    })
}

fn with_a_lingering_server(takes_cancels: bool) -> Bouncer {
    let line = format!("app = host=127.0.0.1 port={}", unresponsive_server(takes_cancels));
    let bouncer = Start::databases(&line).set("default_pool_size = 1").start();
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("the query runs", || console.column("SHOW SERVERS", "state") == ["active"]);
    drop(client);
    eventually("the server lingers", || console.column("SHOW SERVERS", "state") == ["being_canceled"]);
    assert_eq!(console.column("SHOW SERVERS", "close_needed"), ["1"]);
    assert_eq!(console.column("SHOW SERVERS", "link"), [""]);
    assert_eq!(console.pools("sv_being_canceled"), ["1"]);
    bouncer
}

#[test]
fn a_server_that_never_closes_occupies_the_pool_for_a_bounded_time() {
    let bouncer = with_a_lingering_server(true);
    let began = Instant::now();
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("the client has its place", || console.column("SHOW SERVERS", "state") == ["active"]);
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    bouncer.wait_for_line("did not close after its client had disconnected");
}

#[test]
fn a_server_that_cannot_be_canceled_occupies_the_pool_only_briefly() {
    let bouncer = with_a_lingering_server(false);
    let began = Instant::now();
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("the client has its place", || console.column("SHOW SERVERS", "state") == ["active"]);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_never_closes_delays_neither_shutdown_nor_kill_nor_pause() {
    let bouncer = with_a_lingering_server(true);
    let mut console = bouncer.console();
    let began = Instant::now();
    assert_eq!(raw::tags(&console.query("KILL app")), "CZ");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(raw::tags(&console.query("RESUME app")), "CZ");
    assert_eq!(raw::tags(&console.query("PAUSE app")), "CZ");
    for signal in [Signal::INT, Signal::TERM] {
        let mut bouncer = with_a_lingering_server(true);
        let began = Instant::now();
        bouncer.signal(signal);
        bouncer.wait_for_end();
        assert!(began.elapsed() < Duration::from_secs(8), "{signal:?}: {:?}", began.elapsed());
    }
}

#[test]
fn a_connect_query_that_takes_too_long_is_canceled() {
    let line = "connect_query='SELECT pg_sleep(60)'";
    let settings = ["server_connect_timeout = 1", "query_wait_timeout = 4"];
    let workers = Workers::in_front_of(postgres(), "lingering_connect", 1, line, &settings);
    let mut observer = workers.observer();
    let mut client = Client::start(workers.bouncer.port, &[("user", &workers.user), ("database", "app")]);
    let mut seen = std::collections::BTreeSet::new();
    eventually("the client receives an error", || {
        let backends = observer.backends();
        // A backend that is exiting may still be listed next to its replacement.
        assert!(backends.len() <= 2, "{backends:?}");
        seen.extend(backends);
        client.has_pending_input()
    });
    assert!(seen.len() >= 2, "{seen:?}");
    assert_eq!(client.read().unwrap().error().0, "08001");
    observer.wait_for_backends(0);
}

#[test]
fn a_shutdown_during_a_connect_query_succeeds() {
    let workers =
        Workers::in_front_of(postgres(), "lingering_end", 1, "connect_query='SELECT pg_sleep(5)'", &[]);
    let _client = Client::start(workers.bouncer.port, &[("user", &workers.user), ("database", "app")]);
    workers.observer().wait_for_active(1);
    let mut bouncer = workers.bouncer;
    bouncer.signal(Signal::QUIT);
    assert!(bouncer.wait_for_end().success());
}
