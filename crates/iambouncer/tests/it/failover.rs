//! Several hosts of which one accepts writes (`target_session_attrs`), and what clients experience when that changes:
//! real primaries and standbys.

use crate::support::bouncer::Start;
use crate::support::http::scrape;
use crate::support::postgres::start;
use crate::support::raw::{Client, tags};
use crate::support::{Bouncer, eventually, program};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const FIRST: &str = "127.0.0.1";
const SECOND: &str = "127.0.0.2";
const SILENT: &str = "127.0.0.3";
/// `server_login_retry`, if it is not set.
const DEFAULT_LOGIN_RETRY: Duration = Duration::from_secs(15);
const NONE_FITS: &str = "no host of the database line can be used";

/// A primary at the first address and its standby at the second one.
struct Cluster {
    first: Postgres,
    second: Postgres,
}

impl Cluster {
    fn new() -> Self {
        let config_lines = vec!["log_connections = on".to_owned()];
        let options = PostgresOptions { config_lines, ..PostgresOptions::default() };
        let mut first = start(options.clone());
        first.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
        first.sql("CREATE DATABASE app OWNER app").unwrap();
        first.sql_in("app", "CREATE TABLE entries (entry int); GRANT ALL ON entries TO app").unwrap();
        let second = Postgres::start_standby(&mut first, SECOND, &options).expect("a standby starts");
        Self { first, second }
    }

    fn line(&self, wanted: &str) -> String {
        let port = self.first.port();
        format!("app = host={FIRST},{SECOND} port={port} dbname=app target_session_attrs={wanted}")
    }

    /// A pooler whose line begins with a host that accepts connections and answers nothing.
    fn pooler_behind_silent_host(&self, host: &str, setting: &str) -> (TcpListener, Bouncer) {
        let port = self.first.port();
        let silent = TcpListener::bind((SILENT, port)).expect("the port is free at this address");
        let line = format!(
            "app = host={SILENT},{host} port={port} dbname=app target_session_attrs=primary load_balance_hosts=disable"
        );
        (silent, Start::databases(&line).set(setting).start())
    }

    fn pooler(&self, wanted: &str, settings: &[&str]) -> Bouncer {
        let line = self.line(wanted);
        settings.iter().fold(Start::databases(&line), |start, setting| start.set(setting)).start()
    }
}

fn address(client: &mut Client) -> String {
    client.value("SELECT host(inet_server_addr())")
}

/// A server of its own, and its line.
fn single_server() -> (Postgres, String) {
    let server = start(PostgresOptions::default());
    server.sql("CREATE ROLE app LOGIN").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    let line = format!("app = host={FIRST} port={} dbname=app", server.port());
    (server, line)
}

/// Number of failed logins.
fn failures(bouncer: &Bouncer) -> f64 {
    scrape(bouncer.http_port()).sum("iambouncer_server_login_failures_total", &[]).unwrap_or_default()
}

