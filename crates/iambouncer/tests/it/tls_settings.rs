//! Settings of TLS that restrict or change what is negotiated: cipher suites, groups, and certificates that SET
//! replaces.

use crate::support::raw::{Client, tags};
use crate::support::tls_client::{ClientSide, TlsClient, client_config};
use crate::support::{Bouncer, bouncer::Start, eventually, postgres};
use crate::tls::{Authority, tls_server};
use rds_sim::Certificates;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use std::io::Read;
use std::sync::Arc;

fn line() -> String {
    format!("app = host=127.0.0.1 port={} dbname=app", postgres().port())
}

/// The cipher suite that the pooler has negotiated with its only TLS client.
fn negotiated(bouncer: &Bouncer) -> String {
    bouncer.show("CLIENTS", "tls").into_iter().find(|tls| !tls.is_empty()).unwrap_or_default()
}

/// A configuration with these suites and groups.
fn restricted(side: &ClientSide, change: impl FnOnce(&mut CryptoProvider)) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(side.certificates.ca_pem().as_bytes()).unwrap()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    change(&mut provider);
    let versions: Vec<_> = [&TLS12, &TLS13]
        .into_iter()
        .filter(|version| {
            provider.cipher_suites.iter().any(|suite| suite.version().version == version.version)
        })
        .collect();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn clients_negotiate_only_the_configured_suites() {
    let (side, line) = (ClientSide::new(), line());
    let start = side.set(Start::databases(&line), "allow").set("client_tls_ciphers = HIGH:!AES128:!CHACHA20");
    let bouncer = start.set("client_tls13_ciphers = TLS_CHACHA20_POLY1305_SHA256").start();
    let client = TlsClient::log_in(
        bouncer.port,
        restricted(&side, |provider| provider.cipher_suites.retain(|suite| suite.tls13().is_none())),
        "app",
        "app",
    )
    .unwrap();
    assert!(
        negotiated(&bouncer).contains("TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384"),
        "{}",
        negotiated(&bouncer)
    );
    drop(client);
    eventually("it has left", || negotiated(&bouncer).is_empty());
    let client = TlsClient::log_in(bouncer.port, side.config(), "app", "app").unwrap();
    assert!(
        negotiated(&bouncer).contains("TLSv1.3/TLS_CHACHA20_POLY1305_SHA256"),
        "{}",
        negotiated(&bouncer)
    );
    drop(client);
    let other = restricted(&side, |provider| {
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    });
    assert!(TlsClient::log_in(bouncer.port, other.clone(), "app", "app").is_err());
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query("SET client_tls13_ciphers = ''")), "CZ");
    assert!(TlsClient::log_in(bouncer.port, other, "app", "app").is_ok());
    for (set, part) in [
        ("client_tls_ciphers = 'HIGH:AES128-SHA'", "AES128-SHA"),
        ("client_tls_ciphers = '3DES'", "leaves no cipher suite"),
        ("client_tls13_ciphers = 'TLS_AES_128_CCM_SHA256'", "TLS_AES_128_CCM_SHA256"),
        ("client_tls_ecdhcurve = 'secp521r1'", "secp521r1"),
    ] {
        assert!(console.query(&format!("SET {set}"))[0].detail().contains(part), "{set}");
    }
}

#[test]
fn clients_need_one_of_the_configured_groups() {
    let side = ClientSide::new();
    let bouncer = side.set(Start::databases(&line()), "require").set("client_tls_ecdhcurve = P-384").start();
    let with = |group| restricted(&side, |provider| provider.kx_groups = vec![group]);
    assert!(TlsClient::log_in(bouncer.port, with(aws_lc_rs::kx_group::SECP384R1), "app", "app").is_ok());
    assert!(TlsClient::log_in(bouncer.port, with(aws_lc_rs::kx_group::X25519), "app", "app").is_err());
}

