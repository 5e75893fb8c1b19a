//! From a host name to an open, possibly encrypted connection. Owns the order in which addresses are tried, the
//! SSLRequest and the six TLS modes; never handles users or credentials.

use super::LoginError;
use super::error::TlsFailureKind;
use super::progress::Progress;
use super::target::{Credential, LoginTarget};
use crate::config::{CONSOLE_DATABASE, Host, TlsMode, is_local};
use crate::context::Context;
use crate::host_names::{HostAddress, NameRecord};
use crate::net::tls::TlsStream;
use crate::net::trust::fault_in;
use crate::net::verified::ServerTls;
use crate::net::{Endpoint, Inbound, Socket, Stream, unix_socket_path};
use crate::process::Process;
use crate::worker::timers;
use rds_iam::TokenKey;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use wire::limits::MAX_WHOLE_BYTES;
use wire::{backend, scan, tag};

/// Timeout for one of several addresses.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(4);

/// How a server was reached, so that a cancel request goes to the same place.
#[derive(Debug, Clone)]
pub struct Route {
    /// Address or path.
    pub endpoint: Endpoint,
    /// Name in its certificate, and how it is verified; `None` without TLS.
    pub tls: Option<(ServerName<'static>, ServerTls)>,
    /// Its address among those of a host name; `None` if no name was resolved.
    pub address: Option<Arc<HostAddress>>,
}

impl Route {
    /// True if the host name no longer resolves to this address.
    pub fn is_outdated(&self) -> bool {
        self.address.as_ref().is_some_and(|address| address.is_old())
    }
}

/// Whether this attempt requests TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// TLS is not requested.
    None,
    /// TLS is requested; an unencrypted connection is used if the server does not support it.
    Preferred,
    /// TLS is requested and required.
    Required,
}

impl Encryption {
    /// The encryption of the first attempt in `mode`; `allow` makes a second attempt with TLS.
    pub fn first(mode: TlsMode) -> Self {
        match mode {
            TlsMode::Disable | TlsMode::Allow => Self::None,
            TlsMode::Prefer => Self::Preferred,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => Self::Required,
        }
    }
}

/// The target of a login, resolved once: the name a token is signed for and the address it is sent to come from the
/// same DNS answer.
pub enum ServerAddress {
    /// A UNIX socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its directory, as configured.
        directory: String,
    },
    /// Addresses of a name.
    Tcp {
        /// The name, as configured.
        name: String,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
        /// The DNS answer; `None` if the name is an address.
        found: Option<NameRecord>,
    },
}

impl ServerAddress {
    /// Resolves a target.
    ///
    /// # Errors
    /// The name does not resolve.
    pub async fn find(context: &Context, target: &LoginTarget) -> Result<Self, LoginError> {
        match &target.host {
            Host::Unix(dir) => {
                let directory = dir.display().to_string();
                Ok(Self::Unix { path: unix_socket_path(&directory, target.port), directory })
            }
            Host::Tcp(name) => {
                let is_alias = match &target.credential {
                    Credential::Iam(signing) => signing.follows_aliases(name),
                    Credential::Given { .. } => rds_iam::RdsEndpoint::parse(name).is_none(),
                    _ => false,
                };
                Self::find_tcp(context, name, target.port, is_alias).await
            }
        }
    }

