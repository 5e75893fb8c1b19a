//! Replication connections: each has a server of its own, which is closed with it.

use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::raw::{Client, tags};
use crate::support::{Bouncer, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A server with logical decoding, and a pooler in front of it.
fn pooled(settings: &[&str]) -> (Postgres, Bouncer) {
    let config_lines = vec!["wal_level = logical".to_owned()];
    let server = start(PostgresOptions { config_lines, ..Default::default() });
    server.sql("CREATE ROLE app LOGIN").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    // The tools for physical replication before PostgreSQL 17 request a database of this name.
    let to = format!("host=127.0.0.1 port={} dbname=app", server.port());
    let lines = format!("app = {to}\nreplication = {to}");
    let bouncer = settings.iter().fold(Start::databases(&lines), |start, line| start.set(line)).start();
    (server, bouncer)
}

fn connect(bouncer: &Bouncer, replication: &str) -> Client {
    let options = "-c enable_seqscan=off";
    Client::log_in_with(
        bouncer.port,
        &[
            ("user", "postgres"),
            ("database", "app"),
            ("application_name", "abc"),
            ("options", options),
            ("replication", replication),
        ],
    )
}

#[test]
fn a_logical_connection_runs_replication_commands_and_sql_with_its_own_parameters() {
    let (_server, bouncer) = pooled(&[]);
    let mut normal = Client::log_in(bouncer.port, "postgres", "app");
    for _ in 0..2 {
        let mut client = connect(&bouncer, "database");
        assert_eq!(client.reported("application_name").as_deref(), Some("abc"));
        assert_eq!(client.value("SHOW application_name"), "abc");
        assert_eq!(client.value("SHOW enable_seqscan"), "off");
        assert_eq!(tags(&client.query("IDENTIFY_SYSTEM")), "TDCZ");
        assert_eq!(normal.value("SHOW enable_seqscan"), "on");
    }
    bouncer.wait_for_line("replication=database");
    // Only the server of the normal client is left.
    bouncer.wait_for_servers(1);
    assert_eq!(normal.value("SELECT 1"), "1");
}

#[test]
fn a_physical_connection_runs_replication_commands_only() {
    let (_server, bouncer) = pooled(&[]);
    let mut client = connect(&bouncer, "yes");
    assert_eq!(tags(&client.query("IDENTIFY_SYSTEM")), "TDCZ");
    assert_eq!(client.query("SELECT 1")[0].error().0, "0A000");
    assert_eq!(client.value("SHOW enable_seqscan"), "off");
    bouncer.wait_for_line("replication=yes");
    drop(client);
    bouncer.wait_for_servers(0);
    let mut invalid = Client::start(bouncer.port, &[("user", "app"), ("replication", "maybe")]);
    assert_eq!(invalid.read().unwrap().error().0, "22023");
    // An ordinary session.
    let off = [("user", "app"), ("database", "app"), ("replication", "false")];
    assert_eq!(Client::log_in_with(bouncer.port, &off).value("SELECT 1"), "1");
}

#[test]
fn a_refused_replication_login_concerns_only_its_client() {
    let (_server, bouncer) = pooled(&[]);
    let mut refused =
        Client::start(bouncer.port, &[("user", "app"), ("database", "app"), ("replication", "database")]);
    let error = refused.until_end().pop().unwrap().error();
    // The second text is that of PostgreSQL 16 and newer.
    let texts = ["must be superuser or replication role", "permission denied to start WAL sender"];
    assert!(texts.iter().any(|text| error.1.contains(text)), "{error:?}");
    // The log has PgBouncer's reason for both sides, and no hint about the database.
    eventually("both lines", || bouncer.log().matches("closing because: login failed (age=").count() == 2);
    assert!(!bouncer.log().contains("GRANT CONNECT"), "{}", bouncer.log());
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn a_replication_connection_takes_a_place_of_the_pool() {
    let (_server, bouncer) = pooled(&["default_pool_size = 2"]);
    let mut normal: Vec<Client> = (0..2).map(|_| Client::log_in(bouncer.port, "postgres", "app")).collect();
    normal.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    normal.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    bouncer.wait_for_servers(2);
    let mut first = connect(&bouncer, "database");
    bouncer.wait_for_line("closing because: evicted for pool_size (age=");
    assert_eq!(bouncer.log().matches("evicted for pool_size").count(), 1);
    assert_eq!(normal[0].value("SELECT 1"), "1");
    let second = connect(&bouncer, "database");
    // The pool is full: the next one waits until a place is free.
    let parameters = [("user", "postgres"), ("database", "app"), ("replication", "database")];
    let mut third = Client::start(bouncer.port, &parameters);
    let mut console = bouncer.console();
    eventually("it waits", || console.column("SHOW CLIENTS", "state").contains(&"waiting".to_owned()));
    assert!(!third.has_pending_input());
    drop(second);
    assert_eq!(tags(&third.until_ready()).replace('S', ""), "RKZ");
    assert_eq!(tags(&first.query("IDENTIFY_SYSTEM")), "TDCZ");
    // A client that leaves while it waits is gone.
    drop(Client::start(bouncer.port, &parameters));
    drop((first, third));
    bouncer.wait_for_servers(0);
    assert_eq!(normal[1].value("SELECT 1"), "1");
}

#[test]
fn a_query_of_a_replication_connection_can_be_canceled_and_its_client_killed() {
    let (_server, bouncer) = pooled(&[]);
    let mut client = connect(&bouncer, "database");
    client.send_query("SELECT pg_sleep(60)");
    let (pid, key) = client.cancel_key();
    eventually("the query is canceled", || {
        crate::cancel::cancel(bouncer.port, pid, &key);
        std::thread::sleep(Duration::from_millis(50));
        client.has_pending_input()
    });
    assert_eq!(client.until_ready().iter().find(|m| m.tag == b'E').unwrap().error().0, "57014");
    assert_eq!(tags(&bouncer.console().query("KILL app")), "CZ");
    client.until_end();
    bouncer.wait_for_servers(0);
}

#[test]
fn replication_connections_are_shown_with_their_kind() {
    let (_server, bouncer) = pooled(&[]);
    let _clients = [connect(&bouncer, "database"), connect(&bouncer, "on")];
    let mut normal = Client::log_in(bouncer.port, "postgres", "app");
    normal.query("BEGIN");
    let mut console = bouncer.console();
    let mut kinds = |command: &str| {
        let mut kinds = console.column(command, "replication");
        kinds.sort();
        kinds
    };
    assert_eq!(kinds("SHOW CLIENTS"), ["logical", "none", "none", "physical"], "with the console");
    assert_eq!(kinds("SHOW SERVERS"), ["logical", "none", "physical"]);
    let sockets = ["logical", "logical", "none", "none", "none", "physical", "physical"];
    assert_eq!(kinds("SHOW SOCKETS"), sockets);
}

/// The error that a client received last, and the types of the messages before it.
fn ending(client: &mut Client) -> (String, Option<String>) {
    let mut messages = client.until_end();
    let error = messages.pop_if(|message| message.tag == b'E').map(|message| message.error().1);
    (tags(&messages), error)
}

#[test]
fn the_end_of_a_replication_connection_is_explained_unless_it_streams() {
    let (_server, mut bouncer) = pooled(&["default_pool_size = 2"]);
    let mut streaming = connect(&bouncer, "on");
    let position = streaming.query("IDENTIFY_SYSTEM")[1].row()[2].clone().unwrap();
    streaming.send_query(&format!("START_REPLICATION PHYSICAL {position}"));
    streaming.expect(b'W');
    let mut idle = connect(&bouncer, "database");
    // The pool is full.
    let parameters = [("user", "postgres"), ("database", "app"), ("replication", "database")];
    let mut waiting = Client::start(bouncer.port, &parameters);
    let mut console = bouncer.console();
    eventually("one waits", || console.pools("cl_waiting").contains(&"1".to_owned()));
    assert_eq!(tags(&console.query("KILL app")), "CZ");
    for client in [&mut idle, &mut waiting] {
        assert_eq!(ending(client), (String::new(), Some("database removed".to_owned())));
    }
    let (before, error) = ending(&mut streaming);
    assert!(error.is_none() && before.bytes().all(|tag| tag == b'd'), "{before} {error:?}");
    assert_eq!(tags(&console.query("RESUME app")), "CZ");
    let mut killed = connect(&bouncer, "database");
    let ids = console.column("SHOW CLIENTS", "id");
    let kinds = console.column("SHOW CLIENTS", "replication");
    let id = &ids[kinds.iter().position(|kind| kind == "logical").unwrap()];
    assert_eq!(tags(&console.query(&format!("KILL_CLIENT {id}"))), "CZ");
    assert_eq!(ending(&mut killed).1.as_deref(), Some("admin forced disconnect"));
    let mut last = connect(&bouncer, "database");
    last.query("IDENTIFY_SYSTEM");
    console.send_query("SHUTDOWN");
    assert_eq!(ending(&mut last).1.as_deref(), Some("server shutting down"));
    assert!(bouncer.wait_for_end().success());
}

/// A client program of the server's version, or of the system: builds of other versions come without it.
fn tool(server: &Postgres, name: &str, bouncer: &Bouncer) -> Command {
    let own = server.bin_dir().join(name);
    let mut command = Command::new(if own.exists() { own } else { name.into() });
    let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=app", bouncer.port);
    command.args(["--dbname", &conninfo]);
    command
}

fn is_filled(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut files| files.next().is_some())
}

#[test]
fn a_base_backup_passes_through_the_pooler() {
    let (server, bouncer) = pooled(&[]);
    let target = bouncer.dir().join("backup");
    let output = tool(&server, "pg_basebackup", &bouncer)
        .args(["--checkpoint=fast", "--pgdata"])
        .arg(&target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(target.join("backup_manifest").is_file() && is_filled(&target.join("pg_wal")));
    bouncer.wait_for_servers(0);
}

#[test]
fn changes_are_streamed_by_logical_decoding() {
    let (server, bouncer) = pooled(&[]);
    server.sql_in("app", "CREATE TABLE t (a int)").unwrap();
    server.sql_in("app", "SELECT pg_create_logical_replication_slot('slot', 'test_decoding')").unwrap();
    let mut command = tool(&server, "pg_recvlogical", &bouncer);
    command.args(["--slot=slot", "--file=-", "--no-loop", "--start"]).stdout(Stdio::piped());
    crate::support::bouncer::end_with_the_test(&mut command);
    let mut child = command.spawn().unwrap();
    Client::log_in(bouncer.port, "postgres", "app").query("INSERT INTO t VALUES (1)");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().starts_with("BEGIN "));
    assert_eq!(next(), "table public.t: INSERT: a[integer]:1");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the slot is free", || {
        server.sql("SELECT active FROM pg_replication_slots").unwrap().trim() == "f"
    });
}

#[test]
fn a_drain_closes_a_replication_connection_at_its_end() {
    let (_server, mut bouncer) = pooled(&["drain_max_seconds = 2"]);
    let mut client = connect(&bouncer, "database");
    bouncer.signal(rustix::process::Signal::TERM);
    bouncer.wait_for_line("draining: not ready");
    assert_eq!(tags(&client.query("IDENTIFY_SYSTEM")), "TDCZ");
    assert_eq!(client.until_end()[0].error().0, "57P01");
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}
