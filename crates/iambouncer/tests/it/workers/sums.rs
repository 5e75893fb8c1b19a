//! The console shows the clients, servers and counters of all workers, each once.

use super::moving::{begin_all, commit_all};
use crate::support::raw::Client;
use crate::support::{Workers, eventually};
use std::collections::BTreeSet;

/// The value of a column in the row with this key.
fn item(console: &mut Client, what: &str, key: (&str, &str), column: &str) -> String {
    let keys = console.column(&format!("SHOW {what}"), key.0);
    let at = keys.iter().position(|name| name == key.1).unwrap_or_else(|| panic!("{key:?} in {keys:?}"));
    assert_eq!(keys.iter().filter(|name| *name == key.1).count(), 1, "{key:?} once in SHOW {what}");
    console.column(&format!("SHOW {what}"), column)[at].clone()
}

#[test]
fn the_console_shows_what_all_workers_have_each_once() {
    let workers = Workers::start("workers_shown", 3, &["default_pool_size = 4"]);
    let mut clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    workers.wait_for_clients(6);
    let backends = begin_all(&mut clients[..3]);
    let mut console = workers.bouncer.console();

    let pool: Vec<String> = ["cl_active", "cl_waiting", "sv_active", "sv_login"]
        .iter()
        .map(|column| item(&mut console, "POOLS", ("database", "app"), column))
        .collect();
    assert_eq!(pool, ["6", "0", "3", "0"]);

    assert_eq!(console.column("SHOW CLIENTS", "user").iter().filter(|u| **u == workers.user).count(), 6);
    let ids: BTreeSet<String> = console.column("SHOW CLIENTS", "id").into_iter().collect();
    assert_eq!(ids.len(), 7, "six and the console, each once: {ids:?}");
    // Links are shown for both clients and servers.
    let linked = |console: &mut Client, what: &str| -> BTreeSet<(String, String)> {
        let own = console.column(&format!("SHOW {what}"), "ptr");
        let other = console.column(&format!("SHOW {what}"), "link");
        own.into_iter().zip(other).filter(|(_, other)| !other.is_empty()).collect()
    };
    let from_clients = linked(&mut console, "CLIENTS");
    let from_servers = linked(&mut console, "SERVERS").into_iter().map(|(own, other)| (other, own)).collect();
    assert_eq!((from_clients.len(), &from_clients), (3, &from_servers));

    let active: BTreeSet<String> = console
        .column("SHOW SERVERS", "remote_pid")
        .into_iter()
        .zip(console.column("SHOW SERVERS", "state"))
        .filter_map(|(pid, state)| (state == "active").then_some(pid))
        .collect();
    assert_eq!(active, backends);

    // A server that a worker had requested before may be about to open.
    eventually("all servers are counted", || {
        let open = workers.observer().backends().len().to_string();
        item(&mut console, "DATABASES", ("name", "app"), "current_connections") == open
    });
    assert_eq!(item(&mut console, "DATABASES", ("name", "app"), "current_client_connections"), "6");
    for (name, count) in [("databases", "2"), ("pools", "2"), ("used_clients", "7"), ("login_clients", "0")] {
        assert_eq!(item(&mut console, "LISTS", ("list", name), "items"), count, "{name}");
    }
    assert_eq!(item(&mut console, "LISTS", ("list", "used_servers"), "items"), "3");
    commit_all(&mut clients[..3]);
}

#[test]
fn queries_and_transactions_of_all_workers_are_counted() {
    let workers = Workers::start("workers_counted", 3, &["default_pool_size = 2"]);
    let mut clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    for _ in 0..10 {
        for client in &mut clients {
            assert_eq!(client.value("SELECT 1"), "1");
        }
    }
    let mut console = workers.bouncer.console();
    for column in ["total_query_count", "total_xact_count", "total_server_assignment_count"] {
        eventually(column, || item(&mut console, "STATS", ("database", "app"), column) == "60");
    }
    let mut sent = 0;
    for client in &mut clients {
        sent += client.query("SELECT repeat('x', 1000)").iter().map(|m| m.bytes.len()).sum::<usize>();
    }
    let reported: usize = item(&mut console, "STATS", ("database", "app"), "total_sent").parse().unwrap();
    assert!(reported >= sent, "{reported} of at least {sent} bytes");
}

#[test]
fn waiting_clients_of_all_workers_are_counted_and_the_oldest_determines_maxwait() {
    let workers = Workers::start("workers_maxwait", 3, &["default_pool_size = 1"]);
    let mut holder = workers.client_at(1);
    let mut waiting = workers.clients_at(&[0, 1, 2]);
    holder.query("BEGIN");
    waiting[0].send_query("SELECT 1");
    workers.wait_for_waiting(1);
    let mut console = workers.bouncer.console();
    eventually("one has waited for a second", || workers.in_pools(&mut console, "maxwait") != "0");
    for client in &mut waiting[1..] {
        client.send_query("SELECT 1");
    }
    workers.wait_for_waiting(3);
    assert_ne!(workers.in_pools(&mut console, "maxwait"), "0");
    assert_eq!(workers.in_pools(&mut console, "sv_active"), "1");
    holder.query("COMMIT");
    for client in &mut waiting {
        client.until_ready();
    }
    eventually("no client waits", || workers.in_pools(&mut console, "cl_waiting") == "0");
    assert_eq!(workers.in_pools(&mut console, "maxwait"), "0");
}
