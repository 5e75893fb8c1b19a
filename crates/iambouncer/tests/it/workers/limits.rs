//! Limits apply to the whole process, not to each worker.

use crate::support::raw::{self, Client};
use crate::support::{Workers, eventually, postgres};
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

/// Attempts `count` logins at the same time; returns the accepted clients and the errors of the others.
fn many_log_in(workers: &Workers, count: usize) -> (Vec<Client>, Vec<String>) {
    let together = Barrier::new(count);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let log_in = || {
            together.wait();
            let mut client =
                Client::start(workers.bouncer.port, &[("user", workers.user.as_str()), ("database", "app")]);
            client.greeting = client.until_ready();
            client
        };
        let all: Vec<_> = (0..count).map(|_| scope.spawn(log_in)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (inside, refused): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|client| client.greeting.last().is_some_and(|m| m.tag == b'Z'));
    let reasons = refused.iter().map(|client| client.greeting[0].error().1).collect();
    (inside, reasons)
}

#[test]
fn max_db_connections_is_exact_over_workers() {
    let settings = ["default_pool_size = 5", "max_db_connections = 2"];
    let workers = Workers::start("workers_max_db", 3, &settings);
    let clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    let seen: Vec<BTreeSet<String>> = thread::scope(|scope| {
        let run = |mut client: Client| {
            (0..60).map(|_| client.value("SELECT pg_backend_pid()")).collect::<BTreeSet<_>>()
        };
        let all: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || run(client))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // No server was closed, so there were never more than these.
    let all: BTreeSet<String> = seen.into_iter().flatten().collect();
    assert!(all.len() <= 2, "{all:?}");
    workers.servers_agree();
}

#[test]
fn an_idle_server_of_another_user_at_another_worker_is_closed_for_a_waiting_client() {
    let settings = ["max_db_connections = 1"];
    let workers = Workers::start("workers_sibling", 3, &settings);
    let mut mine = workers.clients_at(&[0, 1]);
    let mut others = [workers.other_client_at(1), workers.other_client_at(2)];
    for turn in 0..6 {
        let client = &mut mine[turn % 2];
        assert_eq!(client.value("SELECT current_user"), workers.user, "turn {turn}");
        let client = &mut others[turn / 2 % 2];
        assert_eq!(client.value("SELECT current_user"), "other", "turn {turn}");
        assert_eq!(workers.bouncer.show("SERVERS", "user"), ["other"], "turn {turn}");
    }
    // A server in use is not closed.
    mine[0].query("BEGIN");
    others[1].send_query("SELECT 1");
    let mut console = workers.bouncer.console();
    eventually("the other user waits", || {
        let users = console.pools("user");
        let waiting = console.pools("cl_waiting");
        users.iter().zip(&waiting).any(|(user, waiting)| user == "other" && waiting == "1")
    });
    assert_eq!(console.column("SHOW SERVERS", "user"), [workers.user.as_str()]);
    mine[0].query("COMMIT");
    assert_eq!(others[1].until_ready()[1].row(), [Some("1".to_owned())]);
}

#[test]
fn max_user_connections_is_exact_over_workers_and_databases() {
    let user = "workers_max_user";
    let line = format!("\nagain = host=127.0.0.1 port={} dbname=app", postgres().port());
    let settings = ["default_pool_size = 5", "max_user_connections = 2"];
    let workers = Workers::in_front_of(postgres(), user, 3, &line, &settings);
    let again = |()| Client::log_in(workers.bouncer.port, user, "again");
    let mut clients = workers.clients_at(&[0, 1, 2]);
    clients[0].query("BEGIN");
    clients.extend(workers.clients_with(&[(); 3], &[0, 1, 2], again));
    clients[4].query("BEGIN");
    for at in [1, 2, 3, 5] {
        clients[at].send_query("SELECT 1");
    }
    let mut console = workers.bouncer.console();
    eventually("four wait", || {
        console.pools("cl_waiting").iter().map(|n| n.parse::<u32>().unwrap()).sum::<u32>() == 4
    });
    assert_eq!(workers.observer().backends().len(), 2);
    for at in [0, 4] {
        clients[at].query("COMMIT");
    }
    for at in [1, 2, 3, 5] {
        assert_eq!(clients[at].until_ready()[1].row(), [Some("1".to_owned())]);
    }
    // PostgreSQL takes a moment to end the backends that were replaced.
    eventually("two are left", || workers.observer().backends().len() == 2);
}

#[test]
fn max_client_conn_is_exact_over_workers() {
    let workers = Workers::start("workers_max_client", 3, &["max_client_conn = 4"]);
    let mut inside: Vec<Client> = (0..4).map(|_| workers.client()).collect();
    for leaver in 0..4 {
        let (more, reasons) = many_log_in(&workers, 6);
        assert!(
            more.is_empty() && reasons.iter().all(|text| text.contains("max_client_conn")),
            "{reasons:?}"
        );
        inside.remove(leaver).send(&raw::terminate());
        eventually("a place becomes free", || {
            let (more, _) = many_log_in(&workers, 1);
            inside.extend(more);
            inside.len() == 4
        });
    }
    inside.clear();
    for _ in 0..10 {
        // Clients being refused count as well, so fewer may be accepted, but never more.
        let (inside, _) = many_log_in(&workers, 8);
        assert!(inside.len() <= 4, "{} clients", inside.len());
    }
}

#[test]
fn clients_of_a_user_and_of_a_database_are_limited_exactly() {
    for (name, limit) in [("max_user_client_connections", 2), ("max_db_client_connections", 3)] {
        let user = format!("workers_{name}");
        let workers = Workers::start(&user, 3, &[&format!("{name} = {limit}")]);
        for _ in 0..5 {
            let (inside, reasons) = many_log_in(&workers, 9);
            assert_eq!(inside.len(), limit, "{reasons:?}");
            assert!(reasons.iter().all(|text| text.contains(name)), "{reasons:?}");
            for mut client in inside {
                client.send(&raw::terminate());
            }
            workers.wait_for_clients(0);
        }
    }
}

#[test]
fn a_worker_whose_logins_are_refused_borrows_from_the_others() {
    let workers =
        Workers::start("workers_refused", 3, &["default_pool_size = 3", "server_login_retry = 600"]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    postgres().sql("ALTER ROLE workers_refused CONNECTION LIMIT 1").unwrap();
    // The pool has room for more, PostgreSQL does not. Regression test: other workers were not asked while
    // server_login_retry was in effect.
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.value("SELECT current_user"), "workers_refused");
        }
    }
}
