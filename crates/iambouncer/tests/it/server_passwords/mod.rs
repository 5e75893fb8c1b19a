//! `auth_type = server`, and `server` in HBA rules: passwords that a real PostgreSQL verifies, how often it is asked, and what
//! happens when it refuses, does not ask, or does not answer.

mod lines;

use crate::ldap::SilentServer;
use crate::support::bouncer::Start;
use crate::support::http::scrape;
use crate::support::postgres::start;
use crate::support::raw::query;
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{Bouncer, Client, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// What a client receives, whatever is wrong.
fn refusal(user: &str) -> String {
    format!("28P01 password authentication failed: Wrong password for user \"{user}\", or no such user.")
}

/// A server that requires passwords, and a pooler with two workers whose clients it verifies.
struct Passwords {
    server: Postgres,
    side: ClientSide,
    bouncer: Bouncer,
}

impl Passwords {
    fn start() -> Self {
        Self::with("scram-sha-256", "", |start| start.set("auth_type = server"))
    }

    /// With this method of the server, and `line` at the end of the database line.
    fn with(method: &str, line: &str, change: impl FnOnce(Start<'_>) -> Start<'_>) -> Self {
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        let server = start(PostgresOptions {
            hba: Some(format!("local all all trust\nhost all all 127.0.0.1/32 {method}\n")),
            config_lines: vec![
                format!("password_encryption = '{encryption}'"),
                "log_connections = on".to_owned(),
            ],
            ..PostgresOptions::default()
        });
        for (role, password) in [("app", "secret"), ("other", "second")] {
            server.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'")).unwrap();
        }
        server.sql("CREATE DATABASE app").unwrap();
        let side = ClientSide::new();
        let lines = format!("app = host=127.0.0.1 port={} dbname=app {line}", server.port());
        let start = side
            .set(Start::databases(&lines), "allow")
            .set("workers = 2")
            .set("http_port = auto")
            .set("server_login_retry = 600")
            .env("IAMBOUNCER_LOG", "debug")
            .users("\"postgres\" \"console\"\n");
        let bouncer = change(start).start();
        Self { server, side, bouncer }
    }

    /// A login with TLS: the client, or its error.
    fn log_in(&self, user: &str, password: &str) -> Result<TlsClient, String> {
        self.log_in_to("app", user, password)
    }

    fn log_in_to(&self, database: &str, user: &str, password: &str) -> Result<TlsClient, String> {
        let outcome = TlsClient::log_in_with(self.bouncer.port, self.side.config(), user, database, password);
        outcome.map_err(|(code, text, _)| format!("{code} {text}"))
    }

    #[track_caller]
    fn refused(&self, user: &str, password: &str) {
        assert_eq!(self.log_in(user, password).err(), Some(refusal(user)), "{user} {password}");
    }

    /// Ends the server's sessions of the user `app`, and waits until the pool has noticed.
    fn end_sessions(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
        self.server.sql(end).unwrap();
        self.bouncer.wait_for_line("server conn crashed?");
    }

    /// How many lines of the server's log contain this text.
    fn server_lines(&self, part: &str) -> usize {
        self.server.log().lines().filter(|line| line.contains(part)).count()
    }

    /// Clients' passwords with this result.
    fn counted(&self, result: &str) -> Option<f64> {
        scrape(self.bouncer.http_port()).sum("iambouncer_client_proofs_total", &[("result", result)])
    }
}

#[test]
fn the_server_verifies_passwords_by_each_of_its_methods() {
    for method in ["scram-sha-256", "md5", "password"] {
        let pooler = Passwords::with(method, "", |start| start.set("auth_type = server"));
        let mut client = pooler.log_in("app", "secret").unwrap();
        assert_eq!(client.value("SELECT current_user"), "app", "{method}");
        assert_eq!(pooler.log_in("other", "second").unwrap().value("SELECT current_user"), "other");
        for (user, password) in
            [("app", "wrong"), ("app", "second"), ("app", "secret "), ("no_such_user", "secret")]
        {
            pooler.refused(user, password);
        }
        let empty = pooler.log_in("app", "").err();
        assert_eq!(empty.as_deref(), Some("28P01 empty password returned by client"), "{method}");
        // The hash alone answers the server's request, but the client has not shown the password.
        let hash = pooler.server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").unwrap();
        pooler.refused("app", hash.trim());
        let log = pooler.bouncer.log();
        assert!(!log.contains("secret") && !log.contains("wrong") && !log.contains(hash.trim()), "{log}");
    }
}

#[test]
fn no_password_is_requested_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    let socket_dir = format!("unix_socket_dir = {}", dir.path().display());
    let pooler =
        Passwords::with("scram-sha-256", "", |start| start.set("auth_type = server").set(&socket_dir));
    let mut client = Client::start(pooler.bouncer.port, &[("user", "app"), ("database", "app")]);
    let (code, text) = client.read().unwrap().explained();
    assert_eq!((code.as_str(), text.contains("SSL")), ("28000", true), "{text}");
    let url = format!(
        "host={} port={} user=app password=secret dbname=app",
        dir.path().display(),
        pooler.bouncer.port
    );
    assert!(connect(&url).unwrap_err().starts_with("28000 SSL required"));
    assert_eq!(pooler.server_lines("connection authorized: user=app"), 0);
    assert_eq!(pooler.counted("no_tls"), Some(2.0));
}

fn connect(url: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(tokio_postgres::connect(url, tokio_postgres::NoTls));
    outcome.map(|_| ()).map_err(|error| match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => error.to_string(),
    })
}

