//! The door: a simulated RDS endpoint in front of a PostgreSQL that trusts it.
//!
//! Owns: TLS, the password request, the verification of the token, and the exact texts of RDS's refusals.
//! Never: decides about users that are not on the IAM list; their logins are forwarded to PostgreSQL
//! unchanged.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::Simulator;
use crate::log::LoginOutcome;
use crate::protocol::{
    FirstPacket, REQUEST_CLEARTEXT, StartupPacket, fatal, read_first_packet, read_password,
};
use crate::relay::relay;
use crate::tls::Certificates;
use crate::verify::TokenTarget;

/// Maximum number of connections served at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 10_000;
/// Time limit of a login; PostgreSQL's default `authentication_timeout`.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// SSLRequest and GSSENCRequest may each be sent once before the startup message.
const MAX_FIRST_PACKETS: usize = 3;

/// Options of a [`IamFrontend`].
#[derive(Clone, Debug)]
pub struct IamFrontendOptions {
    /// The address to listen on; port 0 selects a free port.
    pub listen: SocketAddr,
    /// The target that tokens must be made for; port 0 means the port listened on.
    pub target: TokenTarget,
    /// The users that log in with tokens: the members of `rds_iam`.
    pub iam_users: Vec<String>,
    /// The PostgreSQL behind it, which must trust the IAM users.
    pub backend: Backend,
    /// Refuse all users without TLS, as `rds.force_ssl` does; IAM users are always refused.
    pub force_ssl: bool,
    /// The certificates to present.
    pub certificates: Certificates,
}

/// The address of the PostgreSQL behind a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `host:port`.
    Tcp(String),
    /// The path of the socket itself.
    Unix(PathBuf),
}

/// A listening door. Dropping it closes it and all its connections.
#[derive(Debug)]
pub struct IamFrontend {
    address: SocketAddr,
    target: TokenTarget,
    task: JoinHandle<()>,
}

impl Backend {
    /// Parses `HOST:PORT`, or the directory of a Unix socket with an optional `:PORT` (default 5432).
    pub fn parse(text: &str) -> Self {
        if !text.starts_with('/') {
            return Self::Tcp(text.to_owned());
        }
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let (dir, port) = text.rsplit_once(':').filter(|(_, port)| is_port(port)).unwrap_or((text, "5432"));
        Self::Unix(PathBuf::from(dir).join(format!(".s.PGSQL.{port}")))
    }

    async fn connect(&self) -> io::Result<BackendStream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }
}

impl From<&crate::postgres::Postgres> for Backend {
    fn from(server: &crate::postgres::Postgres) -> Self {
        Self::Unix(server.socket_dir().join(format!(".s.PGSQL.{}", server.port())))
    }
}

trait SimStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> SimStream for T {}
type BackendStream = Box<dyn SimStream>;

/// State shared by all connections of a door.
struct DoorState {
    simulator: Simulator,
    options: IamFrontendOptions,
    acceptor: TlsAcceptor,
}

impl IamFrontend {
    /// Starts listening.
    pub async fn open(simulator: &Simulator, mut options: IamFrontendOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        if options.target.port == 0 {
            options.target.port = address.port();
        }
        let target = options.target.clone();
        let acceptor = TlsAcceptor::from(options.certificates.server_config());
        let state = Arc::new(DoorState { simulator: simulator.clone(), options, acceptor });
        let task = tokio::spawn(accept_all(listener, state));
        Ok(Self { address, target, task })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The target that tokens must be made for.
    pub fn target(&self) -> &TokenTarget {
        &self.target
    }
}

impl Drop for IamFrontend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, state: Arc<DoorState>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Owned by this task, so that all connections close with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let (stream, peer) = tokio::select! {
            Some(_finished) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            if let Err(error) = state.serve(stream, peer).await {
                tracing::debug!(%peer, %error, "connection closed");
            }
            drop(permit);
        });
    }
}

/// Both connections after a successful login, ready to be relayed.
type BackendLogin<S> = Option<(S, BackendStream)>;

