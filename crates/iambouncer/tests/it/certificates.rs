//! Certificates as made with openssl and the instructions of PostgreSQL's manual: which modes accept them,
//! and how a refusal is reported. docs/tls.md has the table.

use crate::support::bouncer::Start;
use crate::support::postgres;
use crate::support::tls_client::ClientSide;
use crate::support::{Bouncer, Client};
use rds_sim::postgres::{Postgres, PostgresOptions, PostgresTls};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory in which openssl makes certificates.
struct Openssl {
    dir: tempfile::TempDir,
}

impl Openssl {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Runs openssl; the arguments must not contain spaces themselves.
    fn run(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// server.crt and server.key, self-signed as in PostgreSQL's manual: the name is in the CN only, CA:TRUE.
    fn self_signed(&self, host: &str) {
        self.run(&format!(
            "req -new -x509 -days 365 -nodes -newkey rsa:2048 -subj /CN={host} -keyout server.key -out server.crt"
        ));
    }

    /// root.crt, and an X.509 version 1 server.crt issued by it: the manual's other recipe.
    fn version_1(&self, host: &str) {
        self.run(
            "req -new -x509 -days 365 -nodes -newkey rsa:2048 -subj /CN=root -keyout root.key -out root.crt",
        );
        self.run(&format!(
            "req -new -nodes -newkey rsa:2048 -subj /CN={host} -keyout server.key -out server.csr"
        ));
        self.run(
            "x509 -req -in server.csr -days 365 -CA root.crt -CAkey root.key -CAcreateserial -out server.crt",
        );
        let shown = ["x509", "-in", "server.crt", "-noout", "-text"];
        let output = Command::new("openssl").args(shown).current_dir(self.dir.path()).output().unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("Version: 1 "),
            "this openssl cannot make version 1"
        );
    }

    /// root.crt, and server.crt issued by it with further arguments and extensions.
    fn issued(&self, host: &str, arguments: &str, extensions: &str) {
        std::fs::write(self.path("extensions"), extensions).unwrap();
        self.run(
            "req -new -x509 -days 365 -nodes -newkey rsa:2048 -subj /CN=root -keyout root.key -out root.crt",
        );
        self.run(&format!(
            "req -new -nodes -newkey rsa:2048 -subj /CN={host} -keyout server.key -out server.csr"
        ));
        self.run(&format!(
            "x509 -req -in server.csr -CA root.crt -CAkey root.key -CAcreateserial -extfile extensions {arguments} \
             -out server.crt"
        ));
    }

    fn server(&self) -> Postgres {
        let tls = PostgresTls { certificate_pem: self.text("server.crt"), key_pem: self.text("server.key") };
        let server = crate::support::postgres::start(PostgresOptions {
            hba: Some("local all all trust\nhostssl all all 127.0.0.0/8 trust\n".to_owned()),
            tls: Some(tls),
            ..PostgresOptions::default()
        });
        server.sql("CREATE ROLE app LOGIN").unwrap();
        server.sql("CREATE DATABASE app OWNER app").unwrap();
        server
    }
}

fn pooler(port: u16, host: &str, mode: &str, ca_file: &Path) -> Bouncer {
    Start::databases(&format!("app = host={host} port={port} dbname=app"))
        .set(&format!("server_tls_sslmode = {mode}"))
        .set(&format!("server_tls_ca_file = {}", ca_file.display()))
        .start()
}