    /// Resolves a name, with `is_alias` also its aliases (CNAMEs).
    ///
    /// # Errors
    /// The name does not resolve.
    pub async fn find_tcp(
        context: &Context,
        name: &str,
        port: u16,
        is_alias: bool,
    ) -> Result<Self, LoginError> {
        if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            let addresses = vec![SocketAddr::new(ip, port)];
            return Ok(Self::Tcp { name: name.to_owned(), addresses, found: None });
        }
        let found = context
            .process
            .host_names
            .look_up(
                &context.process.control,
                context.name_sources(),
                (name, is_alias),
                context.cache_times(),
            )
            .await
            .map_err(|reason| LoginError::Resolve { host: name.to_owned(), reason })?;
        Ok(Self::Tcp { name: name.to_owned(), addresses: found.addresses(port), found: Some(found) })
    }

    /// Name or directory, as configured.
    pub fn name(&self) -> &str {
        match self {
            Self::Unix { directory, .. } => directory,
            Self::Tcp { name, .. } => name,
        }
    }

    /// Addresses of the name.
    pub fn addresses(&self) -> &[SocketAddr] {
        match self {
            Self::Unix { .. } => &[],
            Self::Tcp { addresses, .. } => addresses,
        }
    }

    /// True if a name was looked up.
    pub fn was_resolved(&self) -> bool {
        matches!(self, Self::Tcp { found: Some(_), .. })
    }

    /// The first RDS endpoint in the host's CNAME chain.
    pub fn rds_name(&self) -> Option<&String> {
        match self {
            Self::Unix { .. } => None,
            Self::Tcp { found, .. } => found.as_ref().and_then(NameRecord::rds_name),
        }
    }

    /// The name that the certificate must have where a token is sent: the endpoint's own, if the token is for an
    /// endpoint.
    pub fn tls_name<'a>(&'a self, key: &'a TokenKey) -> &'a str {
        if rds_iam::RdsEndpoint::parse(&key.host).is_some() { &key.host } else { self.name() }
    }
}

/// Opens a connection to `place`, for a login to `database`: only the console may be on the pooler's own listener. The
/// certificate must be for `tls_name`, by default the configured name.
///
/// # Errors
/// Refused connections, TLS failures, the pooler's own listener.
pub async fn open(
    context: &Rc<Context>,
    place: &ServerAddress,
    database: &str,
    encryption: Encryption,
    tls: Option<&ServerTls>,
    tls_name: Option<&str>,
    progress: &Progress,
) -> Result<(Stream, Route), LoginError> {
    let is_console = database == CONSOLE_DATABASE;
    match place {
        ServerAddress::Unix { path, .. } => {
            let endpoint = Endpoint::Unix(path.clone());
            if !is_console && context.process.own_endpoints.contains(&endpoint) {
                return Err(LoginError::OwnListener(endpoint.to_string()));
            }
            let socket =
                Socket::connect_unix(path).await.map_err(|error| connect_error(&endpoint, &error))?;
            progress.connected(endpoint.clone());
            Ok((Stream::Plain(socket), Route { endpoint, tls: None, address: None }))
        }
        ServerAddress::Tcp { name, addresses, found } => {
            let (socket, addr) = open_tcp(context, name, addresses).await?;
            if !is_console {
                refuse_own_listener(context, &socket, addr)?;
            }
            progress.connected(Endpoint::Tcp(addr));
            let address = found.as_ref().map(|found| found.connected(addr.ip()));
            let (stream, route) = secure(socket, addr, tls_name.unwrap_or(name), encryption, tls).await?;
            Ok((stream, Route { address, ..route }))
        }
    }
}

fn connect_error(target: impl ToString, error: &std::io::Error) -> LoginError {
    LoginError::Connect { target: target.to_string(), reason: error.to_string(), kind: error.kind() }
}

fn tls_error(host: &str, addr: SocketAddr, error: &std::io::Error) -> LoginError {
    let target = format!("{host} ({addr})");
    let trouble = TlsFailureKind::of(error);
    match fault_in(error) {
        Some(fault) => {
            let remedy = Some(fault.remedy_for_server(host));
            LoginError::Tls { target, reason: fault.to_string(), trouble, remedy }
        }
        None => LoginError::Tls { target, reason: error.to_string(), trouble, remedy: None },
    }
}

async fn open_tcp(
    context: &Rc<Context>,
    name: &str,
    addresses: &[SocketAddr],
) -> Result<(Socket, SocketAddr), LoginError> {
    let mut last = None;
    // An address that drops packets must not use up the time for all of them; the last one gets the rest.
    let limit = |at: usize| if at + 1 < addresses.len() { ATTEMPT_LIMIT } else { Duration::ZERO };
    for (at, &addr) in addresses.iter().enumerate() {
        let attempt = Socket::connect_tcp(addr, context.tcp_options());
        match timers::timeout(limit(at), attempt).await {
            Some(Ok(socket)) => return Ok((socket, addr)),
            Some(Err(error)) => last = Some(connect_error(format!("{name} ({addr})"), &error)),
            None => {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                last = Some(connect_error(format!("{name} ({addr})"), &error));
            }
        }
    }
    Err(last
        .unwrap_or_else(|| LoginError::Resolve { host: name.to_owned(), reason: "no address".to_owned() }))
}

