//! Assignment of servers to clients, and the limits.

use crate::support::raw::{self, Client, tags};
use crate::support::sim::Sim;
use crate::support::{Bouncer, bouncer::Start, eventually, postgres};
use std::time::{Duration, Instant};

#[test]
fn transaction_pooling_shares_one_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut clients: Vec<Client> = (0..5).map(|_| bouncer.client()).collect();
    let pids: Vec<String> =
        clients.iter_mut().map(|client| client.value("SELECT pg_backend_pid()")).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn a_transaction_keeps_its_server_and_the_others_wait_in_order() {
    // One worker: between workers the order is kept within a few milliseconds only, see the module `workers`.
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "workers = 1"]);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut console = bouncer.console();
    let mut waiting = Vec::new();
    for i in 0..4 {
        let mut client = bouncer.client();
        client.send_query(&format!("SELECT {i}, nextval('pooling_order')"));
        waiting.push(client);
        eventually("the client waits", || console.pools("cl_waiting")[0] == (i + 1).to_string());
    }
    postgres().sql_in("app", "CREATE SEQUENCE IF NOT EXISTS pooling_order").unwrap();
    postgres().sql_in("app", "GRANT ALL ON SEQUENCE pooling_order TO app").unwrap();
    postgres().sql_in("app", "ALTER SEQUENCE pooling_order RESTART").unwrap();
    holder.query("COMMIT");
    for (i, client) in waiting.iter_mut().enumerate() {
        let row = client.until_ready()[1].row();
        assert_eq!(row, [Some(i.to_string()), Some((i + 1).to_string())]);
    }
}

#[test]
fn session_pooling_keeps_the_server_and_resets_it_for_the_next_client() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session", "default_pool_size = 1"]);
    let mut first = bouncer.client();
    let pid = first.value("SELECT pg_backend_pid()");
    first.query("SET work_mem = '77MB'");
    first.query("CREATE TEMP TABLE mine (n int)");
    assert_eq!(first.value("SHOW work_mem"), "77MB");
    first.send(&raw::terminate());
    let mut second = bouncer.client();
    assert_eq!(second.value("SELECT pg_backend_pid()"), pid);
    assert_ne!(second.value("SHOW work_mem"), "77MB");
    assert_eq!(second.value("SELECT count(*) FROM pg_class WHERE relname = 'mine'"), "0");
}

#[test]
fn statement_pooling_refuses_transactions() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = statement"]);
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    for begin in ["BEGIN", "/* a comment */ start transaction"] {
        let messages = client.query(begin);
        assert_eq!(tags(&messages), "EZ", "at once, and the connection stays open");
        let (code, text) = messages[0].error();
        assert_eq!(code, "08P01");
        assert!(text.contains("statement pooling"), "{text}");
        client.send(&[raw::parse("", begin), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat());
        assert_eq!(tags(&client.until_ready()), "EZ");
    }
    client.send(&[raw::query("SELECT 1"), raw::query("BEGIN"), raw::query("SELECT 2")].concat());
    let all: Vec<_> = (0..3).map(|_| tags(&client.until_ready())).collect();
    assert_eq!(all, ["TDCZ", "EZ", "TDCZ"]);
    assert_eq!(client.value("SELECT 1"), "1");
    // After another statement it is noticed by the transaction status.
    client.send_query("SELECT 1; BEGIN");
    let messages = client.until_end();
    assert_eq!(messages.last().unwrap().error().0, "08P01");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn a_refusal_behind_a_batch_leaves_no_transaction_timer() {
    let settings = ["pool_mode = statement", "transaction_timeout = 3"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let mut client = bouncer.client();
    let batch = [raw::parse("", "SELECT 1"), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
    client.send(&[batch, raw::query("BEGIN")].concat());
    assert_eq!([tags(&client.until_ready()), tags(&client.until_ready())], ["12DCZ", "EZ"]);
    // The client is idle for longer than a transaction may take.
    postgres().sql_in("app", "SELECT pg_sleep(3.2)").unwrap();
    assert_eq!(tags(&client.query("SELECT pg_sleep(0.5)")), "TDCZ");
}

#[test]
fn a_client_that_leaves_in_a_transaction_leaves_nothing_behind() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    postgres().sql_in("app", "CREATE TABLE IF NOT EXISTS left_behind (n int)").unwrap();
    postgres().sql_in("app", "GRANT ALL ON left_behind TO app").unwrap();
    let mut client = bouncer.client();
    client.query("BEGIN");
    assert_eq!(tags(&client.query("INSERT INTO left_behind VALUES (1)")), "CZ");
    drop(client);
    assert_eq!(bouncer.client().value("SELECT count(*) FROM left_behind"), "0");
}

#[test]
fn the_client_receives_the_error_of_query_wait_timeout() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "query_wait_timeout = 1"]);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    let (code, text) = client.until_end().last().unwrap().error();
    assert_eq!((code.as_str(), text.as_str()), ("53300", "query_wait_timeout"));
    assert_eq!(tags(&holder.query("COMMIT")), "CZ");
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}

