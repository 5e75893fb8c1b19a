//! Shared by the tests: a door in front of a real PostgreSQL, and a TLS client for it.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rds_iam::{Credentials, Region, TokenRequest, sign};
use rds_sim::postgres::{Postgres, PostgresOptions};
use rds_sim::{AccessKey, Backend, Certificates, IamFrontend, IamFrontendOptions, Simulator, TokenTarget};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

pub const HOST: &str = "db.c1.eu-west-1.rds.amazonaws.com";
pub const REGION: &str = "eu-west-1";
pub const KEY_ID: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "a secret";

/// A simulator with one door and one static key; user `app` logs in with tokens, other users as PostgreSQL
/// decides.
pub struct Fixture {
    pub postgres: Postgres,
    pub simulator: Simulator,
    pub door: IamFrontend,
    pub certificates: Certificates,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(PostgresOptions::default()).await
    }

    pub async fn with(options: PostgresOptions) -> Self {
        let postgres = tokio::task::spawn_blocking(move || {
            let postgres = Postgres::start(&options).unwrap();
            postgres.sql("create role app login; create role plain login password 'pw'").unwrap();
            postgres
        })
        .await
        .unwrap();
        let simulator = Simulator::default();
        simulator.keys().add(AccessKey::parse(&format!("{KEY_ID}:{SECRET}")).unwrap());
        let certificates = Certificates::generate(&[HOST.to_owned()]).unwrap();
        let options = IamFrontendOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            target: TokenTarget { hosts: vec![HOST.to_owned()], port: 0, region: REGION.to_owned() },
            iam_users: vec!["app".to_owned()],
            backend: Backend::from(&postgres),
            force_ssl: true,
            certificates: certificates.clone(),
        };
        let door = IamFrontend::open(&simulator, options).await.unwrap();
        Self { postgres, simulator, door, certificates }
    }

    /// A token as the pooler would make it, on the simulator's clock.
    pub fn token(&self, user: &str) -> String {
        let credentials = Credentials::new(KEY_ID, SECRET, None, None, "test");
        token(&credentials, user, self.door.target().port, self.simulator.clock().now())
    }

    pub fn tls(&self) -> Tls {
        Tls::trusting(self.certificates.ca_pem())
    }

    pub async fn connect(&self, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
        connect(self.door.address(), self.certificates.ca_pem(), user, password).await
    }
}

pub fn token(credentials: &Credentials, user: &str, port: u16, now: SystemTime) -> String {
    let region: Region = REGION.parse().unwrap();
    let request = TokenRequest { host: HOST, port, user, region: &region };
    sign(&request, credentials, now).unwrap().expose().to_owned()
}

/// A client whose connection runs in its own task.
pub struct Client {
    pub client: tokio_postgres::Client,
    pub connection: tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>,
}

pub async fn connect(
    address: SocketAddr,
    ca_pem: &str,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(user)
        .password(password)
        .dbname("postgres")
        .ssl_mode(tokio_postgres::config::SslMode::Require);
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = config.connect_raw(stream, Tls::trusting(ca_pem)).await?;
    Ok(Client { client, connection: tokio::spawn(connection) })
}

pub async fn connect_plain(
    address: SocketAddr,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.user(user).password(password).dbname("postgres");
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = config.connect_raw(stream, tokio_postgres::NoTls).await?;
    Ok(Client { client, connection: tokio::spawn(connection) })
}

/// SQLSTATE and message of the server's error.
pub fn refusal(outcome: Result<Client, tokio_postgres::Error>) -> (String, String) {
    let Err(error) = outcome else { panic!("the login succeeded") };
    let error = error.as_db_error().unwrap_or_else(|| panic!("not an error of the server: {error:?}"));
    assert_eq!(error.severity(), "FATAL");
    (error.code().code().to_owned(), error.message().to_owned())
}

/// TLS that checks the chain and the name.
pub struct Tls(TlsConnector);

impl Tls {
    fn trusting(ca_pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(TlsConnector::from(Arc::new(config)))
    }
}

impl TlsConnect<TcpStream> for Tls {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        // The name is verified as with verify-full, although the address is local.
        let name = ServerName::try_from(HOST).unwrap();
        Box::pin(async move { self.0.connect(name, stream).await.map(Encrypted) })
    }
}

/// An encrypted stream.
pub struct Encrypted(tokio_rustls::client::TlsStream<TcpStream>);

impl tokio_postgres::tls::TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
