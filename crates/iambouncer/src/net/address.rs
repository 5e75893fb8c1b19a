//! Endpoints: addresses of sockets in logs and on the console. Owns no socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The path of a UNIX socket in a directory, as libpq expects it.
pub fn unix_socket_path(directory: impl fmt::Display, port: u16) -> PathBuf {
    PathBuf::from(format!("{directory}/.s.PGSQL.{port}"))
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// UNIX socket: the path of the listening side. A leading `@` denotes the abstract namespace.
    Unix(PathBuf),
}

impl Endpoint {
    /// The address in the console's `addr` column.
    pub fn host_text(&self) -> String {
        match self {
            Self::Tcp(addr) => addr.ip().to_string(),
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// The port in the console's `port` column: for UNIX sockets that in the path, or 0.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(addr) => addr.port(),
            Self::Unix(path) => path
                .extension()
                .and_then(|port| port.to_str())
                .and_then(|port| port.parse().ok())
                .unwrap_or(0),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