/// Message and hint of the error, if the login fails.
fn outcome(bouncer: &Bouncer) -> Result<(), (String, String)> {
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    if client.read().unwrap().tag != b'E' {
        client.until_ready();
        assert_eq!(client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
        return Ok(());
    }
    let (_, text, hint) = bouncer.refused_login("app", "app");
    Err((text, hint))
}

#[test]
fn a_self_signed_certificate_is_its_own_authority() {
    let openssl = Openssl::new();
    openssl.self_signed("localhost");
    let server = openssl.server();
    let file = openssl.path("server.crt");
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(outcome(&pooler(server.port(), "localhost", mode, &file)), Ok(()), "{mode}");
    }
    // The name in the CN is checked, in verify-full.
    assert_eq!(outcome(&pooler(server.port(), "127.0.0.1", "verify-ca", &file)), Ok(()));
    let (text, hint) = outcome(&pooler(server.port(), "127.0.0.1", "verify-full", &file)).unwrap_err();
    assert!(text.contains("the certificate is for localhost, not for 127.0.0.1"), "{text}");
    assert!(hint.contains("openssl req -x509") && hint.contains("subjectAltName=IP:127.0.0.1"), "{hint}");
    assert!(!hint.contains("RDS"), "{hint}");
    // Another certificate with the same name is not accepted.
    let other = Openssl::new();
    other.self_signed("localhost");
    for mode in ["verify-ca", "verify-full"] {
        let bouncer = pooler(server.port(), "localhost", mode, &other.path("server.crt"));
        let (text, hint) = outcome(&bouncer).unwrap_err();
        assert!(text.contains("self-signed and is not in the CA file"), "{text}");
        assert!(hint.contains("server_tls_ca_file") && !hint.contains("RDS"), "{hint}");
    }
}

#[test]
fn a_version_1_certificate_is_accepted_without_verification_or_with_its_authority() {
    let openssl = Openssl::new();
    openssl.version_1("localhost");
    let server = openssl.server();
    for protocol in ["tlsv1.2", "tlsv1.3"] {
        for mode in ["prefer", "require", "verify-ca", "verify-full"] {
            let bouncer =
                Start::databases(&format!("app = host=localhost port={} dbname=app", server.port()))
                    .set(&format!("server_tls_sslmode = {mode}"))
                    .set(&format!("server_tls_ca_file = {}", openssl.path("root.crt").display()))
                    .set(&format!("server_tls_protocols = {protocol}"))
                    .start();
            assert_eq!(outcome(&bouncer), Ok(()), "{mode} {protocol}");
        }
    }
    let (text, _) =
        outcome(&pooler(server.port(), "127.0.0.1", "verify-full", &openssl.path("root.crt"))).unwrap_err();
    assert!(text.contains("is for localhost, not for 127.0.0.1"), "{text}");
    // An authority with the same name and another key did not issue it.
    let other = Openssl::new();
    other.version_1("localhost");
    let (text, hint) =
        outcome(&pooler(server.port(), "localhost", "verify-ca", &other.path("root.crt"))).unwrap_err();
    assert!(text.contains("X.509 version 1") && hint.contains("openssl req -x509"), "{text} / {hint}");
}

#[test]
fn the_name_in_the_cn_is_used_if_there_is_no_other() {
    let openssl = Openssl::new();
    openssl.issued("localhost", "-days 365", "basicConstraints=CA:FALSE\n");
    let server = openssl.server();
    let root = openssl.path("root.crt");
    // The certificate has no key usages either.
    assert_eq!(outcome(&pooler(server.port(), "localhost", "verify-full", &root)), Ok(()));
    let named = Openssl::new();
    named.issued("localhost", "-days 365", "subjectAltName=DNS:db.example\n");
    let server = named.server();
    let (text, _) =
        outcome(&pooler(server.port(), "localhost", "verify-full", &named.path("root.crt"))).unwrap_err();
    assert!(text.contains("is for db.example, not for localhost"), "{text}");
}

#[test]
fn a_name_in_the_cn_does_not_evade_name_constraints() {
    let openssl = Openssl::new();
    openssl.run(
        "req -new -x509 -days 365 -nodes -newkey rsa:2048 -subj /CN=root -keyout root.key -out root.crt -addext \
         nameConstraints=critical,permitted;DNS:example.com",
    );
    openssl.run("req -new -nodes -newkey rsa:2048 -subj /CN=localhost -keyout server.key -out server.csr");
    std::fs::write(openssl.path("extensions"), "basicConstraints=CA:FALSE\n").unwrap();
    openssl.run(
        "x509 -req -in server.csr -days 365 -CA root.crt -CAkey root.key -CAcreateserial -extfile extensions -out \
         server.crt",
    );
    let server = openssl.server();
    let bouncer = pooler(server.port(), "localhost", "verify-full", &openssl.path("root.crt"));
    let (text, _) = outcome(&bouncer).unwrap_err();
    assert!(text.contains("only in its common name"), "{text}");
}