#[test]
fn the_reserve_pool_is_used_for_clients_that_wait_long() {
    let settings = [
        "default_pool_size = 1",
        "reserve_pool_size = 1",
        "reserve_pool_timeout = 1",
        "query_wait_timeout = 15",
    ];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let began = Instant::now();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    assert!(began.elapsed().as_millis() >= 900, "the reserve pool was used at once");
}

#[test]
fn max_db_connections_is_exact_and_closes_an_idle_server_of_another_user() {
    let databases =
        format!("app = host=127.0.0.1 port={} dbname=app max_db_connections=1", postgres().port());
    let bouncer = Start::databases(&databases).start();
    let mut app = bouncer.client();
    assert_eq!(app.value("SELECT current_user"), "app");
    let mut other = Client::log_in(bouncer.port, "other", "app");
    assert_eq!(other.value("SELECT current_user"), "other");
    assert_eq!(bouncer.show("SERVERS", "user"), ["other"]);
    assert_eq!(app.value("SELECT current_user"), "app");
    assert_eq!(bouncer.show("SERVERS", "user"), ["app"]);
}

#[test]
fn min_pool_size_is_kept_and_replaced() {
    let databases =
        format!("app = host=127.0.0.1 port={} dbname=app user=app min_pool_size=3", postgres().port());
    let bouncer = Start::databases(&databases).start();
    bouncer.wait_for_servers(3);
    let pid = bouncer.show("SERVERS", "remote_pid")[0].clone();
    postgres().sql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    let mut console = bouncer.console();
    eventually("the lost server is replaced", || {
        let pids = console.column("SHOW SERVERS", "remote_pid");
        pids.len() == 3 && !pids.contains(&pid)
    });
}

#[test]
fn idle_and_old_servers_are_closed() {
    let bouncer = Bouncer::in_front_of(postgres(), &["server_idle_timeout = 1"]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    bouncer.wait_for_servers(0);
    let bouncer = Bouncer::in_front_of(postgres(), &["server_lifetime = 1"]);
    let mut client = bouncer.client();
    let first = client.value("SELECT pg_backend_pid()");
    eventually("the old server is replaced", || client.value("SELECT pg_backend_pid()") != first);
}

#[test]
fn a_client_over_max_client_conn_receives_an_error() {
    let bouncer = Bouncer::in_front_of(postgres(), &["max_client_conn = 2"]);
    let _a = bouncer.client();
    let _b = bouncer.client();
    let mut refused = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let (code, text) = refused.read().unwrap().error();
    assert_eq!(code, "53300");
    assert!(text.contains("max_client_conn"), "{text}");
    drop(_a);
    eventually("a place becomes free", || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.until_ready().last().is_some_and(|message| message.tag == b'Z')
    });
}

#[test]
fn time_limits_disconnect_the_client_with_the_name_of_the_setting() {
    let cases = [
        ("query_timeout = 1", "SELECT pg_sleep(30)", "57014"),
        ("idle_transaction_timeout = 1", "BEGIN", "08006"),
        ("transaction_timeout = 1", "BEGIN", "08006"),
        ("client_idle_timeout = 1", "SELECT 1", "57P05"),
    ];
    for (setting, sql, expected) in cases {
        let bouncer = Bouncer::in_front_of(postgres(), &[setting]);
        let mut client = bouncer.client();
        client.send_query(sql);
        let messages = client.until_end();
        let (code, text) = messages.last().unwrap().error();
        assert_eq!(code, expected, "{setting}: {text}");
        // PgBouncer names some settings with spaces.
        assert!(setting.starts_with(&text.replace(' ', "_")), "{setting}: {text}");
        assert_eq!(bouncer.client().value("SELECT 1"), "1");
    }
}

#[test]
fn a_slow_login_of_a_replacement_does_not_delay_requests() {
    let sim = Sim::in_front_of(postgres());
    let delay = Duration::from_millis(1500);
    sim.simulator.faults().set(|faults| faults.login_delay = delay);
    let bouncer = sim.pooler(&["default_pool_size = 2", "server_lifetime = 8"]);
    let mut client = bouncer.client();
    let first = client.value("SELECT pg_backend_pid()");
    let mut longest = Duration::ZERO;
    eventually("the server was replaced", || {
        let began = Instant::now();
        let pid = client.value("SELECT pg_backend_pid()");
        longest = longest.max(began.elapsed());
        pid != first
    });
    assert!(longest < delay, "a request waited {longest:?}");
}

