//! Console commands apply to the clients and servers of all workers, whichever worker serves the console.

use super::moving::{Until, begin_all, commit_all};
use crate::support::raw::tags;
use crate::support::{Client, Workers, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn kill_client_reaches_a_client_of_any_worker() {
    let workers = Workers::start("workers_kill_client", 3, &[]);
    let names = ["at 0", "at 1", "at 2"];
    let mut clients = workers.clients_with(&names, &[0, 1, 2], |name| {
        let parameters = [("user", workers.user.as_str()), ("database", "app"), ("application_name", name)];
        Client::log_in_with(workers.bouncer.port, &parameters)
    });
    workers.wait_for_clients(3);
    let mut console = workers.bouncer.console();
    for (name, client) in names.iter().zip(&mut clients) {
        let known = console.column("SHOW CLIENTS", "application_name");
        let at = known.iter().position(|known| known == name).unwrap();
        let id = console.column("SHOW CLIENTS", "id")[at].clone();
        assert_eq!(tags(&console.query(&format!("KILL_CLIENT {id}"))), "CZ");
        assert_eq!(client.until_end()[0].error().0, "57P01");
        assert_eq!(console.query(&format!("KILL_CLIENT {}", u64::MAX))[0].error().0, "08P01");
    }
}

#[test]
fn pause_waits_for_a_transaction_of_another_worker_and_blocks_new_ones() {
    let workers = Workers::start("workers_pause", 3, &["default_pool_size = 3"]);
    for holder_at in 0..3 {
        let mut holder = workers.client_at(holder_at);
        holder.query("BEGIN");
        let mut late = workers.clients_at(&[0, 1, 2]);
        let mut pauser = workers.bouncer.console();
        pauser.send_query("PAUSE");
        let mut consoles = workers.clients_with(&[(); 3], &[0, 1, 2], |()| workers.bouncer.console());
        eventually("PAUSE is in force at each worker", || consoles.iter_mut().all(Client::sees_pause));
        let mut console = consoles.remove(0);
        for client in &mut late {
            client.send_query("SELECT 'late'");
        }
        workers.wait_for_waiting(3);
        assert_eq!(holder.value("SELECT 'goes on'"), "goes on");
        assert!(!pauser.has_pending_input(), "PAUSE waits for the transaction");
        assert_eq!(tags(&holder.query("COMMIT")), "CZ");
        assert_eq!(tags(&pauser.until_ready()), "CZ");
        assert_eq!(workers.servers(&mut console).len(), 0);
        workers.observer().wait_for_backends(0);
        assert!(late.iter().all(|client| !client.has_pending_input()));
        assert_eq!(tags(&console.query("RESUME")), "CZ");
        for client in &mut late {
            assert_eq!(tags(&client.until_ready()), "TDCZ");
        }
    }
    workers.servers_agree();
}

#[test]
fn pause_closes_all_servers_while_servers_are_moving() {
    let workers = Workers::start("workers_pause_moving", 3, &["default_pool_size = 1"]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    let mut console = workers.bouncer.console();
    for turn in 0..20 {
        for client in &mut clients {
            client.send_query("SELECT 1");
        }
        assert_eq!(tags(&console.query("PAUSE")), "CZ");
        assert_eq!(workers.servers(&mut console).len(), 0, "turn {turn}");
        assert_eq!(tags(&console.query("RESUME")), "CZ");
        for client in &mut clients {
            assert_eq!(tags(&client.until_ready()), "TDCZ");
        }
    }
    workers.servers_agree();
}

#[test]
fn set_is_in_force_for_clients_of_every_worker() {
    let workers = Workers::start("workers_set", 3, &[]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    for client in &mut clients {
        client.send_query("SELECT pg_sleep(60)");
    }
    workers.observer().wait_for_active(3);
    assert_eq!(tags(&workers.bouncer.console().query("SET query_timeout = 1")), "CZ");
    for client in &mut clients {
        assert_eq!(client.until_end().last().unwrap().error().1, "query timeout");
    }
}

#[test]
fn reload_is_in_force_for_clients_of_every_worker() {
    let workers = Workers::start("workers_reload", 3, &["default_pool_size = 1"]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    for client in &mut clients {
        client.send_query("BEGIN");
    }
    workers.wait_for_waiting(2);
    let text = std::fs::read_to_string(workers.bouncer.ini()).unwrap();
    let larger = text.replace("default_pool_size = 1", "default_pool_size = 3");
    std::fs::write(workers.bouncer.ini(), &larger).unwrap();
    let mut console = workers.bouncer.console();
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    for client in &mut clients {
        assert_eq!(tags(&client.until_ready()), "CZ");
    }
    commit_all(&mut clients);
    // A changed database line replaces the servers of all workers.
    std::fs::write(workers.bouncer.ini(), larger.replace("dbname=app", "dbname=postgres")).unwrap();
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    for client in &mut clients {
        assert_eq!(client.value("SELECT current_database()"), "postgres");
    }
    workers.servers_agree();
}

#[test]
fn reconnect_replaces_the_servers_of_all_workers() {
    let workers = Workers::start("workers_reconnect", 3, &["default_pool_size = 3"]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    let before = begin_all(&mut clients);
    commit_all(&mut clients[..2]);
    let mut console = workers.bouncer.console();
    assert_eq!(tags(&console.query("RECONNECT")), "CZ");
    assert!(before.contains(&clients[2].value("SELECT pg_backend_pid()")), "a transaction keeps its server");
    let mut closer = workers.bouncer.console();
    closer.send_query("WAIT_CLOSE");
    commit_all(&mut clients[2..]);
    assert_eq!(tags(&closer.until_ready()), "CZ");
    let after = begin_all(&mut clients);
    assert!(after.len() == 3 && after.is_disjoint(&before), "{before:?} {after:?}");
    commit_all(&mut clients);
    workers.servers_agree();
}

#[test]
fn no_server_from_before_reconnect_is_used_while_servers_are_moving() {
    let workers = Workers::start("workers_moving_old", 3, &["default_pool_size = 1"]);
    let load = workers.clients_at(&[0, 1, 2]);
    let mut client = workers.client_at(1);
    let mut console = workers.bouncer.console();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _until = Until(&is_done);
        for mut client in load {
            let is_done = &is_done;
            scope.spawn(move || {
                while !is_done.load(Ordering::Acquire) {
                    assert_eq!(client.value("SELECT 1"), "1");
                }
            });
        }
        let mut observer = workers.observer();
        for turn in 0..40 {
            let before = observer.backends();
            assert_eq!(tags(&console.query("RECONNECT")), "CZ");
            let pid = client.value("SELECT pg_backend_pid()");
            assert!(!before.contains(&pid), "turn {turn}: {pid} is from before");
        }
    });
    workers.servers_agree();
}

#[test]
fn disable_refuses_clients_at_all_workers() {
    let workers = Workers::start("workers_disable", 3, &[]);
    let mut console = workers.bouncer.console();
    // Connections without a startup packet count as clients: these are distributed over all workers.
    let mut connected: Vec<Client> = (0..12).map(|_| Client::connect(workers.bouncer.port)).collect();
    eventually("all are connected", || {
        console.column("SHOW SOCKETS", "state").iter().filter(|state| *state == "cl_login").count() == 12
    });
    let mut packet = Vec::new();
    let parameters = [("user", workers.user.as_str()), ("database", "app")];
    wire::encode::startup(&mut packet, wire::startup::Version::V3_0, &parameters);
    assert_eq!(tags(&console.query("DISABLE app")), "CZ");
    for client in &mut connected[..6] {
        client.send(&packet);
        assert_eq!(client.until_end()[0].error().0, "57P03");
    }
    assert_eq!(tags(&console.query("ENABLE app")), "CZ");
    for client in &mut connected[6..] {
        client.send(&packet);
        assert_eq!(client.until_ready().last().unwrap().tag, b'Z');
    }
}

#[test]
fn kill_ends_the_clients_of_all_workers() {
    let workers = Workers::start("workers_kill", 3, &[]);
    let mut clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    begin_all(&mut clients[..3]);
    let mut console = workers.bouncer.console();
    assert_eq!(tags(&console.query("KILL app")), "CZ");
    for client in &mut clients {
        assert_eq!(client.until_end()[0].error().0, "57P01");
    }
    workers.observer().wait_for_backends(0);
    assert_eq!(tags(&console.query("RESUME app")), "CZ");
    assert_eq!(workers.client().value("SELECT 1"), "1");
}

#[test]
fn a_pause_canceled_by_resume_at_once_is_answered() {
    let workers = Workers::start("workers_undone", 3, &[]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    begin_all(&mut clients);
    let mut console = workers.bouncer.console();
    for turn in 0..50 {
        let mut pauser = workers.bouncer.console();
        pauser.send_query("PAUSE");
        eventually("PAUSE is in force", || console.sees_pause());
        assert_eq!(tags(&console.query("RESUME")), "CZ");
        // Regression test: a worker that received the PAUSE after RESUME waited for the next change, which may
        // never happen.
        assert_eq!(pauser.until_ready()[0].error().0, "57014", "turn {turn}");
    }
    commit_all(&mut clients);
}