impl DoorState {
    async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        if self.simulator.faults().take_drop() {
            return Ok(());
        }
        let mut first_byte = [0_u8];
        if stream.peek(&mut first_byte).await? == 1 && first_byte[0] == TLS_HANDSHAKE {
            return self.serve_tls(stream, peer).await;
        }
        for _ in 0..MAX_FIRST_PACKETS {
            match with_timeout(read_first_packet(&mut stream)).await? {
                FirstPacket::Ssl => {
                    stream.write_all(b"S").await?;
                    return self.serve_tls(stream, peer).await;
                }
                FirstPacket::Gss => stream.write_all(b"N").await?,
                FirstPacket::Cancel(packet) => return self.forward_cancel(&packet).await,
                FirstPacket::StartupPacket(startup) => {
                    return match with_timeout(self.log_in_plain(stream, startup, peer)).await? {
                        Some((client, backend)) => relay(client, backend, self.simulator.faults()).await,
                        None => Ok(()),
                    };
                }
            }
        }
        Ok(())
    }

    async fn serve_tls(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let mut tls = with_timeout(self.acceptor.accept(stream)).await?;
        match with_timeout(read_first_packet(&mut tls)).await? {
            FirstPacket::Cancel(packet) => self.forward_cancel(&packet).await,
            FirstPacket::StartupPacket(startup) => {
                match with_timeout(self.log_in_tls(tls, startup, peer)).await? {
                    Some((client, backend)) => relay(client, backend, self.simulator.faults()).await,
                    None => Ok(()),
                }
            }
            FirstPacket::Ssl | FirstPacket::Gss => Ok(()),
        }
    }

    /// Without TLS, an IAM user matches the reject line of RDS's pg_hba.conf, and with `force_ssl` no user
    /// matches any.
    async fn log_in_plain(
        &self,
        mut client: TcpStream,
        startup: StartupPacket,
        peer: SocketAddr,
    ) -> io::Result<BackendLogin<TcpStream>> {
        let connection = format!(
            "for host \"{}\", user \"{}\", database \"{}\", no encryption",
            peer.ip(),
            startup.user,
            startup.database
        );
        let refusal = if self.is_iam_user(&startup.user) {
            format!("pg_hba.conf rejects connection {connection}")
        } else if self.options.force_ssl {
            format!("no pg_hba.conf entry {connection}")
        } else {
            return self.forward(client, startup).await;
        };
        self.simulator.record(&startup.user, &startup.database, LoginOutcome::WithoutTls);
        client.write_all(&fatal("28000", &refusal)).await?;
        client.shutdown().await?;
        Ok(None)
    }

    async fn log_in_tls<S: SimStream>(
        &self,
        mut client: S,
        startup: StartupPacket,
        _peer: SocketAddr,
    ) -> io::Result<BackendLogin<S>> {
        if !self.is_iam_user(&startup.user) {
            return self.forward(client, startup).await;
        }
        client.write_all(&REQUEST_CLEARTEXT).await?;
        client.flush().await?;
        let password = match read_password(&mut client).await {
            Ok(password) => password,
            Err(error) => {
                self.simulator.record(&startup.user, &startup.database, LoginOutcome::NoPassword);
                return Err(error);
            }
        };
        let guard = self.simulator.begin_login();
        tokio::time::sleep(self.simulator.faults().settings().login_delay).await;
        if self.simulator.faults().take_time_out() {
            client.write_all(&fatal("57014", "canceling authentication due to timeout")).await?;
            client.shutdown().await?;
            return Ok(None);
        }
        let target = &self.options.target;
        if self.simulator.check_login(&password, &startup.user, &startup.database, target).is_err() {
            let text = format!("PAM authentication failed for user \"{}\"", startup.user);
            client.write_all(&fatal("28000", &text)).await?;
            client.shutdown().await?;
            return Ok(None);
        }
        drop(guard);
        self.connect_backend(client, startup).await
    }

    async fn forward<S: SimStream>(&self, client: S, startup: StartupPacket) -> io::Result<BackendLogin<S>> {
        self.simulator.record(&startup.user, &startup.database, LoginOutcome::PassedOn);
        self.connect_backend(client, startup).await
    }

    async fn connect_backend<S: SimStream>(
        &self,
        mut client: S,
        startup: StartupPacket,
    ) -> io::Result<BackendLogin<S>> {
        match self.options.backend.connect().await {
            Ok(mut backend) => {
                backend.write_all(&startup.packet).await?;
                Ok(Some((client, backend)))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot connect to PostgreSQL");
                self.simulator.record(&startup.user, &startup.database, LoginOutcome::NoBackend);
                client.write_all(&fatal("57P03", "the database system is starting up")).await?;
                client.shutdown().await?;
                Ok(None)
            }
        }
    }

    /// PostgreSQL answers a cancel request by closing the connection; the door closes after it did.
    async fn forward_cancel(&self, packet: &[u8]) -> io::Result<()> {
        let mut backend = self.options.backend.connect().await?;
        backend.write_all(packet).await?;
        let mut nothing = [0_u8];
        with_timeout(backend.read(&mut nothing)).await.map(drop)
    }

    fn is_iam_user(&self, user: &str) -> bool {
        self.options.iam_users.iter().any(|known| known == user)
    }
}

async fn with_timeout<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(LOGIN_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "login took too long")))
}