/// True if a connection to `remote` reaches the pooler's own listener `own`.
pub fn is_own(own: &Endpoint, remote: SocketAddr, local_ip: Option<std::net::IpAddr>) -> bool {
    let Endpoint::Tcp(own) = own else { return false };
    if own.port() != remote.port() {
        return false;
    }
    let (own, remote) = (own.ip(), remote.ip().to_canonical());
    // A wildcard listener accepts every local address of its family, and for IPv6 those of both; a connection to itself
    // has equal ends.
    let is_covered = own.is_unspecified() && (own.is_ipv6() || remote.is_ipv4());
    own.to_canonical() == remote || (is_covered && local_ip.map(|ip| ip.to_canonical()) == Some(remote))
}

/// True if a connection to this address would reach the pooler's own listener.
pub fn is_own_address(process: &Process, remote: SocketAddr) -> bool {
    let local_ip = is_local(remote.ip()).then(|| remote.ip());
    process.own_endpoints.iter().any(|own| is_own(own, remote, local_ip))
}

fn refuse_own_listener(context: &Context, socket: &Socket, addr: SocketAddr) -> Result<(), LoginError> {
    let local_ip = match socket.local() {
        Some(Endpoint::Tcp(local)) => Some(local.ip()),
        _ => None,
    };
    if context.process.own_endpoints.iter().any(|own| is_own(own, addr, local_ip)) {
        return Err(LoginError::OwnListener(addr.to_string()));
    }
    Ok(())
}

async fn secure(
    socket: Socket,
    addr: SocketAddr,
    name: &str,
    encryption: Encryption,
    tls: Option<&ServerTls>,
) -> Result<(Stream, Route), LoginError> {
    let endpoint = Endpoint::Tcp(addr);
    let (Some(config), true) = (tls, encryption != Encryption::None) else {
        if encryption == Encryption::Required {
            return Err(LoginError::TlsOff);
        }
        return Ok((Stream::Plain(socket), Route { endpoint, tls: None, address: None }));
    };
    let mut stream = Stream::Plain(socket);
    match request_tls(&mut stream).await? {
        b'S' => {}
        b'N' if encryption == Encryption::Preferred => {
            return Ok((stream, Route { endpoint, tls: None, address: None }));
        }
        b'N' => return Err(LoginError::NoTls),
        other => return Err(LoginError::BrokenOff(format!("answer {other:#04x} to SSLRequest"))),
    }
    let Stream::Plain(socket) = stream else { return Err(LoginError::NoTls) };
    let tls_name = ServerName::try_from(name.trim_end_matches('.').to_owned())
        .map_err(|error| tls_error(name, addr, &std::io::Error::other(error)))?;
    let tls = TlsStream::connect(socket, config, tls_name.clone())
        .await
        .map_err(|error| tls_error(name, addr, &error))?;
    let route = Route { endpoint, tls: Some((tls_name, config.clone())), address: None };
    Ok((Stream::Tls(Box::new(tls)), route))
}

/// Sends SSLRequest and reads the one-byte answer. Further bytes would be data injected before TLS begins
/// (CVE-2021-23222), so they are an error.
async fn request_tls(stream: &mut Stream) -> Result<u8, LoginError> {
    let mut message = Vec::new();
    wire::encode::ssl_request(&mut message);
    let io_error = |error: std::io::Error| LoginError::BrokenOff(error.to_string());
    stream.send_all(&message).await.map_err(io_error)?;
    let mut inbound = Inbound::default();
    stream.recv(&mut inbound).await.map_err(io_error)?;
    if inbound.bytes().first() == Some(&tag::backend::ERROR_RESPONSE) {
        return Err(error_before_tls(stream, inbound).await);
    }
    match inbound.bytes() {
        [answer] => Ok(*answer),
        [] => Err(LoginError::BrokenOff("connection closed after SSLRequest".to_owned())),
        _ => Err(LoginError::BrokenOff("unencrypted data after the response to SSLRequest".to_owned())),
    }
}