#[test]
fn a_password_is_verified_once_and_concurrent_logins_share_the_check() {
    let pooler = Passwords::with("scram-sha-256", "pool_size=1", |start| start.set("auth_type = server"));
    std::thread::scope(|scope| {
        let logins: Vec<_> = (0..8).map(|_| scope.spawn(|| pooler.log_in("app", "secret"))).collect();
        for login in logins {
            assert_eq!(login.join().unwrap().unwrap().value("SELECT current_user"), "app");
        }
    });
    // One probe, and one login of the pool.
    assert_eq!(pooler.server_lines("connection authorized: user=app"), 2);
    assert_eq!((pooler.counted("accepted"), pooler.counted("remembered")), (Some(1.0), Some(7.0)));
    // What is known about one password says nothing about another one.
    pooler.refused("app", "wrong");
    pooler.refused("other", "secret");
    pooler.log_in("app", "secret").unwrap();
    assert_eq!(pooler.server_lines("connection authorized: user=app"), 2);
}

#[test]
fn a_wrong_password_is_not_tried_at_the_server_again_at_once() {
    let pooler = Passwords::start();
    for user in ["app", "no_such_user"] {
        for _ in 0..4 {
            pooler.refused(user, "wrong");
        }
        assert_eq!(pooler.server_lines(&format!("authentication failed for user \"{user}\"")), 1, "{user}");
    }
    assert_eq!(pooler.counted("refused"), Some(8.0));
    pooler.log_in("app", "secret").unwrap();
}

#[test]
fn at_most_eight_passwords_are_verified_at_a_time() {
    const MAX_PROBES: usize = 8;
    const MORE: usize = 4;
    let silent = SilentServer::start();
    let side = ClientSide::new();
    let line = format!("app = host=127.0.0.1 port={}", silent.port);
    let bouncer = side
        .set(Start::databases(&line), "allow")
        .set("workers = 2")
        .set("auth_type = server")
        .set("server_connect_timeout = 2")
        .start();
    let clients: Vec<_> = (0..MAX_PROBES + MORE)
        .map(|n| {
            let (port, config) = (bouncer.port, side.config());
            std::thread::spawn(move || {
                TlsClient::log_in_with(port, config, "app", "app", &format!("guess{n}")).err().unwrap().0
            })
        })
        .collect();
    eventually("all places are taken", || silent.open.load(SeqCst) == MAX_PROBES);
    for client in clients {
        assert_eq!(client.join().unwrap(), "08001");
    }
    let accepted = silent.accepted.lock().unwrap();
    assert_eq!(accepted.len(), MAX_PROBES + MORE);
    // The next one waited for the end of another.
    assert!(accepted[MAX_PROBES] - accepted[0] >= Duration::from_secs(1));
}

