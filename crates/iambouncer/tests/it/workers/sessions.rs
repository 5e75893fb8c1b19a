//! Session state stays with a client when its server moves between workers: cancel requests, prepared
//! statements, parameters, and TLS to the server.

use crate::cancel::cancel;
use crate::support::raw::{self, Client, tags};
use crate::support::{Workers, eventually};
use crate::tls::{Authority, tls_server};

#[test]
fn every_client_cancels_its_own_query_through_any_worker() {
    let workers = Workers::start("workers_cancel", 3, &["default_pool_size = 6"]);
    let mut clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    for client in &mut clients {
        client.send_query("SELECT pg_sleep(60)");
    }
    workers.observer().wait_for_active(clients.len());
    for at in 0..clients.len() {
        let (pid, mut key) = clients[at].cancel_key();
        key[0] ^= 1;
        cancel(workers.bouncer.port, pid, &key);
        assert!(clients[at..].iter().all(|client| !client.has_pending_input()), "a wrong key does nothing");
        key[0] ^= 1;
        cancel(workers.bouncer.port, pid, &key);
        let messages = clients[at].until_ready();
        assert_eq!(messages.iter().find(|m| m.tag == b'E').unwrap().error().0, "57014");
        assert!(clients.iter().all(|client| !client.has_pending_input()), "only client {at} was meant");
    }
    for client in &mut clients {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    workers.servers_agree();
}

#[test]
fn a_late_cancel_never_hits_the_client_of_another_worker() {
    let workers = Workers::start("workers_late", 3, &["default_pool_size = 1"]);
    let mut clients = workers.clients_at(&[0, 1]);
    let (pid, key) = clients[0].cancel_key();
    for _ in 0..40 {
        clients[0].send_query("SELECT 1");
        let (port, key) = (workers.bouncer.port, key.clone());
        let racing = std::thread::spawn(move || cancel(port, pid, &key));
        let answer = tags(&clients[0].until_ready());
        assert!(answer == "TDCZ" || answer.ends_with("EZ"), "{answer}");
        assert_eq!(tags(&clients[1].query("SELECT pg_sleep(0.01)")), "TDCZ");
        racing.join().unwrap();
    }
    workers.servers_agree();
}

#[test]
fn a_waiting_query_is_canceled_at_any_worker() {
    let workers = Workers::start("workers_wait_cancel", 3, &["default_pool_size = 1"]);
    let mut holder = workers.client_at(0);
    let mut waiting = workers.clients_at(&[0, 1, 2]);
    holder.query("BEGIN");
    for client in &mut waiting {
        client.send_query("SELECT 1");
    }
    workers.wait_for_waiting(3);
    for client in &mut waiting {
        let (pid, key) = client.cancel_key();
        cancel(workers.bouncer.port, pid, &key);
        let messages = client.until_ready();
        assert_eq!((tags(&messages).as_str(), messages[0].error().0.as_str()), ("EZ", "57014"));
    }
    assert_eq!(tags(&holder.query("COMMIT")), "CZ");
    for client in &mut waiting {
        assert_eq!(client.value("SELECT 2"), "2");
    }
}

fn prepare(client: &mut Client, name: &str, sql: &str) {
    client.send(&[raw::parse(name, sql), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1Z");
}

fn run_prepared(client: &mut Client, name: &str) -> String {
    client.send(&[raw::bind("", name, &[]), raw::execute(), raw::sync()].concat());
    let messages = client.until_ready();
    assert_eq!(tags(&messages), "2DCZ");
    messages[1].row()[0].clone().unwrap()
}

#[test]
fn a_server_keeps_its_prepared_statements_when_it_moves() {
    let workers = Workers::start("workers_prepared", 3, &["default_pool_size = 1"]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    let pid = clients[0].value("SELECT pg_backend_pid()");
    for (i, client) in clients.iter_mut().enumerate() {
        prepare(client, "shared", "SELECT 41 + 1");
        prepare(client, "mine", &format!("SELECT 'worker {i}'"));
    }
    for turn in 0..10 {
        for (i, client) in clients.iter_mut().enumerate() {
            assert_eq!(run_prepared(client, "shared"), "42", "turn {turn}");
            assert_eq!(run_prepared(client, "mine"), format!("worker {i}"), "turn {turn}");
        }
    }
    assert_eq!(clients[2].value("SELECT pg_backend_pid()"), pid);
    let mut console = workers.bouncer.console();
    assert_eq!(console.column("SHOW SERVERS", "prepared_statements"), ["4"]);
    let databases = console.column("SHOW STATS", "database");
    let at = databases.iter().position(|name| name == "app").unwrap();
    // One statement is shared, three belong to one client each. None is prepared twice.
    assert_eq!(console.column("SHOW STATS", "total_server_parse_count")[at], "4");
    assert_eq!(console.column("SHOW STATS", "total_client_parse_count")[at], "6");
}

#[test]
fn parameters_are_applied_for_each_client_when_a_server_moves() {
    let workers = Workers::start("workers_parameters", 3, &["default_pool_size = 1"]);
    let zones = ["Europe/Berlin", "Asia/Tokyo", "America/Lima"];
    let names = ["first", "second", "third"];
    let mut clients = workers.clients_with(&[0, 1, 2], &[0, 1, 2], |i: usize| {
        let parameters = [
            ("user", workers.user.as_str()),
            ("database", "app"),
            ("application_name", names[i]),
            ("TimeZone", zones[i]),
        ];
        Client::log_in_with(workers.bouncer.port, &parameters)
    });
    let seen = |client: &mut Client| {
        client.value("SELECT current_setting('application_name') || ' ' || current_setting('TimeZone')")
    };
    for _ in 0..5 {
        for i in 0..3 {
            assert_eq!(seen(&mut clients[i]), format!("{} {}", names[i], zones[i]));
        }
    }
    clients[1].query("SET TimeZone = 'Africa/Lagos'");
    for _ in 0..3 {
        assert_eq!(seen(&mut clients[0]), "first Europe/Berlin");
        assert_eq!(seen(&mut clients[1]), "second Africa/Lagos");
    }
    assert_eq!(workers.observer().backends().len(), 1);
    // The console shows the change as well.
    let mut console = workers.bouncer.console();
    eventually("SHOW SERVERS shows the last name", || {
        console.column("SHOW SERVERS", "application_name") == ["second"]
    });
}

#[test]
fn a_server_with_tls_stays_usable_when_it_moves() {
    let authority = Authority::new();
    let server = tls_server("hostssl all all 127.0.0.0/8 trust", &authority.certificates);
    let ca_file = format!("server_tls_ca_file = {}", authority.file().display());
    let settings = ["default_pool_size = 1", "server_tls_sslmode = verify-ca", &ca_file];
    let workers = Workers::in_front_of(&server, "workers_tls", 3, "", &settings);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    let pid = clients[0].value("SELECT pg_backend_pid()");
    for turn in 0..10 {
        for client in &mut clients {
            let text = client.value("SELECT repeat('x', 300000)");
            assert_eq!(text.len(), 300_000, "turn {turn}");
            let ssl = "SELECT ssl || ' ' || pid FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert_eq!(client.value(ssl), format!("true {pid}"), "turn {turn}");
        }
    }
    let tls = workers.bouncer.show("SERVERS", "tls");
    assert!(tls.len() == 1 && tls[0].starts_with("TLSv1.3"), "{tls:?}");
}