#[test]
fn expired_and_client_only_certificates_are_accepted_only_without_verification() {
    let cases = [
        ("-days -1", "subjectAltName=DNS:localhost\n", "the certificate expired on"),
        (
            "-days 365",
            "subjectAltName=DNS:localhost\nextendedKeyUsage=clientAuth\n",
            "do not include server authentication",
        ),
    ];
    for (arguments, extensions, words) in cases {
        let openssl = Openssl::new();
        openssl.issued("localhost", arguments, extensions);
        let server = openssl.server();
        let root = openssl.path("root.crt");
        for mode in ["prefer", "require"] {
            assert_eq!(outcome(&pooler(server.port(), "localhost", mode, &root)), Ok(()), "{words} {mode}");
        }
        for mode in ["verify-ca", "verify-full"] {
            let (text, hint) = outcome(&pooler(server.port(), "localhost", mode, &root)).unwrap_err();
            assert!(text.contains(words), "{words} {mode}: {text}");
            assert!(hint.contains("openssl req -x509") && !hint.contains("RDS"), "{hint}");
        }
    }
}

#[test]
fn an_unknown_issuer_is_named_without_mention_of_rds() {
    let openssl = Openssl::new();
    openssl.issued("localhost", "-days 365", "subjectAltName=DNS:localhost\n");
    let server = openssl.server();
    let other = Openssl::new();
    other.self_signed("elsewhere");
    let bouncer = pooler(server.port(), "localhost", "verify-full", &other.path("server.crt"));
    let (text, hint) = outcome(&bouncer).unwrap_err();
    assert!(text.contains("issued by \"CN=root\", which is not a trusted authority"), "{text}");
    assert!(hint.contains("server_tls_ca_file") && !hint.contains("RDS"), "{hint}");
}

#[test]
fn the_pooler_can_present_a_version_1_certificate_to_clients() {
    let openssl = Openssl::new();
    openssl.version_1("localhost");
    let bouncer = Start::databases(&format!("app = host=127.0.0.1 port={} dbname=app", postgres().port()))
        .set("client_tls_sslmode = require")
        .set(&format!("client_tls_cert_file = {}", openssl.path("server.crt").display()))
        .set(&format!("client_tls_key_file = {}", openssl.path("server.key").display()))
        .start();
    let output = Command::new("psql")
        .arg(format!(
            "host=localhost port={} user=app dbname=app password=secret sslmode=verify-full sslrootcert={}",
            bouncer.port,
            openssl.path("root.crt").display()
        ))
        .args(["-Atc", "SELECT current_user"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "app", "{output:?}");
}

#[test]
fn a_version_1_certificate_of_a_client_is_verified() {
    let openssl = Openssl::new();
    openssl.version_1("app");
    let side = ClientSide::new();
    std::fs::copy(openssl.path("root.crt"), side.dir.path().join("ca.pem")).unwrap();
    let bouncer =
        side.bouncer(&format!("app = host=127.0.0.1 port={} dbname=app", postgres().port()), "verify-full");
    let with_certificate = |from: &Openssl| {
        Command::new("psql")
            .arg(format!(
                "host=localhost port={} user=app dbname=app password=secret sslmode=require sslcert={} sslkey={}",
                bouncer.port,
                from.path("server.crt").display(),
                from.path("server.key").display()
            ))
            .args(["-Atc", "SELECT current_user"])
            .output()
            .unwrap()
    };
    let output = with_certificate(&openssl);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "app", "{output:?}");
    let stranger = Openssl::new();
    stranger.version_1("app");
    assert!(!with_certificate(&stranger).status.success());
    bouncer.wait_for_line("X.509 version 1 and was not issued by a certificate in the CA file");
}

#[test]
fn a_key_that_does_not_match_the_certificate_is_named_at_reload() {
    let side = ClientSide::new();
    let bouncer =
        side.bouncer(&format!("app = host=127.0.0.1 port={} dbname=app", postgres().port()), "require");
    let other = Openssl::new();
    other.self_signed("localhost");
    std::fs::copy(other.path("server.key"), side.dir.path().join("key.pem")).unwrap();
    bouncer.signal(rustix::process::Signal::HUP);
    bouncer.wait_for_line("is not the key of the certificate");
}