#[test]
fn a_new_password_replaces_the_previous_one() {
    let pooler = Passwords::start();
    pooler.log_in("app", "secret").unwrap();
    pooler.server.sql("ALTER ROLE app PASSWORD 'changed'").unwrap();
    let mut client = pooler.log_in("app", "changed").unwrap();
    assert_eq!(client.value("SELECT current_user"), "app");
    // Verified less than a minute ago, but not the password any more.
    pooler.refused("app", "secret");
    // The pool logs in with the new one.
    pooler.end_sessions();
    assert_eq!(client.value("SELECT current_user"), "app");
}

#[test]
fn a_password_that_the_server_refuses_to_the_pool_is_verified_again() {
    let pooler = Passwords::start();
    let mut client = pooler.log_in("app", "secret").unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    pooler.server.sql("ALTER ROLE app PASSWORD 'changed'").unwrap();
    pooler.end_sessions();
    client.send(&query("SELECT 1")).unwrap();
    let refused = client.until(b'E').unwrap().pop().unwrap().error();
    assert_eq!(refused, ("28P01".into(), "password authentication failed for user \"app\"".into()));
    pooler.refused("app", "secret");
    // The failure of the previous password, 600 seconds until the next login, does not concern the new one.
    let began = Instant::now();
    assert_eq!(pooler.log_in("app", "changed").unwrap().value("SELECT current_user"), "app");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_role_that_may_not_log_in_is_refused_like_a_wrong_password() {
    let pooler = Passwords::start();
    pooler.server.sql("ALTER ROLE app NOLOGIN").unwrap();
    pooler.refused("app", "secret");
    pooler.bouncer.wait_for_line("is not permitted to log in");
}

#[test]
fn a_server_that_requests_no_password_verifies_none() {
    let pooler = Passwords::with("trust", "", |start| start.set("auth_type = server"));
    for (user, password) in [("app", "secret"), ("app", "wrong"), ("no_such_user", "wrong")] {
        pooler.refused(user, password);
    }
    let line = pooler.bouncer.wait_for_line("server requests no password of user");
    assert!(line.contains("pg_hba.conf"), "{line}");
}

#[test]
fn a_server_that_cannot_be_reached_is_not_a_wrong_password() {
    let mut pooler = Passwords::start();
    pooler.server.stop();
    for password in ["secret", "wrong"] {
        let error = pooler.log_in("app", password).err().unwrap();
        assert!(error.starts_with("08001 cannot connect to 127.0.0.1"), "{error}");
    }
    assert_eq!(pooler.counted("unavailable"), Some(2.0));
    pooler.server.start_again().unwrap();
    pooler.log_in("app", "secret").unwrap();
    pooler.refused("app", "wrong");
}

#[test]
fn the_console_has_the_passwords_of_auth_file() {
    let pooler = Passwords::start();
    let mut client = Client::start(pooler.bouncer.port, &[("user", "postgres"), ("database", "pgbouncer")]);
    assert_eq!(&client.read().unwrap().bytes[5..9], [0, 0, 0, 10], "SCRAM is asked for");
    let url = |password: &str| {
        let port = pooler.bouncer.port;
        format!("host=127.0.0.1 port={port} user=postgres password={password} dbname=pgbouncer")
    };
    connect(&url("console")).unwrap();
    assert_eq!(connect(&url("secret")).unwrap_err(), "28P01 SASL authentication failed");
}