#[test]
fn set_changes_key_and_certificate_one_after_the_other() {
    let side = ClientSide::new();
    let bouncer = side.bouncer(&line(), "allow");
    let renewed = Certificates::generate(&["localhost".to_owned()]).unwrap();
    let pem = renewed.for_postgres();
    let file = |name: &str, text: &str| {
        let path = side.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (key, certificate) = (file("new.key", &pem.key_pem), file("new.crt", &pem.certificate_pem));
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query(&format!("SET client_tls_key_file = '{key}'"))), "CZ");
    bouncer.wait_for_line("the TLS configuration is unchanged: ");
    let log_in = |ca: &str| TlsClient::log_in(bouncer.port, client_config(ca, None), "app", "app");
    assert!(log_in(side.certificates.ca_pem()).is_ok(), "the old pair");
    assert_eq!(tags(&console.query(&format!("SET client_tls_cert_file = '{certificate}'"))), "CZ");
    assert!(log_in(renewed.ca_pem()).is_ok(), "the new pair");
    assert!(log_in(side.certificates.ca_pem()).is_err());
    assert!(console.query("SET client_tls_key_file = '/no/such/file'")[0].detail().contains("/no/such/file"));
}

#[test]
fn set_can_introduce_a_key_a_certificate_and_tls() {
    let side = ClientSide::new();
    let bouncer = Start::databases(&line()).start();
    let file = |name: &str| side.dir.path().join(name).display().to_string();
    let mut console = bouncer.console();
    for set in [
        format!("client_tls_key_file = '{}'", file("key.pem")),
        format!("client_tls_cert_file = '{}'", file("cert.pem")),
        format!("client_tls_ca_file = '{}'", file("ca.pem")),
        "client_tls_sslmode = require".to_owned(),
    ] {
        assert_eq!(tags(&console.query(&format!("SET {set}"))), "CZ", "{set}");
    }
    assert!(TlsClient::log_in(bouncer.port, side.config(), "app", "app").is_ok());
}

#[test]
fn servers_use_the_configured_suites_and_are_replaced_when_these_change() {
    let authority = Authority::new();
    let server = tls_server("hostssl all all 127.0.0.1/32 trust", &authority.certificates);
    let line = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    let bouncer = Start::databases(&line)
        .set("server_tls_sslmode = require")
        .set("server_tls13_ciphers = TLS_AES_256_GCM_SHA384")
        .start();
    let mut client = bouncer.client();
    let cipher = "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(client.value(cipher), "TLS_AES_256_GCM_SHA384");
    let set = "SET server_tls13_ciphers = 'TLS_CHACHA20_POLY1305_SHA256'";
    assert_eq!(tags(&bouncer.console().query(set)), "CZ");
    bouncer.wait_for_line("closing because: database configuration changed");
    assert_eq!(client.value(cipher), "TLS_CHACHA20_POLY1305_SHA256");
    bouncer.console().query("SET server_tls_protocols = tlsv1.2");
    bouncer
        .console()
        .query("SET server_tls_ciphers = 'ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384'");
    assert!(client.value(cipher).ends_with("AES256-GCM-SHA384"));
}

#[test]
fn tls_can_begin_without_a_request_if_the_client_names_the_protocol() {
    let side = ClientSide::new();
    let bouncer = side.bouncer(&line(), "require");
    let with_alpn = |protocol: &str| {
        let mut config = (*side.config()).clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Arc::new(config)
    };
    let mut client = TlsClient::log_in_directly(bouncer.port, with_alpn("postgresql")).unwrap();
    assert_eq!(client.value("SELECT 'direct'"), "direct");
    assert!(TlsClient::log_in_directly(bouncer.port, side.config()).is_err());
    bouncer.wait_for_line("without a request or ALPN");
    assert!(TlsClient::log_in_directly(bouncer.port, with_alpn("http/1.1")).is_err());
    // With a request, ALPN is optional.
    assert!(TlsClient::log_in(bouncer.port, with_alpn("postgresql"), "app", "app").is_ok());
    let plain = Bouncer::in_front_of(postgres(), &[]);
    assert!(TlsClient::log_in_directly(plain.port, with_alpn("postgresql")).is_err());
    plain.wait_for_line("TLS is off");
}

#[test]
fn tls_cannot_begin_without_a_request_after_another_one() {
    let side = ClientSide::new();
    let bouncer = side.bouncer(&line(), "require");
    let mut client = Client::connect(bouncer.port);
    // A GSS request is declined, and the connection continues.
    client.send(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30]);
    let mut answer = [0];
    client.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], b'N');
    client.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert_eq!(client.until_end(), []);
    bouncer.wait_for_line("a TLS handshake after another request");
}
