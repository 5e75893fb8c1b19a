//! Sessions that settings end (`server_fast_close` and `disable_pqexec`), and many sessions that end at once.

use crate::support::raw::{bind, execute, parse, sync, tags};
use crate::support::{Bouncer, Client, eventually, postgres};
use rustix::process::Signal;

/// More than a worker handles at once before the requests of others.
const MANY: usize = 300;

#[test]
fn of_many_clients_that_disconnect_at_once_none_remains() {
    for engine in ["epoll", "auto"] {
        let limit = format!("max_client_conn = {}", MANY + 4);
        let settings = ["workers = 1", &format!("io_engine = {engine}"), &limit, "default_pool_size = 2"];
        let bouncer = Bouncer::in_front_of(postgres(), &settings);
        let mut console = bouncer.console();
        let mut stays = bouncer.client();
        let mut in_transaction = bouncer.client();
        in_transaction.query("BEGIN");
        let clients: Vec<Client> = (0..MANY).map(|_| bouncer.client()).collect();
        bouncer.signal(Signal::STOP);
        drop((clients, in_transaction));
        bouncer.signal(Signal::CONT);
        // One of them had a server, which others get.
        assert_eq!(stays.query("BEGIN").len(), 2);
        assert_eq!(bouncer.client().value("SELECT 1"), "1");
        stays.query("COMMIT");
        eventually("only this client is left", || {
            console.column("SHOW CLIENTS", "database").iter().filter(|name| *name != "pgbouncer").count() == 1
        });
        // So are their places in the limit.
        let again: Vec<Client> = (0..MANY).map(|_| bouncer.client()).collect();
        assert_eq!(again.len(), MANY);
    }
}

#[test]
fn with_server_fast_close_sessions_end_with_their_transaction() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session", "server_fast_close = 1"]);
    let (mut idle, mut busy) = (bouncer.client(), bouncer.client());
    idle.query("SELECT 1");
    busy.query("BEGIN");
    assert_eq!(tags(&bouncer.console().query("RECONNECT")), "CZ");
    let ended = idle.until_end();
    assert_eq!(ended[0].error(), ("57P01".to_owned(), "database configuration changed".to_owned()));
    assert_eq!(busy.value("SELECT 'still'"), "still");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_eq!(busy.until_end()[0].error().1, "database configuration changed");
    bouncer.wait_for_servers(0);
    // A client without a server of the old configuration is not concerned.
    let mut next = bouncer.client();
    assert_eq!(next.value("SELECT 'new'"), "new");
}

#[test]
fn without_server_fast_close_a_session_keeps_its_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session"]);
    let mut client = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    bouncer.console().query("RECONNECT");
    let mut other = bouncer.client();
    other.query("SELECT pg_sleep(0.5)");
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
    // The reset query would be of no use: the server is closed.
    drop(client);
    bouncer.wait_for_line("closing because: database configuration changed");
    bouncer.wait_for_servers(1);
}

#[test]
fn disable_pqexec_closes_clients_that_send_a_simple_query() {
    let bouncer = Bouncer::in_front_of(postgres(), &["disable_pqexec = 1"]);
    let mut client = bouncer.client();
    client.send(&[parse("", "SELECT 7"), bind("", "", &[]), execute(), sync()].concat());
    assert_eq!(tags(&client.until_ready()), "12DCZ");
    client.send_query("SELECT 1");
    let end = client.until_end();
    assert_eq!(end[0].error(), ("08P01".to_owned(), "PQexec disallowed".to_owned()));
    // The console has no other protocol in PgBouncer.
    assert_eq!(tags(&bouncer.console().query("SHOW VERSION")), "TDCZ");
    assert!(bouncer.console().query("SET disable_pqexec = 0")[0].detail().contains("restart"));
}
