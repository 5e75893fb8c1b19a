//! Login: authentication of clients and at servers, Unix sockets, stalls and wrong passwords.

use crate::support::raw::Client;
use crate::support::{Bouncer, bouncer::Start, eventually, postgres};
use iambouncer::auth::scram::keys::SaltedPassword;
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::io::Read;
use wire::encode;

/// Logs in with a driver; returns the user on the server, or the error.
pub(super) fn driver(port: u16, user: &str, password: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!(
            "host=127.0.0.1 port={port} user={user} password={password} dbname=app connect_timeout=10"
        );
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map_err(|error| describe(&error))?;
        let connection = tokio::spawn(connection);
        let row =
            client.query_one("SELECT current_user::text", &[]).await.map_err(|error| describe(&error))?;
        drop(client);
        let _ = connection.await;
        Ok(row.get(0))
    })
}

/// Logs in with a password that the pooler requests in clear text: the error, or the client.
pub(super) fn log_in_with_clear_text(port: u16, user: &str, password: &str) -> Result<Client, String> {
    let mut client = Client::start(port, &[("user", user), ("database", "app")]);
    let request = client.read().unwrap();
    assert_eq!((request.tag, request.bytes[8]), (b'R', 3), "a request for a password in clear text");
    let mut message = Vec::new();
    encode::password(&mut message, password);
    client.send(&message);
    loop {
        let message = client.read().expect("an answer");
        match message.tag {
            b'E' => {
                let (code, text) = message.error();
                return Err(format!("{code} {text}"));
            }
            b'Z' => return Ok(client),
            _ => {}
        }
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => error.to_string(),
    }
}

/// A server that requires passwords by the given method.
pub(super) fn strict_server(method: &str, encryption: &str) -> Postgres {
    let hba = format!("local all all trust\nhost all all 127.0.0.1/32 {method}\n");
    let server = crate::support::postgres::start(PostgresOptions {
        hba: Some(hba),
        config_lines: vec![format!("password_encryption = '{encryption}'")],
        ..PostgresOptions::default()
    });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    server
}

#[test]
fn clients_log_in_with_every_working_method() {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let md5 = iambouncer::auth::md5::stored("hashed", "secret");
    let users = format!("\"app\" \"secret\"\n\"hashed\" \"{}\"\n", md5.as_str());
    for method in ["plain", "md5", "scram-sha-256"] {
        let bouncer =
            Start::databases(&databases).set(&format!("auth_type = {method}")).users(&users).start();
        assert_eq!(driver(bouncer.port, "app", "secret"), Ok("app".to_owned()), "{method}");
        let wrong = driver(bouncer.port, "app", "wrong").unwrap_err();
        let kind = if method == "scram-sha-256" { "SASL" } else { "password" };
        assert_eq!(wrong, format!("28P01 {kind} authentication failed"), "{method}");
        let unknown = driver(bouncer.port, "unknown_user", "secret").unwrap_err();
        assert_eq!(unknown, wrong, "{method}");
        if method != "scram-sha-256" {
            assert_eq!(driver(bouncer.port, "hashed", "secret"), Ok("app".to_owned()), "{method}");
        }
        assert!(!bouncer.log().contains("secret"), "{}", bouncer.log());
    }
}

#[test]
fn trust_requires_a_known_user_and_any_does_not() {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let trust = Start::databases(&databases).start();
    let mut unknown = Client::start(trust.port, &[("user", "unknown_user"), ("database", "app")]);
    assert_eq!(unknown.read().unwrap().error().0, "28P01");
    let any = Start::databases(&databases).set("auth_type = any").start();
    assert_eq!(Client::log_in(any.port, "unknown_user", "app").value("SELECT current_user"), "app");
}

#[test]
fn server_logins_work_with_every_method() {
    for (method, encryption) in
        [("password", "scram-sha-256"), ("md5", "md5"), ("scram-sha-256", "scram-sha-256")]
    {
        let server = strict_server(method, encryption);
        let bouncer = Bouncer::in_front_of(&server, &[]);
        assert_eq!(bouncer.client().value("SELECT current_user"), "app", "{method}");
    }
}

#[test]
fn a_scram_secret_in_the_auth_file_logs_in_to_a_server_that_stores_the_same() {
    let server = strict_server("scram-sha-256", "scram-sha-256");
    let secret = server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").unwrap();
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    let bouncer = Start::databases(&databases)
        .set("auth_type = scram-sha-256")
        .users(&format!("\"app\" \"{}\"\n", secret.trim()))
        .start();
    assert_eq!(driver(bouncer.port, "app", "secret"), Ok("app".to_owned()));
    assert!(driver(bouncer.port, "app", "wrong").is_err());
}

