//! Server lifetimes: replacement of unused servers, and servers that are used once.

use crate::support::bouncer::Start;
use crate::support::raw::Client;
use crate::support::{Bouncer, eventually, postgres};
use std::collections::BTreeSet;

/// Opens three servers and releases them.
fn use_three(bouncer: &Bouncer) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.query("BEGIN");
    }
    assert_eq!(bouncer.show("SERVERS", "state").len(), 3);
    for client in &mut clients {
        client.query("COMMIT");
    }
    clients
}

#[test]
fn a_pool_shrinks_although_its_old_servers_are_replaced() {
    let bouncer = Bouncer::in_front_of(postgres(), &["server_lifetime = 2", "server_idle_timeout = 1"]);
    let mut clients = use_three(&bouncer);
    let pids = |bouncer: &Bouncer| bouncer.show("SERVERS", "remote_pid");
    let first: BTreeSet<String> = pids(&bouncer).into_iter().collect();
    eventually("the servers in use are replaced", || {
        clients[0].query("SELECT 1");
        pids(&bouncer).iter().all(|pid| !first.contains(pid))
    });
    assert!(!pids(&bouncer).is_empty());
    bouncer.wait_for_servers(0);
}

#[test]
fn unused_servers_close_at_their_lifetime_and_are_not_replaced() {
    let bouncer = Bouncer::in_front_of(postgres(), &["server_lifetime = 2"]);
    let clients = use_three(&bouncer);
    drop(clients);
    bouncer.wait_for_servers(0);
    let log = bouncer.log();
    assert_eq!(log.matches("new connection to server").count(), 3, "{log}");
}

#[test]
fn without_an_idle_timeout_unused_servers_close_at_their_lifetime() {
    let bouncer = Bouncer::in_front_of(postgres(), &["server_lifetime = 1", "server_idle_timeout = 0"]);
    let _clients = use_three(&bouncer);
    bouncer.wait_for_servers(0);
}

#[test]
fn with_server_lifetime_0_a_server_is_used_once() {
    for line in ["", "server_lifetime=0"] {
        let port = postgres().port();
        let line = format!("app = host=127.0.0.1 port={port} dbname=app {line}");
        let start = Start::databases(&line).set("default_pool_size = 1");
        let lifetime = if line.ends_with('0') { "server_lifetime = 3600" } else { "server_lifetime = 0" };
        let bouncer = start.set(lifetime).start();
        let mut client = bouncer.client();
        // The server whose parameters the client received at login has not been used yet.
        let first = bouncer.show("SERVERS", "remote_pid");
        let mut pids: Vec<String> = (0..3).map(|_| client.value("SELECT pg_backend_pid()")).collect();
        assert_eq!(pids[0], first[0]);
        client.query("BEGIN");
        pids.push(client.value("SELECT pg_backend_pid()"));
        assert_eq!(client.value("SELECT pg_backend_pid()"), pids[3]);
        client.query("COMMIT");
        assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), 4, "{pids:?}");
        bouncer.wait_for_servers(0);
    }
}

#[test]
fn with_server_lifetime_0_a_server_is_used_for_one_session() {
    let settings = ["pool_mode = session", "default_pool_size = 1", "server_lifetime = 0"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let session = || {
        let mut client = bouncer.client();
        let pid = client.value("SELECT pg_backend_pid()");
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
        pid
    };
    assert_ne!(session(), session());
    bouncer.wait_for_servers(0);
}
