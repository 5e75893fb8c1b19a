//! Passwords that resemble stored secrets, and servers that answer an SSLRequest with an error.

use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::raw::Client;
use rds_sim::postgres::PostgresOptions;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// PostgreSQL treats none of these as the stored secret it resembles.
const PASSWORDS: [&str; 5] = [
    "SCRAM-SHA-256$secret",
    "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
    "md5secret",
    "md53028C639A499CC77099550A33E389877",
    "\u{ad}\u{200b}",
];

#[test]
fn passwords_that_resemble_stored_secrets_work_on_both_sides() {
    for (method, encryption) in [("scram-sha-256", "scram-sha-256"), ("md5", "md5"), ("password", "md5")] {
        let server = start(PostgresOptions {
            hba: Some(format!("local all all trust\nhost all all 127.0.0.1/32 {method}\n")),
            config_lines: vec![format!("password_encryption = '{encryption}'")],
            ..PostgresOptions::default()
        });
        let mut users = String::new();
        for (n, password) in PASSWORDS.iter().enumerate() {
            server.sql(&format!("CREATE ROLE user{n} LOGIN PASSWORD '{password}'")).unwrap();
            users.push_str(&format!("\"user{n}\" \"{password}\"\n"));
        }
        for auth_type in ["plain", "md5", "scram-sha-256"] {
            let databases = format!("app = host=127.0.0.1 port={} dbname=postgres", server.port());
            let bouncer =
                Start::databases(&databases).set(&format!("auth_type = {auth_type}")).users(&users).start();
            for (n, password) in PASSWORDS.iter().enumerate() {
                // The driver normalizes the last one to an empty string, which no server does.
                if auth_type == "scram-sha-256" && n == 4 {
                    continue;
                }
                let what = format!("{password:?}, {auth_type} at the pooler and {method} at the server");
                assert_eq!(whoami(bouncer.port, &format!("user{n}"), password), format!("user{n}"), "{what}");
            }
        }
    }
}

fn whoami(port: u16, user: &str, password: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user(user).dbname("app").password(password);
        let (client, connection) =
            config.connect(tokio_postgres::NoTls).await.unwrap_or_else(|error| panic!("{user}: {error:?}"));
        tokio::spawn(connection);
        client.query_one("SELECT current_user::text", &[]).await.unwrap().get(0)
    })
}

#[test]
fn an_error_in_answer_to_an_ssl_request_is_reported_with_the_servers_text() {
    let mut new = Vec::new();
    let report = wire::encode::ErrorReport::fatal("53300", "sorry, too many of you");
    wire::encode::error_response(&mut new, &report);
    let old = b"Ecould not fork new process for connection: no memory\n\0".to_vec();
    for (answer, words) in [
        (new, "FATAL sorry, too many of you (53300)"),
        (old, "could not fork new process for connection: no memory"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 64]);
                // Byte by byte, as it may arrive.
                answer.iter().for_each(|byte| drop(stream.write_all(&[*byte])));
            }
        });
        let databases = format!("app = host=127.0.0.1 port={port} user=app password=x");
        let bouncer = Start::databases(&databases)
            .set("server_tls_sslmode = require")
            .set("query_wait_timeout = 3")
            .start();
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        let (code, text) = client.expect(b'E').error();
        assert_eq!(code, "08001");
        assert!(text.contains(words), "{text}");
    }
}
