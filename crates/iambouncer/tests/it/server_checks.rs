//! `server_check_query`: servers that were idle are checked before a client gets them, and a failed check costs the
//! client nothing but time.

use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::raw::Client;
use crate::support::scripted::{self, message, ready};
use crate::support::{Bouncer, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server that logs all statements, and a pooler in front of it.
fn logging_server(settings: &[&str]) -> (Postgres, Bouncer) {
    let config_lines = vec!["log_statement = 'all'".to_owned()];
    let server = start(PostgresOptions { config_lines, ..Default::default() });
    server.sql("CREATE ROLE app LOGIN").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    let bouncer = Bouncer::in_front_of(&server, settings);
    (server, bouncer)
}

/// How often a line of the server's log ends with this statement, once it has logged `last`.
fn logged(server: &Postgres, statement: &str, last: &str) -> usize {
    eventually("the last statement is logged", || server.log().contains(&format!("statement: {last}\n")));
    server.log().matches(&format!("statement: {statement}\n")).count()
}

#[test]
fn a_server_that_was_idle_is_checked_with_one_statement() {
    for (settings, statement) in [
        (&["server_check_delay = 0"][..], ""),
        (&["server_check_delay = 0", "server_check_query = SELECT 2"][..], "SELECT 2"),
    ] {
        let (server, bouncer) = logging_server(settings);
        let mut first = bouncer.client();
        let pid = first.value("SELECT pg_backend_pid()");
        let before = logged(&server, statement, "SELECT pg_backend_pid()");
        let mut second = bouncer.client();
        assert_eq!(second.value("SELECT pg_backend_pid() + 0"), pid);
        assert_eq!(logged(&server, statement, "SELECT pg_backend_pid() + 0"), before + 1);
    }
}

#[test]
fn a_server_is_checked_after_the_delay_only_and_never_without_a_query() {
    let (server, bouncer) = logging_server(&["server_check_query = SELECT 2"]);
    let mut client = bouncer.client();
    client.query("SELECT 1");
    client.query("SELECT 11");
    assert_eq!(logged(&server, "SELECT 2", "SELECT 11"), 0);
    let mut console = bouncer.console();
    console.query("SET server_check_delay = 0.3");
    eventually("the server is checked", || {
        std::thread::sleep(std::time::Duration::from_millis(600));
        client.query("SELECT 12");
        logged(&server, "SELECT 2", "SELECT 12") > 0
    });
    console.query("SET server_check_delay = 0");
    console.query("SET server_check_query = ''");
    let before = logged(&server, "SELECT 2", "SELECT 12");
    client.query("SELECT 13");
    assert_eq!(logged(&server, "SELECT 2", "SELECT 13"), before);
}

/// A server whose first connection no longer answers a check, and the number of connections.
fn server_with_a_bad_connection(is_silent: bool) -> (u16, Arc<AtomicU32>) {
    let connections = Arc::new(AtomicU32::new(0));
    let count = connections.clone();
    let port = scripted::serve(move |mut connection| {
        let scripted::First::Startup = connection.first()? else { return Ok(()) };
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        connection.admit(number)?;
        loop {
            let (_, body) = connection.message()?;
            if body == b"SELECT 'check'\0" && number == 1 {
                if is_silent {
                    while connection.message().is_ok() {}
                }
                return Ok(());
            }
            connection
                .send(&[message(b'C', format!("SELECT {number}\0").as_bytes()), ready(b'I')].concat())?;
        }
    });
    (port, connections)
}

#[test]
fn a_client_gets_another_server_when_the_check_fails() {
    for is_silent in [false, true] {
        let (port, connections) = server_with_a_bad_connection(is_silent);
        let line = format!("app = host=127.0.0.1 port={port} pool_size=1");
        let bouncer = Start::databases(&line)
            .set("server_check_query = SELECT 'check'")
            .set("server_connect_timeout = 1")
            .set("query_wait_timeout = 15")
            .start();
        let mut client = bouncer.client();
        assert_eq!(client.query("SELECT 1")[0].bytes[5..], *b"SELECT 1\0");
        bouncer.console().query("SET server_check_delay = 0");
        assert_eq!(client.query("SELECT 1")[0].bytes[5..], *b"SELECT 2\0");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
        bouncer.wait_for_line("closing because: test query failed");
        assert!(bouncer.show("POOLS", "sv_tested").iter().all(|tested| tested == "0"));
    }
}

#[test]
fn each_of_several_waiting_clients_has_one_server_checked() {
    let (server, bouncer) = logging_server(&["server_check_query = SELECT 2", "default_pool_size = 3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.query("BEGIN");
    }
    for client in &mut clients {
        client.query("COMMIT");
    }
    bouncer.wait_for_servers(3);
    bouncer.console().query("SET server_check_delay = 0");
    for client in &mut clients[..2] {
        client.send_query("BEGIN");
    }
    for client in &mut clients[..2] {
        client.until_ready();
    }
    clients[0].query("SELECT 21");
    assert_eq!(logged(&server, "SELECT 2", "SELECT 21"), 2);
    bouncer.wait_for_servers(3);
    // PAUSE waits for a check and leaves no server.
    for client in &mut clients[..2] {
        client.query("COMMIT");
    }
    clients[2].send_query("SELECT 22");
    bouncer.console().query("PAUSE");
    bouncer.wait_for_servers(0);
    bouncer.console().query("RESUME");
    clients[2].until_ready();
}