#[test]
fn clients_wait_while_the_writer_is_replaced_and_no_statement_is_lost() {
    for workers in ["workers = 1", "workers = 2"] {
        let mut cluster = Cluster::new();
        // The interval is that of failed logins to a line with one server.
        let bouncer = cluster.pooler("read-write", &["server_login_retry = 15", workers, "http_port = auto"]);
        let (mut idle, mut writing) = (bouncer.client(), bouncer.client());
        for client in [&mut idle, &mut writing] {
            assert_eq!(address(client), FIRST);
            assert_eq!(tags(&client.query("INSERT INTO entries VALUES (1)")), "CZ");
        }
        eventually("the standby has them", || {
            cluster.second.sql_in("app", "SELECT count(*) FROM entries").is_ok_and(|count| count == "2")
        });
        cluster.first.stop();
        writing.send_query("INSERT INTO entries VALUES (2)");
        let line = bouncer.wait_for_line(NONE_FITS);
        let port = cluster.first.port();
        assert!(line.contains(&format!("{SECOND}:{port} is a standby")) && line.contains("IAM034"), "{line}");
        assert!(line.contains(&format!("{FIRST}:{port}: cannot connect")), "{line}");
        eventually("the hosts are asked again and again", || failures(&bouncer) >= 8.0);
        assert!(!writing.has_pending_input());
        cluster.second.promote().unwrap();
        assert_eq!(tags(&writing.until_ready()), "CZ");
        assert_eq!(address(&mut writing), SECOND);
        assert_eq!(address(&mut idle), SECOND, "an idle client does not notice");
        let entries = "SELECT string_agg(entry::text, ',' ORDER BY entry) FROM entries";
        assert_eq!(idle.value(entries), "1,1,2");
        bouncer.wait_for_line("logins to the server succeed again");
        let is_failure = |line: &&str| line.contains("ERROR") && line.contains(NONE_FITS);
        let logged = bouncer.log().lines().filter(is_failure).count();
        assert_eq!(logged, 1, "within server_login_retry");
    }
}

#[test]
fn clients_of_a_server_that_cannot_be_reached_are_served_soon_after_it_can() {
    let (mut server, line) = single_server();
    let bouncer = Start::databases(&line).without("server_login_retry").set("http_port = auto").start();
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    server.stop();
    client.send_query("SELECT 2");
    let began = Instant::now();
    eventually("a login is tried again and again", || failures(&bouncer) >= 4.0);
    assert!(began.elapsed() < DEFAULT_LOGIN_RETRY, "{:?}", began.elapsed());
    server.start_again().unwrap();
    assert_eq!(tags(&client.until_ready()), "TDCZ");
}

#[test]
fn a_host_that_does_not_answer_delays_one_login_only() {
    let cluster = Cluster::new();
    let (silent, bouncer) = cluster.pooler_behind_silent_host(FIRST, "server_connect_timeout = 15");
    let mut clients: Vec<_> = (0..4).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(address(client), FIRST);
    }
    silent.set_nonblocking(true).unwrap();
    let tried = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(tried, 1, "{} servers are open", clients.len());
}

/// The search waited for that host until `server_connect_timeout` had passed.
#[test]
fn a_standby_is_asked_again_while_another_host_does_not_answer() {
    let cluster = Cluster::new();
    let (_silent, bouncer) = cluster.pooler_behind_silent_host(SECOND, "server_connect_timeout = 100");
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let logins = || cluster.second.log().matches("connection authorized: user=app").count();
    eventually("the standby is asked again", || logins() >= 3);
    cluster.second.promote().unwrap();
    client.until_ready();
    assert_eq!(address(&mut client), SECOND);
}

#[test]
fn a_server_that_has_stopped_accepting_writes_is_left_after_the_first_error() {
    let cluster = Cluster::new();
    let bouncer = cluster.pooler("read-write", &[]);
    let mut clients: Vec<_> = (0..3).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(address(client), FIRST);
    }
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    bouncer.wait_for_servers(3);
    cluster.second.promote().unwrap();
    cluster.first.sql("ALTER SYSTEM SET default_transaction_read_only = on").unwrap();
    cluster.first.sql("SELECT pg_reload_conf()").unwrap();
    let client = &mut clients[0];
    eventually("writes fail at the first server, until another one is used", || {
        tags(&client.query("INSERT INTO entries VALUES (1)"));
        address(client) == SECOND
    });
    let mut console = bouncer.console();
    eventually("no server of the first host is left", || {
        let addresses = console.column("SHOW SERVERS", "addr");
        !addresses.is_empty() && addresses.iter().all(|address| address == SECOND)
    });
    // The others have learned the default of the first server, which follows them.
    assert_eq!(tags(&bouncer.client().query("INSERT INTO entries VALUES (2)")), "CZ");
}

