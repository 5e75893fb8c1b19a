//! How long state of unused databases and pools is kept, and what happens to databases whose line was
//! removed.

use crate::support::bouncer::Start;
use crate::support::postgres;
use crate::support::raw::{Client, tags};
use crate::support::scripted;
use crate::support::{Bouncer, Workers, eventually};

/// A pooler with a `*` line only.
fn behind_a_star(settings: &[&str]) -> Bouncer {
    let line = format!("* = host=127.0.0.1 port={}", postgres().port());
    let start = Start::databases(&line).set("server_idle_timeout = 1");
    settings.iter().fold(start, |start, line| start.set(line)).start()
}

/// One column of the row for a database.
fn column_of(console: &mut Client, what: &str, name: &str, column: &str) -> Option<String> {
    let key = if what == "DATABASES" { "name" } else { "database" };
    let at = console.column(&format!("SHOW {what}"), key).iter().position(|it| it == name)?;
    console.column(&format!("SHOW {what}"), column).get(at).cloned()
}

/// Waits until the pooler has removed unused state: a database that does not exist on the server is removed
/// then.
fn wait_for_a_sweep(bouncer: &Bouncer) {
    let mut console = bouncer.console();
    console.query("DISABLE unknown_database");
    console.query("ENABLE unknown_database");
    eventually("the unknown database is forgotten", || {
        column_of(&mut console, "DATABASES", "unknown_database", "paused").is_none()
    });
}

#[test]
fn pause_and_disable_of_a_fallback_database_last_until_they_are_undone() {
    let bouncer = behind_a_star(&["autodb_idle_timeout = 1", "workers = 2"]);
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query("PAUSE app")), "CZ");
    assert_eq!(tags(&console.query("DISABLE postgres")), "CZ");
    for _ in 0..12 {
        wait_for_a_sweep(&bouncer);
    }
    assert_eq!(column_of(&mut console, "DATABASES", "app", "paused").as_deref(), Some("1"));
    assert_eq!(column_of(&mut console, "DATABASES", "postgres", "disabled").as_deref(), Some("1"));
    let (code, text, _) = bouncer.refused_login("postgres", "postgres");
    assert!(code == "57P03" && text.contains("is disabled"), "{text}");
    let mut waiting = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    eventually("the client waits", || {
        column_of(&mut console, "POOLS", "app", "cl_waiting").as_deref() == Some("1")
    });
    assert_eq!(tags(&console.query("RESUME app")), "CZ");
    waiting.until_ready();
    assert_eq!(waiting.value("SELECT 'served'"), "served");
    assert_eq!(tags(&console.query("ENABLE postgres")), "CZ");
    drop(waiting);
    eventually("both are forgotten", || {
        ["app", "postgres"].iter().all(|name| column_of(&mut console, "DATABASES", name, "paused").is_none())
    });
}

#[test]
fn pool_idle_timeout_removes_a_pool_and_keeps_its_database() {
    let databases = format!("app = host=127.0.0.1 port={}", postgres().port());
    let bouncer = Start::databases(&databases).set("server_idle_timeout = 1").start();
    let mut console = bouncer.console();
    let mut client = bouncer.client();
    assert_eq!(tags(&console.query("SET pool_idle_timeout = 0.5")), "CZ");
    client.query("SELECT pg_sleep(1.5)");
    let row = |console: &mut Client, what, column| column_of(console, what, "app", column);
    assert!(row(&mut console, "POOLS", "cl_active").is_some(), "it is in use");
    drop(client);
    eventually("the pool is removed", || row(&mut console, "POOLS", "cl_active").is_none());
    assert_eq!(row(&mut console, "STATS", "total_query_count").as_deref(), Some("1"));
    assert!(column_of(&mut console, "DATABASES", "app", "paused").is_some());
}

#[test]
fn statistics_of_a_fallback_database_last_until_autodb_idle_timeout() {
    let bouncer = behind_a_star(&[]);
    let mut console = bouncer.console();
    Client::log_in(bouncer.port, "app", "app").value("SELECT 1");
    bouncer.wait_for_servers(0);
    for _ in 0..3 {
        wait_for_a_sweep(&bouncer);
    }
    let queries = |console: &mut Client| column_of(console, "STATS", "app", "total_query_count");
    assert_eq!(queries(&mut console).as_deref(), Some("1"));
    Client::log_in(bouncer.port, "app", "app").value("SELECT 1");
    assert_eq!(queries(&mut console).as_deref(), Some("2"));
    assert_eq!(tags(&console.query("SET autodb_idle_timeout = 1")), "CZ");
    eventually("it is forgotten", || queries(&mut console).is_none());
    assert_eq!(console.pools("database").len(), 0);
}