/// Reads an ErrorResponse in place of the answer, as from a server that cannot fork. The server is not authenticated
/// yet, so the message is reported but has no effect.
async fn error_before_tls(stream: &mut Stream, mut inbound: Inbound) -> LoginError {
    let is_complete = |bytes: &[u8]| match bytes.get(1) {
        // A length below 16 MiB begins with a zero byte; the oldest form is plain text up to a zero byte.
        Some(0) => {
            matches!(scan::header(bytes, MAX_WHOLE_BYTES), Ok(Some(frame)) if bytes.len() >= frame.len)
        }
        Some(_) => bytes.contains(&0),
        None => false,
    };
    while !is_complete(inbound.bytes()) && inbound.len() < MAX_WHOLE_BYTES as usize {
        if !matches!(stream.recv_sparing(&mut inbound).await, Ok(1..)) {
            break;
        }
    }
    let bytes = inbound.bytes();
    let words = match bytes.get(1) {
        Some(0) => {
            let fields = scan::header(bytes, MAX_WHOLE_BYTES)
                .ok()
                .flatten()
                .and_then(|frame| backend::error_fields(bytes.get(..frame.len)?).ok())
                .unwrap_or_default();
            format!("{} {} ({})", fields.severity, fields.message, fields.code)
        }
        _ => {
            let text = bytes.get(1..).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).trim().to_owned()
        }
    };
    LoginError::BrokenOff(format!("error in response to SSLRequest: {words}"))
}

/// Opens a second connection along the same route, for a cancel request.
///
/// # Errors
/// As [`open`].
pub async fn reopen(context: &Context, route: &Route) -> Result<Stream, LoginError> {
    match &route.endpoint {
        Endpoint::Unix(path) => Socket::connect_unix(path)
            .await
            .map(Stream::Plain)
            .map_err(|error| connect_error(&route.endpoint, &error)),
        Endpoint::Tcp(addr) => {
            let socket = Socket::connect_tcp(*addr, context.tcp_options())
                .await
                .map_err(|error| connect_error(addr, &error))?;
            let Some((name, config)) = &route.tls else { return Ok(Stream::Plain(socket)) };
            let mut stream = Stream::Plain(socket);
            if request_tls(&mut stream).await? != b'S' {
                return Err(LoginError::NoTls);
            }
            let Stream::Plain(socket) = stream else { return Err(LoginError::NoTls) };
            let tls = TlsStream::connect(socket, config, name.clone())
                .await
                .map_err(|error| tls_error(&name.to_str(), *addr, &error))?;
            Ok(Stream::Tls(Box::new(tls)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_matches_its_own_address() {
        let own = Endpoint::Tcp("0.0.0.0:6432".parse().unwrap());
        let local: SocketAddr = "10.0.0.5:6432".parse().unwrap();
        assert!(is_own(&own, local, Some(local.ip())));
        assert!(!is_own(&own, local, Some("10.0.0.6".parse().unwrap())));
        assert!(!is_own(&own, "10.0.0.5:5432".parse().unwrap(), Some(local.ip())));
        let loopback = Endpoint::Tcp("127.0.0.1:6432".parse().unwrap());
        assert!(is_own(&loopback, "127.0.0.1:6432".parse().unwrap(), None));
        assert!(is_own(&loopback, "[::ffff:127.0.0.1]:6432".parse().unwrap(), None));
        assert!(!is_own(&loopback, "127.0.0.2:6432".parse().unwrap(), None));
    }

    #[test]
    fn a_server_on_another_address_is_not_the_own_listener() {
        let v6: SocketAddr = "[::1]:6432".parse().unwrap();
        let v4: SocketAddr = "127.0.0.1:6432".parse().unwrap();
        let listener = |text: &str| Endpoint::Tcp(text.parse().unwrap());
        assert!(!is_own(&listener("0.0.0.0:6432"), v6, Some(v6.ip())));
        assert!(is_own(&listener("[::]:6432"), v6, Some(v6.ip())));
        assert!(is_own(&listener("[::]:6432"), v4, Some(v4.ip())));
        assert!(!is_own(&listener("10.0.0.5:6432"), v4, Some(v4.ip())));
    }
}
