//! TLS on both sides: all modes for servers, modes and certificates for clients, large amounts of data over
//! both, and SCRAM with channel binding.

use crate::support::raw::{self, Message, tags};
use crate::support::tls_client::{ClientSide, TlsClient, client_config, client_identity};
use crate::support::{Bouncer, Client, bouncer::Start, postgres};
use rds_sim::Certificates;
use rds_sim::postgres::{Postgres, PostgresOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn plain_line() -> String {
    format!("app = host=127.0.0.1 port={} dbname=app", postgres().port())
}

#[test]
fn require_refuses_clients_without_tls() {
    let side = ClientSide::new();
    let bouncer = side.bouncer(&plain_line(), "require");
    let mut plain = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    assert_eq!(plain.read().unwrap().error(), ("28000".to_owned(), "SSL required".to_owned()));
    let mut client = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
    assert_eq!(client.value("SELECT current_user"), "app");
}

#[test]
fn allow_and_prefer_accept_both_and_disable_refuses_tls() {
    let side = ClientSide::new();
    for mode in ["allow", "prefer"] {
        let bouncer = side.bouncer(&plain_line(), mode);
        assert_eq!(bouncer.client().value("SELECT 1"), "1", "{mode}");
        let mut client = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
        assert_eq!(client.value("SELECT 1"), "1", "{mode}");
        assert!(bouncer.show("CLIENTS", "tls").iter().any(|tls| tls.starts_with("TLSv1.3")), "{mode}");
    }
    let bouncer = side.bouncer(&plain_line(), "disable");
    let mut client = Client::connect(bouncer.port);
    let mut request = Vec::new();
    wire::encode::ssl_request(&mut request);
    client.send(&request);
    let mut answer = [0];
    std::io::Read::read_exact(&mut client.stream, &mut answer).unwrap();
    assert_eq!(answer[0] as char, 'N');
}

#[test]
fn verify_modes_require_a_client_certificate() {
    let side = ClientSide::new();
    for mode in ["verify-ca", "verify-full"] {
        let bouncer = side.bouncer(&plain_line(), mode);
        let known = side.config_with_certificate(&side.identity);
        let mut client = TlsClient::log_in(bouncer.port, known, "app", "app").unwrap();
        assert_eq!(client.value("SELECT 1"), "1", "{mode}");
        let stranger = side.config_with_certificate(&client_identity("app"));
        for config in [side.config(), stranger] {
            assert!(TlsClient::log_in(bouncer.port, config, "app", "app").is_err(), "{mode}");
        }
        assert_eq!(client.value("SELECT 2"), "2", "{mode}");
    }
}

#[test]
fn a_reload_uses_renewed_certificates() {
    let side = ClientSide::new();
    let bouncer = side.bouncer(&plain_line(), "require");
    let mut client = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
    let renewed = Certificates::generate(&["localhost".to_owned()]).unwrap();
    let pem = renewed.for_postgres();
    std::fs::write(side.dir.path().join("cert.pem"), &pem.certificate_pem).unwrap();
    // A certificate with a key that does not match is rejected.
    let mut console = TlsClient::log_in(bouncer.port, side.config(), "postgres", "pgbouncer").unwrap();
    assert_eq!(tags(&console.query("RELOAD")), "EZ");
    assert!(TlsClient::log_in(bouncer.port, side.config(), "app", "app").is_ok());
    std::fs::write(side.dir.path().join("key.pem"), &pem.key_pem).unwrap();
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    let config = client_config(renewed.ca_pem(), None);
    assert_eq!(TlsClient::log_in(bouncer.port, config, "app", "app").unwrap().value("SELECT 1"), "1");
    assert!(TlsClient::log_in(bouncer.port, side.config(), "app", "app").is_err());
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
}

/// A PostgreSQL with TLS on 127.0.0.1, which its certificate contains, and on 127.0.0.2, which it does not.
pub(crate) fn tls_server(hba: &str, certificates: &Certificates) -> Postgres {
    let server = crate::support::postgres::start(PostgresOptions {
        hba: Some(format!("local all all trust\n{hba}\n")),
        tls: Some(certificates.for_postgres()),
        config_lines: vec!["listen_addresses = '127.0.0.1, 127.0.0.2'".to_owned()],
        ..PostgresOptions::default()
    });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    server
}

fn tls_pooler(host: &str, port: u16, mode: &str, ca_file: &Path) -> Bouncer {
    let line = format!("app = host={host} port={port} dbname=app");
    Start::databases(&line)
        .set(&format!("server_tls_sslmode = {mode}"))
        .set(&format!("server_tls_ca_file = {}", ca_file.display()))
        .start()
}

/// True if the first client's server connection is encrypted, or the error.
fn encrypted(bouncer: &Bouncer) -> Result<bool, (String, String)> {
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let first = client.read().unwrap();
    if first.tag == b'E' {
        return Err(first.error());
    }
    client.until_ready();
    let ssl = client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t";
    assert_eq!(!bouncer.show("SERVERS", "tls")[0].is_empty(), ssl);
    Ok(ssl)
}

/// A CA, and its certificate as a file.
pub(crate) struct Authority {
    pub(crate) certificates: Certificates,
    dir: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let certificates = Certificates::generate(&["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificates.ca_pem()).unwrap();
        Self { certificates, dir }
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }
}

#[test]
fn every_mode_works_with_a_server_that_has_tls() {
    let authority = Authority::new();
    let server = tls_server("host all all 127.0.0.0/8 trust", &authority.certificates);
    let modes = [
        ("disable", false),
        ("allow", false),
        ("prefer", true),
        ("require", true),
        ("verify-ca", true),
        ("verify-full", true),
    ];
    for (mode, expected) in modes {
        let bouncer = tls_pooler("localhost", server.port(), mode, &authority.file());
        assert_eq!(encrypted(&bouncer), Ok(expected), "{mode}");
    }
}

#[test]
fn modes_that_require_tls_refuse_a_server_without_it() {
    let authority = Authority::new();
    let modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    for mode in modes {
        let bouncer = tls_pooler("127.0.0.1", postgres().port(), mode, &authority.file());
        let outcome = encrypted(&bouncer);
        if ["disable", "allow", "prefer"].contains(&mode) {
            assert_eq!(outcome, Ok(false), "{mode}");
        } else {
            let (code, text) = outcome.unwrap_err();
            assert_eq!(code, "08004", "{mode}");
            assert!(text.contains("does not support TLS"), "{mode}: {text}");
            assert_eq!(bouncer.show("SERVERS", "state").len(), 0, "{mode}");
        }
    }
}

#[test]
fn allow_retries_with_tls_if_the_server_requires_it() {
    let authority = Authority::new();
    let server = tls_server("hostssl all all 127.0.0.0/8 trust", &authority.certificates);
    for (mode, expected) in [("allow", Some(true)), ("disable", None)] {
        let bouncer = tls_pooler("localhost", server.port(), mode, &authority.file());
        assert_eq!(encrypted(&bouncer).ok(), expected, "{mode}");
    }
}

#[test]
fn each_mode_checks_names_and_authorities_as_documented() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let server = tls_server("host all all 127.0.0.0/8 trust", &authority.certificates);
    let cases = [
        ("localhost", "verify-full", &authority, true),
        ("127.0.0.1", "verify-full", &authority, true),
        ("127.0.0.2", "verify-full", &authority, false),
        ("127.0.0.2", "verify-ca", &authority, true),
        ("localhost", "verify-full", &stranger, false),
        ("localhost", "verify-ca", &stranger, false),
        ("localhost", "require", &stranger, true),
    ];
    for (host, mode, trusted, passes) in cases {
        let bouncer = tls_pooler(host, server.port(), mode, &trusted.file());
        match encrypted(&bouncer) {
            Ok(ssl) => assert!(passes && ssl, "{host} {mode}"),
            Err((code, text)) => {
                assert!(!passes, "{host} {mode}: {text}");
                assert_eq!(code, "08004", "{host} {mode}");
                assert!(text.contains(&format!("TLS to {host} (")), "{text}");
            }
        }
    }
}

fn copy_total(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.tag == b'd').map(|message| message.bytes.len() - 5).sum()
}

