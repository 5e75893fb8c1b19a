//! A TLS client that sends and reads single messages, and the certificates it needs. Owns one encrypted
//! connection.

use super::TIMEOUT;
use super::bouncer::{Bouncer, Start};
use super::raw::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rds_sim::Certificates;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use wire::encode;
use wire::startup::Version;

/// A certificate with its key, and the CA that signed it, in PEM format.
pub struct Identity {
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Creates a client certificate signed by its own CA.
pub fn client_identity(name: &str) -> Identity {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::default();
    ca_params.distinguished_name.push(DnType::CommonName, "authority of clients");
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca_params, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Identity { ca_pem: ca.pem(), certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

/// A rustls configuration that trusts one CA and optionally presents a certificate.
pub fn client_config(ca_pem: &str, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

/// Certificate, key and CA certificates of a pooler, as files.
pub struct ClientSide {
    pub dir: tempfile::TempDir,
    pub certificates: Certificates,
    pub identity: Identity,
}

impl ClientSide {
    /// With a certificate for `localhost`.
    pub fn new() -> Self {
        Self::for_names(&["localhost"])
    }

    /// With a certificate for these names.
    pub fn for_names(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificates = Certificates::generate(&names).unwrap();
        let identity = client_identity("app");
        let server = certificates.for_postgres();
        let files = [
            ("cert.pem", server.certificate_pem.as_str()),
            ("key.pem", server.key_pem.as_str()),
            ("ca.pem", identity.ca_pem.as_str()),
            ("authority.pem", certificates.ca_pem()),
        ];
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self { dir, certificates, identity }
    }

    /// Adds the client TLS settings of a pooler.
    pub fn set<'a>(&self, start: Start<'a>, mode: &str) -> Start<'a> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        start
            .set(&format!("client_tls_sslmode = {mode}"))
            .set(&format!("client_tls_cert_file = {}", file("cert.pem")))
            .set(&format!("client_tls_key_file = {}", file("key.pem")))
            .set(&format!("client_tls_ca_file = {}", file("ca.pem")))
    }

    /// Starts a pooler with TLS for clients.
    pub fn bouncer(&self, databases: &str, mode: &str) -> Bouncer {
        self.set(Start::databases(databases), mode).start()
    }

    /// The file with the CA of the pooler's certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    /// A client configuration that trusts the pooler.
    pub fn config(&self) -> Arc<ClientConfig> {
        client_config(self.certificates.ca_pem(), None)
    }

    /// Like `config`, with a client certificate.
    pub fn config_with_certificate(&self, identity: &Identity) -> Arc<ClientConfig> {
        client_config(self.certificates.ca_pem(), Some(identity))
    }
}

/// An encrypted connection.
pub struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsClient {
    /// Connects with TLS; the certificate must be for `localhost`.
    pub fn connect(port: u16, config: Arc<ClientConfig>) -> io::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        socket.set_nodelay(true)?;
        let mut request = Vec::new();
        encode::ssl_request(&mut request);
        socket.write_all(&request)?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        assert_eq!(answer[0] as char, 'S', "the pooler has no TLS");
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.complete_io(&mut socket)?;
        Ok(Self { stream: StreamOwned::new(session, socket) })
    }

    /// Begins TLS without a request, and logs in.
    pub fn log_in_directly(port: u16, config: Arc<ClientConfig>) -> io::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.complete_io(&mut socket)?;
        let mut client = Self { stream: StreamOwned::new(session, socket) };
        let mut packet = Vec::new();
        encode::startup(&mut packet, Version::V3_0, &[("user", "app"), ("database", "app")]);
        client.send(&packet)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Connects and logs in to a pooler that requests no password.
    pub fn log_in(port: u16, config: Arc<ClientConfig>, user: &str, database: &str) -> io::Result<Self> {
        let mut client = Self::connect(port, config)?;
        let mut packet = Vec::new();
        encode::startup(&mut packet, Version::V3_0, &[("user", user), ("database", database)]);
        client.send(&packet)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Connects and logs in with a cleartext password; on failure returns SQLSTATE, message and hint.
    pub fn log_in_with(
        port: u16,
        config: Arc<ClientConfig>,
        user: &str,
        database: &str,
        password: &str,
    ) -> Result<Self, (String, String, String)> {
        let mut client = Self::connect(port, config).unwrap();
        let mut packet = Vec::new();
        encode::startup(&mut packet, Version::V3_0, &[("user", user), ("database", database)]);
        client.send(&packet).unwrap();
        let refusal = |message: Message| {
            let (code, text) = message.explained();
            (code, text, message.hint())
        };
        let first = client.read().unwrap();
        if first.tag == b'E' {
            return Err(refusal(first));
        }
        packet.clear();
        encode::password(&mut packet, password);
        client.send(&packet).unwrap();
        match client.until(b'E').unwrap().pop() {
            Some(last) if last.tag == b'E' => Err(refusal(last)),
            _ => Ok(client),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next message.
    pub fn read(&mut self) -> io::Result<Message> {
        let mut bytes = vec![0; 5];
        self.stream.read_exact(&mut bytes)?;
        let len = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize + 1;
        bytes.resize(len, 0);
        self.stream.read_exact(&mut bytes[5..])?;
        Ok(Message { tag: bytes[0], bytes })
    }

    /// Messages up to ReadyForQuery or a message with the tag `end`.
    pub fn until(&mut self, end: u8) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let message = self.read()?;
            let tag = message.tag;
            messages.push(message);
            if tag == end || tag == b'Z' {
                return Ok(messages);
            }
        }
    }

    /// Messages up to the end of the TLS session, which requires a close_notify.
    pub fn until_end(&mut self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let mut first = [0];
            if self.stream.read(&mut first)? == 0 {
                return Ok(messages);
            }
            let mut bytes = vec![first[0], 0, 0, 0, 0];
            self.stream.read_exact(&mut bytes[1..])?;
            let len = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize + 1;
            bytes.resize(len, 0);
            self.stream.read_exact(&mut bytes[5..])?;
            messages.push(Message { tag: first[0], bytes });
        }
    }

    /// Messages up to ReadyForQuery.
    pub fn until_ready(&mut self) -> io::Result<Vec<Message>> {
        self.until(b'Z')
    }

    /// Sends a simple query and reads its answer.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&super::raw::query(sql)).unwrap();
        self.until_ready().unwrap()
    }

    /// The first value of the first row of a simple query.
    pub fn value(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let row = messages.iter().find(|message| message.tag == b'D').expect("a row");
        row.row()[0].clone().unwrap_or_default()
    }
}