/// The pool has one server, which is always in demand: the replacement must be logged in before the old one
/// is closed.
#[test]
fn a_slow_login_of_a_replacement_does_not_delay_requests_in_a_full_pool() {
    let sim = Sim::in_front_of(postgres());
    let delay = Duration::from_millis(1500);
    sim.simulator.faults().set(|faults| faults.login_delay = delay);
    let bouncer = sim.pooler(&["default_pool_size = 1", "server_lifetime = 8"]);
    let mut client = bouncer.client();
    let mut console = bouncer.console();
    let first = client.value("SELECT pg_backend_pid()");
    let (mut longest, mut most) = (Duration::ZERO, 0);
    eventually("the server was replaced", || {
        let began = Instant::now();
        let pid = client.value("SELECT pg_backend_pid()");
        longest = longest.max(began.elapsed());
        most = most.max(console.column("SHOW SERVERS", "state").len());
        pid != first
    });
    assert!(longest < delay, "a request waited {longest:?}");
    assert!(most <= 2, "{most} servers at a time");
    bouncer.wait_for_servers(1);
}

/// A transaction that begins at that moment keeps its server; the pool is back at its size when it ends.
#[test]
fn a_server_that_is_busy_when_its_replacement_is_ready_closes_at_its_release() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["default_pool_size = 1", "server_lifetime = 12"]);
    let (mut busy, mut console) = (bouncer.client(), bouncer.console());
    let first = busy.value("SELECT pg_backend_pid()");
    sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_secs(2));
    eventually("the replacement is logging in", || {
        busy.query("SELECT 1");
        console.pools("sv_login").iter().any(|count| count != "0")
    });
    busy.query("BEGIN");
    assert_eq!(busy.value("SELECT pg_backend_pid()"), first);
    bouncer.wait_for_servers(2);
    let mut other = bouncer.client();
    assert_ne!(other.value("SELECT pg_backend_pid()"), first);
    assert_eq!(busy.value("SELECT pg_backend_pid()"), first);
    busy.query("COMMIT");
    bouncer.wait_for_servers(1);
    assert_ne!(busy.value("SELECT pg_backend_pid()"), first);
}

/// Clients of a session pool keep their servers indefinitely, so no extra server is opened.
#[test]
fn a_session_pool_never_has_more_servers_than_its_size() {
    let settings = ["pool_mode = session", "default_pool_size = 1", "server_lifetime = 2"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let mut client = bouncer.client();
    let mut console = bouncer.console();
    let first = client.value("SELECT pg_backend_pid()");
    let began = Instant::now();
    eventually("its server is older than server_lifetime", || {
        assert_eq!(console.column("SHOW SERVERS", "state").len(), 1);
        assert_eq!(client.value("SELECT pg_backend_pid()"), first);
        began.elapsed() > Duration::from_secs(3)
    });
}

/// A server with a replacement logging in stays at its worker, whatever the demand of other workers. A server
/// that moves between workers is listed by none or by two, so the size is checked until nothing moves. Clients that
/// send one after another need one server, so a server that expires meanwhile may go without a replacement.
#[test]
fn a_full_pool_of_three_workers_keeps_its_size_when_servers_are_replaced() {
    let sim = Sim::in_front_of(postgres());
    sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_millis(500));
    let bouncer = sim.pooler(&["workers = 3", "default_pool_size = 2", "server_lifetime = 4"]);
    let mut clients: Vec<_> = (0..6).map(|_| bouncer.client()).collect();
    let mut console = bouncer.console();
    let mut pids = std::collections::BTreeSet::new();
    eventually("six servers were replaced", || {
        for client in &mut clients {
            pids.insert(client.value("SELECT pg_backend_pid()"));
        }
        pids.len() >= 8
    });
    eventually("its size", || {
        clients[0].query("SELECT 1");
        (1..=2).contains(&console.column("SHOW SERVERS", "state").len())
    });
}

#[test]
fn the_limit_of_a_database_holds_when_servers_are_replaced() {
    let settings = ["default_pool_size = 1", "server_lifetime = 2", "max_db_connections = 1"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let mut client = bouncer.client();
    let mut console = bouncer.console();
    let first = client.value("SELECT pg_backend_pid()");
    eventually("the server was replaced", || {
        assert!(console.column("SHOW SERVERS", "state").len() <= 1);
        client.value("SELECT pg_backend_pid()") != first
    });
}

#[test]
fn servers_of_a_full_pool_are_replaced_before_a_request_needs_them() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "server_lifetime = 4"]);
    let mut client = bouncer.client();
    let first = client.value("SELECT pg_backend_pid()");
    eventually("the server was replaced", || {
        client.query("SELECT 1");
        let pids = bouncer.show("SERVERS", "remote_pid");
        pids.len() == 1 && pids[0] != first
    });
}