#[test]
fn large_amounts_of_data_pass_with_tls_on_both_sides() {
    const ROWS: usize = 200_000;
    let side = ClientSide::new();
    let authority = Authority::new();
    let server = tls_server("hostssl all all 127.0.0.0/8 trust", &authority.certificates);
    let line = format!("app = host=localhost port={} dbname=app", server.port());
    let file = |path: &str| side.dir.path().join(path).display().to_string();
    let bouncer = Start::databases(&line)
        .set("client_tls_sslmode = require")
        .set(&format!("client_tls_cert_file = {}", file("cert.pem")))
        .set(&format!("client_tls_key_file = {}", file("key.pem")))
        .set("server_tls_sslmode = verify-full")
        .set(&format!("server_tls_ca_file = {}", authority.file().display()))
        .start();
    let mut client = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();

    // One large value, and many small rows.
    assert_eq!(client.value("SELECT repeat('x', 20000000)").len(), 20_000_000);
    let rows = client.query(&format!("SELECT i FROM generate_series(1, {ROWS}) i"));
    assert_eq!(rows.iter().filter(|message| message.tag == b'D').count(), ROWS);

    client.query("CREATE TABLE much (line text)");
    client.send(&raw::query("COPY much FROM STDIN")).unwrap();
    assert_eq!(tags(&client.until(b'G').unwrap()), "G");
    let block = format!("{}\n", "y".repeat(99)).repeat(1000);
    for _ in 0..100 {
        client.send(&raw::copy_data(block.as_bytes())).unwrap();
    }
    client.send(&raw::copy_done()).unwrap();
    assert_eq!(tags(&client.until_ready().unwrap()), "CZ");
    assert_eq!(client.value("SELECT count(*) FROM much"), "100000");
    assert_eq!(copy_total(&client.query("COPY much TO STDOUT")), 100 * block.len());
}

