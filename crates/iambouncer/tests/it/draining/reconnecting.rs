//! RECONNECT_CLIENTS: connected clients are closed between transactions, new ones stay.

use super::times_of_ends;
use crate::support::bouncer::Start;
use crate::support::raw::tags;
use crate::support::{Bouncer, Client, Workers, eventually, postgres};

#[test]
fn connected_clients_are_closed_and_later_ones_stay() {
    let workers = Workers::start("reconnecting", 3, &[]);
    let clients = workers.clients_at(&[0, 1, 2]);
    let mut busy = workers.client();
    busy.query("BEGIN");
    let mut console = workers.bouncer.console();
    assert_eq!(tags(&console.query("RECONNECT_CLIENTS app 2")), "CZ");
    let mut later = workers.client();
    times_of_ends(&clients);
    for mut client in clients {
        let error = client.until_end()[0].error();
        assert_eq!(error, ("57P01".to_owned(), "admin forced disconnect".to_owned()));
    }
    assert_eq!(busy.value("SELECT 'still'"), "still");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_eq!(busy.until_end()[0].error().0, "57P01");
    assert_eq!(later.value("SELECT 'new'"), "new");
    assert_eq!(tags(&console.query("SHOW VERSION")), "TDCZ");
    workers.bouncer.wait_for_line("RECONNECT_CLIENTS 'app' command issued");
}

#[test]
fn one_database_can_be_chosen() {
    let line = format!("host=127.0.0.1 port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&format!("app = {line}\nsecond = {line}")).start();
    let (mut first, second) = (bouncer.client(), Client::log_in(bouncer.port, "app", "second"));
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query("RECONNECT_CLIENTS second 0")), "CZ");
    eventually("the client of this database is closed", || second.has_pending_input());
    assert_eq!(first.value("SELECT 1"), "1");
    assert_eq!(tags(&console.query("RECONNECT_CLIENTS 0")), "CZ");
    eventually("all clients are closed", || first.has_pending_input());
}

#[test]
fn wrong_arguments_are_refused() {
    let bouncer = Bouncer::in_front_of(postgres(), &["stats_users = other"]);
    let mut console = bouncer.console();
    for (command, text) in [
        ("RECONNECT_CLIENTS dne", "no such database: dne"),
        ("RECONNECT_CLIENTS pgbouncer", "cannot reconnect admin db: pgbouncer"),
    ] {
        assert_eq!(console.query(command)[0].error(), ("08P01".to_owned(), text.to_owned()));
    }
    for command in ["RECONNECT_CLIENTS app soon", "RECONNECT_CLIENTS app -1", "RECONNECT_CLIENTS app 1 2"] {
        assert_eq!(console.query(command)[0].tag, b'E', "{command}");
    }
    let mut of_stats = Client::log_in(bouncer.port, "other", "pgbouncer");
    for command in ["RECONNECT_CLIENTS", "DRAIN"] {
        assert_eq!(of_stats.query(command)[0].error().1, "admin access needed", "{command}");
    }
}