#[test]
fn readers_use_the_standby_until_it_is_promoted() {
    let cluster = Cluster::new();
    let lines = format!(
        "{}\n{}",
        cluster.line("standby"),
        cluster.line("prefer-standby").replacen("app", "preferring", 1)
    );
    let bouncer = Start::databases(&lines).set("server_unreachable_timeout = 1").start();
    let mut reading = bouncer.client();
    let mut preferring = Client::log_in(bouncer.port, "app", "preferring");
    for client in [&mut reading, &mut preferring] {
        for _ in 0..3 {
            assert_eq!(address(client), SECOND);
        }
    }
    cluster.second.promote().unwrap();
    let began = Instant::now();
    // The server reports its promotion behind its next answer.
    assert_eq!(reading.value("SELECT 1"), "1");
    reading.send_query("SELECT 1");
    let (code, text) = reading.expect(b'E').error();
    assert_eq!(code, "08001");
    assert!(text.starts_with(NONE_FITS) && text.contains(&format!("{SECOND}:")), "{text}");
    assert!(began.elapsed().as_secs() < 10, "query_wait_timeout is two minutes");
    // Another login for it finds no standby.
    preferring.query("BEGIN");
    let mut another = Client::log_in(bouncer.port, "app", "preferring");
    assert_eq!(another.value("SELECT pg_is_in_recovery()"), "f");
}

#[test]
fn clients_of_a_server_that_cannot_be_reached_wait_for_a_while_and_later_ones_fail_at_once() {
    let (mut server, line) = single_server();
    let bouncer = Start::databases(&line).set("server_unreachable_timeout = 2").start();
    let (mut first, mut later) = (bouncer.client(), bouncer.client());
    assert_eq!(first.value("SELECT 1"), "1");
    server.stop();
    let began = Instant::now();
    first.send_query("SELECT 1");
    let (code, text) = first.expect(b'E').error();
    assert_eq!(code, "08001", "{text}");
    assert!(began.elapsed().as_secs() >= 1, "it has waited");
    let began = Instant::now();
    later.send_query("SELECT 1");
    assert_eq!(later.expect(b'E').error().0, "08001");
    let waited = began.elapsed();
    assert!(waited.as_millis() < 1900, "{waited:?}: it is known that the server cannot be reached");
    server.start_again().unwrap();
    eventually("the next client is served", || tags(&bouncer.client().query("SELECT 3")) == "TDCZ");
}

/// With a pooler whose clients write while the writer changes.
#[test]
fn a_drill_compares_the_table_with_what_its_clients_know() {
    let mut cluster = Cluster::new();
    cluster.first.sql("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    cluster.first.sql("SELECT pg_reload_conf()").unwrap();
    eventually("commits wait for the standby", || {
        cluster.first.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").unwrap()
            == "1"
    });
    cluster.first.sql_in("app", "GRANT CREATE ON SCHEMA public TO app").unwrap();
    let bouncer = cluster.pooler("read-write", &[]);
    let target = format!("{FIRST}:{}", bouncer.port);
    let arguments = ["drill", &target, "--user", "app", "--database", "app", "--seconds", "4", "--json"];
    let drill = std::thread::spawn({
        let arguments = arguments.map(str::to_owned);
        move || program::run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    });
    eventually("clients write", || {
        let sql = "SELECT count(*) > 20 FROM iambouncer_drill";
        cluster.second.sql_in("app", sql).is_ok_and(|found| found == "t")
    });
    cluster.first.stop();
    cluster.second.promote().unwrap();
    let output = drill.join().unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    for none in ["lost", "duplicated", "wrong"] {
        assert_eq!(report[none], 0, "{report}");
    }
    assert!(report["committed"].as_u64() > Some(100), "{report}");
    assert!(report["gap_until_us"].as_u64() > report["gap_from_us"].as_u64(), "{report}");
    let left = cluster.second.sql_in("app", "SELECT to_regclass('iambouncer_drill') IS NULL").unwrap();
    assert_eq!(left, "t", "the table is dropped");
}
