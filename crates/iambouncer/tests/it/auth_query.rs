//! `auth_query`: passwords that `auth_file` does not have are looked up on the server.

use crate::support::bouncer::Start;
use crate::support::{Bouncer, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::process::Command;

/// A server that requires passwords, with `looker`, who may read them, and users with passwords of both forms.
fn server() -> Postgres {
    let hba = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n";
    let server = crate::support::postgres::start(PostgresOptions {
        hba: Some(hba.to_owned()),
        ..PostgresOptions::default()
    });
    let statements = [
        "CREATE ROLE looker SUPERUSER LOGIN PASSWORD 'look'",
        "CREATE ROLE scram LOGIN PASSWORD 'scram secret'",
        "SET password_encryption = md5; CREATE ROLE hashed LOGIN PASSWORD 'md5 secret'",
        "CREATE ROLE nopassword LOGIN",
        "CREATE DATABASE app",
        "CREATE DATABASE other",
    ];
    statements.iter().for_each(|sql| server.sql(sql).map(|_| ()).unwrap());
    server
}

const QUERY: &str = "auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1";
const USERS: &str = "\"looker\" \"look\"\n\"postgres\" \"admin\"\n";

fn start(server: &Postgres, databases: &str, settings: &[&str]) -> Bouncer {
    let databases = databases.replace("SERVER", &format!("host=127.0.0.1 port={}", server.port()));
    settings.iter().fold(Start::databases(&databases).users(USERS), |start, line| start.set(line)).start()
}

/// A login and one query.
fn log_in(bouncer: &Bouncer, user: &str, password: &str, database: &str) -> Result<String, String> {
    psql(bouncer, user, password, database, "SELECT current_user")
}

/// A command of the console.
fn console(bouncer: &Bouncer, command: &str) -> Result<String, String> {
    psql(bouncer, "postgres", "admin", "pgbouncer", command)
}

/// psql with a password: its output, or the server's message.
fn psql(bouncer: &Bouncer, user: &str, password: &str, database: &str, sql: &str) -> Result<String, String> {
    let target = format!("host=127.0.0.1 port={} user={user} dbname={database}", bouncer.port);
    let output = Command::new("psql")
        .env("PGPASSWORD", password)
        .args(["-w", "-At", "-c", sql, &target])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[track_caller]
fn assert_refused(outcome: Result<String, String>, reason: &str) {
    let text = outcome.expect_err("the login is refused");
    assert!(text.contains(reason), "{text}");
}

#[test]
fn passwords_of_every_form_are_found_for_each_method() {
    let server = server();
    for method in ["md5", "scram-sha-256", "plain"] {
        let settings = [&format!("auth_type = {method}"), "auth_user = looker", QUERY];
        let bouncer = start(&server, "app = SERVER dbname=app", &settings);
        let users = [("scram", "scram secret"), ("hashed", "md5 secret")];
        for (user, password) in
            users.iter().filter(|(user, _)| (*user, method) != ("hashed", "scram-sha-256"))
        {
            assert_eq!(log_in(&bouncer, user, password, "app").as_deref(), Ok(*user), "{method}");
            assert_refused(log_in(&bouncer, user, "wrong", "app"), "authentication failed");
        }
        for user in ["unknown", "nopassword"] {
            assert_refused(log_in(&bouncer, user, "x", "app"), "or no such user.");
        }
        // Only the log has the reason.
        bouncer.wait_for_line("closing because: no such user (age=");
        // The user that runs the query is in auth_file.
        assert_eq!(log_in(&bouncer, "looker", "look", "app").as_deref(), Ok("looker"));
        assert!(!bouncer.log().contains("secret"), "{}", bouncer.log());
    }
}

#[test]
fn an_answer_is_not_reused_unless_configured() {
    let server = server();
    let settings = ["auth_type = md5", "auth_user = looker"];
    let query = "auth_query = SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM \
                 pg_authid WHERE rolname=$1 AND rolcanlogin";
    for (reuse, is_reused) in [("0", false), ("60", true)] {
        let reuse = format!("auth_query_reuse = {reuse}");
        let bouncer = start(&server, "app = SERVER dbname=app", &[&settings[..], &[query, &reuse]].concat());
        assert_eq!(log_in(&bouncer, "scram", "scram secret", "app").as_deref(), Ok("scram"));
        server.sql("ALTER ROLE scram VALID UNTIL '1999-01-01'").unwrap();
        assert_eq!(log_in(&bouncer, "scram", "scram secret", "app").is_ok(), is_reused);
        // RELOAD forgets the answers.
        console(&bouncer, "RELOAD").unwrap();
        assert!(log_in(&bouncer, "scram", "scram secret", "app").is_err());
        server.sql("ALTER ROLE scram VALID UNTIL 'infinity'").unwrap();
        console(&bouncer, "RELOAD").unwrap();
        assert!(log_in(&bouncer, "scram", "scram secret", "app").is_ok());
    }
}

#[test]
fn settings_of_a_database_replace_the_global_ones() {
    let server = server();
    let databases = "app = SERVER dbname=app auth_dbname=other\n\
                     mapped = SERVER dbname=app auth_query='SELECT usename, passwd FROM pg_shadow WHERE usename = ''scram'' AND $1 <> '''''\n\
                     other = SERVER dbname=other";
    let settings =
        ["auth_type = md5", "auth_user = looker", QUERY, "auth_dbname = other", "stats_users = scram"];
    let bouncer = start(&server, databases, &settings);
    assert!(log_in(&bouncer, "scram", "scram secret", "app").is_ok());
    let asked = "SELECT string_agg(DISTINCT datname, ',') FROM pg_stat_activity WHERE usename = 'looker'";
    assert_eq!(server.sql(asked).unwrap().trim(), "other");
    // That query finds one password for all users; the server then refuses the user.
    assert_refused(log_in(&bouncer, "unknown", "scram secret", "mapped"), "unknown");
    // The console asks in the global auth_dbname.
    assert!(psql(&bouncer, "scram", "scram secret", "pgbouncer", "SHOW STATE").is_ok());
}

#[test]
fn auth_user_of_a_database_line_is_enough() {
    let server = server();
    let databases = "app = SERVER dbname=app auth_user=looker\nwithout = SERVER dbname=app";
    let bouncer = start(&server, databases, &["auth_type = md5", QUERY]);
    assert_eq!(log_in(&bouncer, "scram", "scram secret", "app").as_deref(), Ok("scram"));
    assert_refused(log_in(&bouncer, "scram", "scram secret", "without"), "password authentication failed");
}

#[test]
fn a_database_that_cannot_be_asked_is_a_configuration_error() {
    let server = server();
    let databases = "app = SERVER dbname=app\nreserved = SERVER dbname=app auth_dbname=pgbouncer\n\
                     missing = SERVER dbname=app auth_dbname=nowhere\nfaulty = SERVER dbname=app auth_query='SELECT 1 FROM nothing WHERE $1 <> '''''\n\
                     narrow = SERVER dbname=app auth_query='SELECT $1'\nbystander = SERVER dbname=app auth_dbname=other\n\
                     other = SERVER dbname=other";
    let bouncer = start(&server, databases, &["auth_type = md5", "auth_user = looker", QUERY]);
    let cases = [
        ("reserved", "cannot use the reserved \"pgbouncer\" database as an auth_dbname"),
        ("missing", "authentication database \"nowhere\" is not configured"),
        ("faulty", "relation \"nothing\" does not exist"),
        ("narrow", "expected 2 columns from auth_query, not 1"),
    ];
    for (database, reason) in cases {
        assert_refused(log_in(&bouncer, "scram", "scram secret", database), "bouncer config error");
        bouncer.wait_for_line(reason);
    }
    // A user of auth_file needs no query.
    assert_refused(log_in(&bouncer, "looker", "wrong", "missing"), "password authentication failed");
    console(&bouncer, "DISABLE other").unwrap();
    assert_refused(
        log_in(&bouncer, "scram", "scram secret", "bystander"),
        "authentication database \"other\" is disabled",
    );
    assert!(log_in(&bouncer, "scram", "scram secret", "app").is_ok());
}

#[test]
fn the_reserved_database_cannot_be_the_global_auth_dbname() {
    let server = server();
    let bouncer = start(&server, "app = SERVER dbname=app", &["auth_type = md5"]);
    let reason = "cannot use the reserved \"pgbouncer\" database as an auth_dbname";
    assert_refused(console(&bouncer, "SET auth_dbname = pgbouncer"), reason);
}

#[test]
fn no_client_can_change_what_the_query_finds() {
    let server = server();
    for sql in [
        "CREATE TABLE passwords (name text, password text); INSERT INTO passwords VALUES ('scram', 'right')",
        "CREATE SCHEMA forged; CREATE TABLE forged.passwords (name text, password text)",
        "INSERT INTO forged.passwords VALUES ('scram', 'forged')",
    ] {
        server.sql_in("app", sql).unwrap();
    }
    let query = "auth_query = SELECT name, password FROM passwords WHERE name = $1";
    let settings = ["auth_type = plain", "auth_user = looker", query, "track_extra_parameters = search_path"];
    let bouncer = start(&server, "app = SERVER dbname=app", &settings);
    // A client that logs in as the same user changes its session.
    let target = format!(
        "host=127.0.0.1 port={} user=looker dbname=app options='-c search_path=forged'",
        bouncer.port
    );
    let output = Command::new("psql")
        .env("PGPASSWORD", "look")
        .args([
            "-w",
            "-At",
            "-c",
            "SET search_path = forged",
            "-c",
            "SELECT password FROM passwords",
            &target,
        ])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("forged"), "{output:?}");
    assert_refused(log_in(&bouncer, "scram", "forged", "app"), "password authentication failed");
    // The server has another password for this user, so the login succeeds at the pooler only.
    assert_refused(
        log_in(&bouncer, "scram", "right", "app"),
        "password authentication failed for user \"scram\"",
    );
    eventually("the server refuses", || bouncer.log().contains("server login failed"));
}

#[test]
fn a_connection_that_the_server_closed_is_replaced() {
    let server = server();
    let bouncer =
        start(&server, "app = SERVER dbname=app", &["auth_type = md5", "auth_user = looker", QUERY]);
    assert!(log_in(&bouncer, "scram", "scram secret", "app").is_ok());
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'looker'";
    assert_eq!(server.sql(end).unwrap().trim(), "1", "one connection serves all look-ups");
    assert!(log_in(&bouncer, "scram", "scram secret", "app").is_ok());
}

#[test]
fn with_trust_a_user_must_exist_on_the_server() {
    let server = server();
    server.sql("ALTER ROLE hashed PASSWORD NULL").unwrap();
    let settings = ["auth_type = trust", "auth_user = looker", QUERY];
    let bouncer = start(&server, "app = SERVER dbname=app user=looker password=look", &settings);
    for user in ["hashed", "scram", "looker"] {
        assert_eq!(log_in(&bouncer, user, "", "app").as_deref(), Ok("looker"), "{user}");
    }
    assert_refused(
        log_in(&bouncer, "unknown", "", "app"),
        "no such user\nDETAIL:  Neither auth_file nor auth_query has the user \"unknown\".",
    );
}

#[test]
fn a_table_that_rds_hides_is_explained() {
    let server = server();
    server.sql("ALTER ROLE looker NOSUPERUSER").unwrap();
    let bouncer = start(&server, "app = SERVER dbname=app", &["auth_type = md5", "auth_user = looker"]);
    assert_refused(log_in(&bouncer, "scram", "scram secret", "app"), "bouncer config error");
    let line = bouncer.wait_for_line("auth_query failed: permission denied for table pg_authid");
    for part in ["auth_type = iam", "secret_arn", "SECURITY DEFINER"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_row_without_a_name_is_no_user() {
    let server = server();
    let query = "auth_query = SELECT NULL::text, 'any' WHERE $1 <> ''";
    let settings = ["auth_type = md5", "auth_user = looker", query];
    let bouncer = start(&server, "app = SERVER dbname=app", &settings);
    assert_refused(log_in(&bouncer, "scram", "any", "app"), "or no such user.");
    bouncer.wait_for_line("closing because: no such user (age=");
}