#[test]
fn unused_pools_of_a_named_database_are_removed_and_its_counters_never_decrease() {
    for workers in [1, 3] {
        let user = format!("forgetting_{workers}");
        let settings = ["autodb_idle_timeout = 1", "server_idle_timeout = 1"];
        let workers = Workers::start(&user, workers, &settings);
        let users: Vec<String> = (0..20).map(|i| format!("{user}_{i}")).collect();
        let roles: String = users.iter().map(|user| format!("CREATE ROLE {user} LOGIN;")).collect();
        postgres().sql(&roles).unwrap();
        let lines: String = users.iter().map(|user| format!("\"{user}\" \"\"\n")).collect();
        std::fs::write(workers.bouncer.dir().join("users.txt"), lines + "\"postgres\" \"\"\n").unwrap();
        let mut console = workers.bouncer.console();
        console.query("RELOAD");
        let queries = |console: &mut Client| -> u64 {
            column_of(console, "STATS", "app", "total_query_count").unwrap().parse().unwrap()
        };
        for round in 1..=2 {
            for user in &users {
                Client::log_in(workers.bouncer.port, user, "app").value("SELECT 1");
            }
            let counted = 20 * round;
            eventually("all are counted", || queries(&mut console) == counted);
            eventually("the pools are forgotten", || {
                assert_eq!(queries(&mut console), counted);
                console.pools("user").is_empty()
            });
            assert_eq!(queries(&mut console), counted);
        }
    }
}

/// Replaces the database lines of a running pooler.
fn reload_with(bouncer: &Bouncer, lines: &str) {
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let (_, settings) = text.split_once("[pgbouncer]").unwrap();
    std::fs::write(bouncer.ini(), format!("[databases]\n{lines}\n[pgbouncer]{settings}")).unwrap();
    assert_eq!(tags(&bouncer.console().query("RELOAD")), "CZ");
}

#[test]
fn a_database_that_reload_removes_disconnects_its_clients() {
    let workers = Workers::start("removed_clients", 2, &["default_pool_size = 1"]);
    let mut idle = workers.clients_at(&[0, 1]);
    let mut busy = workers.client();
    let mut queued = workers.client();
    busy.send_query("SELECT pg_sleep(60)");
    let mut observer = workers.observer();
    observer.wait_for_active(1);
    queued.send_query("SELECT 1");
    workers.wait_for_waiting(1);
    let kept = format!("kept = host=127.0.0.1 port={} dbname=app", postgres().port());
    reload_with(&workers.bouncer, &kept);
    for client in idle.iter_mut().chain([&mut busy, &mut queued]) {
        let end = client.until_end();
        assert_eq!(end.last().unwrap().error(), ("57P04".to_owned(), "database removed".to_owned()));
    }
    assert_eq!(workers.bouncer.refused_login(&workers.user, "app").0, "3D000");
    observer.wait_for_backends(0);
    assert_eq!(workers.bouncer.show("DATABASES", "name"), ["kept", "pgbouncer"]);
    assert_eq!(workers.bouncer.console().pools("database").len(), 0);
    assert_eq!(Client::log_in(workers.bouncer.port, &workers.user, "kept").value("SELECT 1"), "1");
}

#[test]
fn removing_a_line_disconnects_despite_a_fallback_line_and_adding_one_does_not() {
    let port = postgres().port();
    let star = format!("* = host=127.0.0.1 port={port}");
    let named = format!("{star}\napp = host=127.0.0.1 port={port} dbname=app user=other");
    let bouncer = Start::databases(&named).set("autodb_idle_timeout = 1").start();
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT current_user"), "other");
    reload_with(&bouncer, &star);
    assert_eq!(client.until_end().last().unwrap().error().0, "57P04");
    // With the other line, clients keep their own user.
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT current_user"), "app");
    reload_with(&bouncer, &format!("{star}\napp = host=127.0.0.1 port={port} dbname=app"));
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    drop(client);
    // The database now has a line of its own and is kept.
    bouncer.console().query("KILL app");
    bouncer.console().query("RESUME app");
    for _ in 0..8 {
        wait_for_a_sweep(&bouncer);
    }
    assert!(bouncer.show("DATABASES", "name").contains(&"app".to_owned()));
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

/// A server that accepts every client and reports this version.
fn server_of_version(version: &'static str) -> u16 {
    scripted::serve(move |mut connection| {
        connection.first()?;
        let reported = format!("server_version\0{version}\0");
        let greeting = [
            scripted::message(b'R', &[0; 4]),
            scripted::message(b'S', reported.as_bytes()),
            scripted::key_data(7),
            scripted::ready(b'I'),
        ];
        connection.send(&greeting.concat())?;
        while connection.message().is_ok() {}
        Ok(())
    })
}

#[test]
fn clients_receive_the_parameters_of_the_current_lines_server() {
    let line = |port: u16| format!("app = host=127.0.0.1 port={port}");
    let old = line(server_of_version("1.0"));
    let bouncer = Start::databases(&old).set("workers = 2").start();
    let clients: Vec<Client> = (0..4).map(|_| bouncer.client()).collect();
    assert!(clients.iter().all(|client| client.reported("server_version").as_deref() == Some("1.0")));
    reload_with(&bouncer, &line(server_of_version("2.0")));
    for _ in 0..4 {
        assert_eq!(bouncer.client().reported("server_version").as_deref(), Some("2.0"));
    }
}
