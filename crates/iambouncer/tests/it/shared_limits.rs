//! Limits that several pools share: a waiting client gets the place of an idle server of another pool, at
//! this worker or another, or else of a busy one after its release.

use crate::support::bouncer::Start;
use crate::support::raw::Client;
use crate::support::{Bouncer, Workers, eventually, postgres};
use std::sync::atomic::{AtomicBool, Ordering};

/// Two databases on one server, `a` and `b`.
fn two_databases(settings: &[&str]) -> Bouncer {
    let port = postgres().port();
    let lines =
        format!("a = host=127.0.0.1 port={port} dbname=app\nb = host=127.0.0.1 port={port} dbname=app");
    settings.iter().fold(Start::databases(&lines), |start, line| start.set(line)).start()
}

#[test]
fn a_users_idle_server_of_another_database_is_closed_for_a_waiting_client() {
    let bouncer = two_databases(&["max_user_connections = 1", "query_wait_timeout = 15"]);
    let mut clients = [Client::log_in(bouncer.port, "app", "a"), Client::log_in(bouncer.port, "app", "b")];
    for turn in 0..20 {
        let client = &mut clients[turn % 2];
        assert_eq!(client.value("SELECT current_database()"), "app", "turn {turn}");
        assert_eq!(bouncer.show("SERVERS", "state").len(), 1);
    }
}

#[test]
fn a_client_of_another_database_waits_only_while_the_users_servers_are_busy() {
    let bouncer = two_databases(&["max_user_connections = 1", "query_wait_timeout = 15"]);
    let mut a = Client::log_in(bouncer.port, "app", "a");
    let mut b = Client::log_in(bouncer.port, "app", "b");
    a.query("BEGIN");
    b.send_query("SELECT 'served'");
    let mut console = bouncer.console();
    eventually("b waits", || {
        let databases = console.pools("database");
        let waiting = console.pools("cl_waiting");
        databases.iter().zip(&waiting).any(|(database, waiting)| database == "b" && waiting == "1")
    });
    a.query("COMMIT");
    assert_eq!(b.until_ready()[1].row(), [Some("served".to_owned())]);
}

#[test]
fn clients_of_a_busy_pool_do_not_starve_those_of_another_that_shares_its_limit() {
    let limits = [("max_user_connections", "app", "app"), ("max_db_connections", "app", "other")];
    for (limit, user_a, user_b) in limits {
        let bouncer = two_databases(&[&format!("{limit} = 1"), "query_wait_timeout = 15"]);
        let database_b = if user_a == user_b { "b" } else { "a" };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // One of these is always waiting.
            for _ in 0..3 {
                let mut client = Client::log_in(bouncer.port, user_a, "a");
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        client.value("SELECT pg_sleep(0.02)");
                    }
                });
            }
            let mut b = Client::start(bouncer.port, &[("user", user_b), ("database", database_b)]);
            b.until_ready();
            let served = b.query("SELECT 'served'");
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(served[1].row(), [Some("served".to_owned())], "{limit}");
        });
    }
}

#[test]
fn a_users_idle_server_at_another_worker_is_closed_for_a_waiting_client() {
    let user = "shared_limits_workers";
    let line = format!("\nagain = host=127.0.0.1 port={} dbname=app", postgres().port());
    let settings = ["max_user_connections = 1", "query_wait_timeout = 15"];
    let workers = Workers::in_front_of(postgres(), user, 3, &line, &settings);
    let mut apps = workers.clients_at(&[0, 1, 2]);
    let again = |()| Client::log_in(workers.bouncer.port, user, "again");
    let mut agains = workers.clients_with(&[(); 3], &[0, 1, 2], again);
    for turn in 0..12 {
        assert_eq!(apps[turn % 3].value("SELECT 1"), "1", "turn {turn}");
        assert_eq!(agains[(turn + 1) % 3].value("SELECT 2"), "2", "turn {turn}");
        assert_eq!(workers.bouncer.show("SERVERS", "user").len(), 1, "turn {turn}");
    }
    // A busy server is closed when it is released.
    apps[0].query("BEGIN");
    agains[1].send_query("SELECT 'served'");
    let mut console = workers.bouncer.console();
    eventually("the client waits", || console.pools("cl_waiting").contains(&"1".to_owned()));
    apps[0].query("COMMIT");
    assert_eq!(agains[1].until_ready()[1].row(), [Some("served".to_owned())]);
}

/// No idle server is closed if another limit would still be full.
#[test]
fn an_idle_server_is_not_closed_if_another_limit_stays_full() {
    let settings = ["max_user_connections = 1", "max_db_connections = 1", "query_wait_timeout = 15"];
    let bouncer = two_databases(&settings);
    let mut idle = Client::log_in(bouncer.port, "app", "b");
    let pid = idle.value("SELECT pg_backend_pid()");
    let mut holder = Client::log_in(bouncer.port, "other", "a");
    holder.query("BEGIN");
    let mut waiting = Client::start(bouncer.port, &[("user", "app"), ("database", "a")]);
    let mut console = bouncer.console();
    eventually("the client waits", || console.pools("cl_waiting").contains(&"1".to_owned()));
    assert_eq!(idle.value("SELECT pg_backend_pid()"), pid);
    holder.query("COMMIT");
    waiting.until_ready();
    assert_eq!(waiting.value("SELECT 'served'"), "served");
}

/// PostgreSQL takes a moment to end a session whose connection was closed. Refusals during that time must not
/// be visible: each would block the pool for server_login_retry.
#[test]
fn a_postgresql_limit_equal_to_the_poolers_causes_no_failed_login() {
    postgres().sql("CREATE ROLE shared_limits_role LOGIN CONNECTION LIMIT 1").unwrap();
    let user = "shared_limits_role";
    for setting in ["server_lifetime = 0", "max_user_connections = 1"] {
        let port = postgres().port();
        let lines =
            format!("a = host=127.0.0.1 port={port} dbname=app\nb = host=127.0.0.1 port={port} dbname=app");
        let start = Start::databases(&lines).users("\"shared_limits_role\" \"\"\n\"postgres\" \"\"\n");
        let start = start.set(setting).set("default_pool_size = 1").set("server_login_retry = 600");
        let bouncer = start.set("max_user_connections = 1").start();
        let mut clients = [Client::log_in(bouncer.port, user, "a"), Client::log_in(bouncer.port, user, "b")];
        for turn in 0..100 {
            assert_eq!(clients[turn % 2].value("SELECT 1"), "1", "{setting}, turn {turn}");
        }
        assert!(!bouncer.log().contains("server login failed"));
        drop(clients);
        bouncer.console().query("KILL");
        bouncer.wait_for_servers(0);
    }
}