/// A man in the middle between pooler and PostgreSQL with its own certificate, which only `require` and
/// weaker modes accept.
async fn man_in_the_middle(
    listener: TcpListener,
    server_port: u16,
    shown: Arc<ServerConfig>,
    real: Arc<ClientConfig>,
) {
    while let Ok((mut client, _)) = listener.accept().await {
        let (shown, real) = (shown.clone(), real.clone());
        tokio::spawn(async move {
            let mut request = [0; 8];
            client.read_exact(&mut request).await?;
            let mut server = TcpStream::connect(("127.0.0.1", server_port)).await?;
            server.write_all(&request).await?;
            let mut answer = [0; 1];
            server.read_exact(&mut answer).await?;
            client.write_all(&answer).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let mut server = tokio_rustls::TlsConnector::from(real).connect(name, server).await?;
            let mut client = tokio_rustls::TlsAcceptor::from(shown).accept(client).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}

pub(crate) fn server_config_with(certificates: &Certificates) -> Arc<ServerConfig> {
    let pem = certificates.for_postgres();
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pem.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

#[test]
fn scram_uses_channel_binding() {
    let authority = Authority::new();
    let hba = "hostssl all trusted 127.0.0.0/8 trust\nhostssl all all 127.0.0.0/8 scram-sha-256";
    let server = tls_server(hba, &authority.certificates);
    server.sql("CREATE ROLE trusted LOGIN").unwrap();
    let users = "\"app\" \"secret\"\n\"trusted\" \"\"\n\"postgres\" \"\"\n";
    let pooler = |port: u16| {
        let line = format!("app = host=localhost port={port} dbname=app");
        Start::databases(&line).set("server_tls_sslmode = require").users(users).start()
    };
    let direct = pooler(server.port());
    assert_eq!(direct.client().value("SELECT current_user"), "app");

    // SCRAM without channel binding would pass through a man in the middle; with channel binding it fails.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let real = client_config(authority.certificates.ca_pem(), None);
    runtime.spawn(man_in_the_middle(
        listener,
        server.port(),
        server_config_with(&Authority::new().certificates),
        real,
    ));
    let tapped = pooler(port);
    assert_eq!(Client::log_in(tapped.port, "trusted", "app").value("SELECT current_user"), "trusted");
    let mut client = Client::start(tapped.port, &[("user", "app"), ("database", "app")]);
    let (code, text) = client.read().unwrap().error();
    assert_eq!(
        (code.as_str(), text.contains("SCRAM channel binding check failed")),
        ("28000", true),
        "{text}"
    );
}