/// What a server with this value of `scram_iterations` stores.
fn scram_secret(password: &str, iterations: u32) -> String {
    let salt = b"sixteen bytes ..";
    let salted = SaltedPassword::derive(password, salt, iterations).unwrap();
    salted.secret(salt, iterations).stored_text().to_string()
}

#[test]
fn scram_logins_work_with_other_numbers_of_iterations() {
    let server = strict_server("scram-sha-256", "scram-sha-256");
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    for iterations in [1, 10_000, 100_000] {
        let secret = scram_secret("secret", iterations);
        server.sql(&format!("ALTER ROLE app PASSWORD '{secret}'")).unwrap();
        // The pooler proves the password, or passes the client's proof on.
        for stored in ["secret", &secret] {
            let users = format!("\"app\" \"{stored}\"\n");
            let bouncer = Start::databases(&databases).set("auth_type = scram-sha-256").users(&users).start();
            assert_eq!(driver(bouncer.port, "app", "secret"), Ok("app".to_owned()), "{iterations}");
            assert!(driver(bouncer.port, "app", "wrong").is_err(), "{iterations}");
        }
    }
}

#[test]
fn a_wrong_server_password_is_reported_at_once_and_the_pool_stays_empty() {
    let server = strict_server("scram-sha-256", "scram-sha-256");
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    let bouncer = Start::databases(&databases).users("\"app\" \"not it\"\n\"postgres\" \"\"\n").start();
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let (code, text) = client.read().unwrap().explained();
    assert_eq!(code, "28P01");
    assert!(text.contains("authentication failed"), "{text}");
    assert_eq!(bouncer.show("SERVERS", "state").len(), 0);
    assert!(!bouncer.log().contains("not it"));
}

#[test]
fn clients_wait_for_a_server_that_is_not_up_yet() {
    let server = strict_server("trust", "scram-sha-256");
    let bouncer = Bouncer::in_front_of(&server, &[]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let mut client = bouncer.client();
    let mut server = server;
    server.stop();
    client.send_query("SELECT 'patient'");
    let mut console = bouncer.console();
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    server.start_again().unwrap();
    assert_eq!(client.until_ready()[1].row(), [Some("patient".to_owned())]);
}

#[test]
fn a_client_that_stalls_in_any_phase_of_login_is_disconnected() {
    let bouncer = Bouncer::in_front_of(postgres(), &["auth_type = md5", "client_login_timeout = 1"]);
    let mut silent = Client::connect(bouncer.port);
    let mut half = Client::connect(bouncer.port);
    half.send(&[0, 0, 0, 50, 0, 3]);
    let mut no_password = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    no_password.expect(b'R');
    assert_eq!(silent.read(), None);
    assert_eq!(half.read(), None);
    assert_eq!(no_password.read().unwrap().error(), ("08P01".to_owned(), "client_login_timeout".to_owned()));
    assert_eq!(no_password.read(), None);
}

#[test]
fn invalid_first_packets_are_answered_or_dropped() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut http = Client::connect(bouncer.port);
    http.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(http.until_end(), []);
    let mut old = Client::connect(bouncer.port);
    old.send(&[0, 0, 0, 9, 0, 2, 0, 0, 0]);
    let mut answer = String::new();
    old.stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("EFATAL:  unsupported frontend protocol 2.0"), "{answer}");
    let mut unknown = Client::start(bouncer.port, &[("user", "app"), ("database", "nowhere")]);
    assert_eq!(unknown.read().unwrap().error(), ("3D000".to_owned(), "no such database: nowhere".to_owned()));
    let mut no_user = Client::start(bouncer.port, &[("database", "app")]);
    assert_eq!(no_user.read().unwrap().error().0, "28000");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn unix_sockets_work_on_both_sides_and_the_socket_file_is_removed_at_exit() {
    let dir = tempfile::tempdir().unwrap();
    let databases =
        format!("app = host={} port={} dbname=app", postgres().socket_dir().display(), postgres().port());
    let bouncer =
        Start::databases(&databases).set(&format!("unix_socket_dir = {}", dir.path().display())).start();
    let path = dir.path().join(format!(".s.PGSQL.{}", bouncer.port));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o777);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let user: String = runtime.block_on(async {
        let url = format!("host={} port={} user=app dbname=app", dir.path().display(), bouncer.port);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
        drop(client);
        let _ = connection.await;
        row.get(0)
    });
    assert_eq!(user, "app");
    assert_eq!(bouncer.show("SERVERS", "addr"), ["unix"]);
    let mut bouncer = bouncer;
    bouncer.console().query("SHUTDOWN");
    assert!(bouncer.wait_for_end().success());
    assert!(!path.exists());
}

#[test]
fn an_unreachable_first_host_does_not_prevent_logins() {
    // A port without a listener: bound, so that no other process gets it, and never listening.
    let dead = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    dead.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], postgres().port())).into()).unwrap();
    let databases = format!("app = host=127.0.0.2,127.0.0.1 port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&databases).start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}
