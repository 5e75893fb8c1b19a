//! Listening sockets, TCP and UNIX. Owns binding, file modes and accepting; independent of protocols.

use super::address::{Endpoint, unix_socket_path};
use super::socket::unix_address;
use super::tcp_options::{TcpOptions, apply_listener_options, set_buffers};
use crate::worker::reactor::{self, Source};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;

/// A bound socket that is not watched yet. Bound before the workers start, so that a busy port prevents the start.
pub struct BoundListener {
    socket: socket2::Socket,
    /// As set on the socket; `None` for UNIX sockets.
    options: Option<TcpOptions>,
    /// True if the file of a UNIX socket is removed with it.
    is_file_ours: bool,
    /// Its address, with the actual port if 0 was requested.
    pub endpoint: Endpoint,
}

impl BoundListener {
    /// A TCP socket that listens already.
    ///
    /// # Errors
    /// Its address or an option is refused by the kernel.
    pub fn from_tcp(listener: std::net::TcpListener, options: TcpOptions) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let endpoint = Endpoint::Tcp(listener.local_addr()?);
        let socket = socket2::Socket::from(listener);
        apply_listener_options(&socket, options)?;
        Ok(Self { socket, options: Some(options), endpoint, is_file_ours: false })
    }

    /// A UNIX socket that listens already; its file belongs to another process.
    ///
    /// # Errors
    /// Its address is refused by the kernel.
    pub fn from_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
        let socket = socket2::Socket::from(listener);
        Ok(Self { socket, options: None, endpoint: Endpoint::Unix(path), is_file_ours: false })
    }

    /// The socket, for use outside a worker. The file of a UNIX socket is not removed.
    pub fn into_std(self) -> std::net::TcpListener {
        self.socket.into()
    }
}

/// Whether other processes may listen on the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortUse {
    /// Only this process.
    Exclusive,
    /// Others that share it, too (SO_REUSEPORT): the kernel distributes connections.
    Shared,
}

impl PortUse {
    /// That of `so_reuseport`.
    pub fn of(is_shared: bool) -> Self {
        if is_shared { Self::Shared } else { Self::Exclusive }
    }
}

/// Binding failed, because of the configuration or the host.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct BindError {
    address: String,
    /// Why not.
    pub reason: io::Error,
}

fn bind_error(address: impl Into<String>) -> impl FnOnce(io::Error) -> BindError {
    let address = address.into();
    move |error| BindError { address, reason: error }
}

/// Binds all TCP addresses of a `listen_addr` list; `*` means all interfaces. Options are set before listening: a
/// connection inherits those that its listener has when the kernel accepts it.
///
/// # Errors
/// A name cannot be resolved, or an address is in use.
pub fn bind_tcp(
    hosts: &[String],
    port: u16,
    backlog: u32,
    options: TcpOptions,
    port_use: PortUse,
) -> Result<Vec<BoundListener>, BindError> {
    let bind_one = |addr| bind_one(addr, backlog, options, port_use);
    let mut bound = Vec::new();
    for host in hosts {
        let address = format!("{host}:{port}");
        let resolved: Vec<SocketAddr> = if host == "*" {
            let any6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
            let any4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port));
            match bind_one(any6) {
                // Without V6ONLY the socket accepts both families.
                Ok(socket) => {
                    bound.push(socket);
                    continue;
                }
                Err(_) => vec![any4],
            }
        } else {
            (host.as_str(), port).to_socket_addrs().map_err(bind_error(&*address))?.collect()
        };
        for addr in resolved {
            bound.push(bind_one(addr).map_err(bind_error(addr.to_string()))?);
        }
    }
    Ok(bound)
}

fn bind_one(
    addr: SocketAddr,
    backlog: u32,
    options: TcpOptions,
    port_use: PortUse,
) -> io::Result<BoundListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if port_use == PortUse::Shared {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.bind(&addr.into())?;
    apply_listener_options(&socket, options)?;
    socket.listen(backlog.min(i32::MAX as u32) as i32)?;
    let local = socket.local_addr()?.as_socket().unwrap_or(addr);
    Ok(BoundListener { socket, options: Some(options), endpoint: Endpoint::Tcp(local), is_file_ours: false })
}

/// Who may connect to a UNIX socket.
#[derive(Clone, Copy)]
pub struct UnixAccess {
    /// Permissions of the file.
    pub mode: u32,
    /// Number of the group that owns the file; `None` for that of the process.
    pub group: Option<u32>,
    /// Whether the port of this name is shared by TCP sockets; a UNIX socket cannot be shared.
    pub port_use: PortUse,
}

/// Binds the UNIX socket at libpq's path in `dir`; a stale file of a dead process is replaced.
///
/// # Errors
/// Another process listens there, or the directory is not writable.
pub fn bind_unix(dir: &str, port: u16, access: UnixAccess, backlog: u32) -> Result<BoundListener, BindError> {
    let path = unix_socket_path(dir, port);
    let fail = || bind_error(path.display().to_string());
    let addr = unix_address(&path).map_err(fail())?;
    let fresh =
        || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking().cloexec(), None);
    let socket = fresh().map_err(fail())?;
    let is_file = !dir.starts_with('@');
    if is_file && path.exists() {
        if fresh().and_then(|probe| probe.connect(&addr)).is_ok() {
            return Err(fail()(io::Error::other(match access.port_use {
                PortUse::Exclusive => "another process is listening there",
                PortUse::Shared => {
                    "another process is listening there; with so_reuseport each process needs its own \
                     unix_socket_dir"
                }
            })));
        }
        std::fs::remove_file(&path).map_err(fail())?;
    }
    socket.bind(&addr).map_err(fail())?;
    if is_file {
        if access.group.is_some() {
            std::os::unix::fs::chown(&path, None, access.group).map_err(fail())?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(access.mode)).map_err(fail())?;
    }
    socket.listen(backlog.min(i32::MAX as u32) as i32).map_err(fail())?;
    Ok(BoundListener { socket, options: None, endpoint: Endpoint::Unix(path), is_file_ours: is_file })
}

/// A listening socket of this worker. The file of a UNIX socket is removed when it is dropped.
pub struct Listener {
    socket: socket2::Socket,
    source: Rc<Source>,
    endpoint: Endpoint,
    /// As last set on the socket; `None` for UNIX sockets.
    options: Cell<Option<TcpOptions>>,
    is_file_ours: bool,
}

impl Listener {
    /// Starts watching a bound socket.
    ///
    /// # Errors
    /// The reactor refuses it.
    pub fn new(bound: BoundListener) -> io::Result<Self> {
        let source = reactor::watch(&bound.socket)?;
        let options = Cell::new(bound.options);
        let (socket, endpoint, is_file_ours) = (bound.socket, bound.endpoint, bound.is_file_ours);
        Ok(Self { socket, source, endpoint, options, is_file_ours })
    }

    /// Waits for the next connection, which belongs to no worker yet: any worker can turn it into a
    /// [`super::Socket`]. Cancel safe.
    ///
    /// # Errors
    /// As accept(2). Only a lack of files or memory justifies a pause.
    pub async fn accept(&self, options: TcpOptions) -> io::Result<(OwnedFd, Endpoint)> {
        // RELOAD may have changed the options.
        if self.options.get().is_some_and(|set| set != options) {
            apply_listener_options(&self.socket, options)?;
            self.options.set(Some(options));
        }
        poll_fn(|_| {
            self.source.set_waker();
            if !self.source.is_readable() {
                return Poll::Pending;
            }
            match self.accept_queued() {
                Ok(Some(accepted)) => Poll::Ready(Ok(accepted)),
                Ok(None) => {
                    self.source.refused_read();
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }

    /// The next connection that the kernel has queued already, if any.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn accept_queued(&self) -> io::Result<Option<(OwnedFd, Endpoint)>> {
        loop {
            match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, addr)) => {
                    if let Some(options) = self.options.get() {
                        // Its system's sizes are as good.
                        let _ = set_buffers(&socket2::SockRef::from(&socket), options);
                    }
                    let remote = addr.and_then(|addr| SocketAddr::try_from(addr).ok());
                    let remote = remote.map_or_else(|| self.endpoint.clone(), Endpoint::Tcp);
                    return Ok(Some((socket, remote)));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Its address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        reactor::unwatch(&self.socket, &self.source);
        if let Endpoint::Unix(path) = &self.endpoint
            && self.is_file_ours
            && Path::exists(path)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::reactor::EngineKind;
    use crate::worker::run;
    use std::net::TcpStream;
    use std::time::Duration;

    const OPTIONS: TcpOptions = TcpOptions {
        keepalive: true,
        keep_idle_secs: 77,
        keep_interval_secs: 0,
        keep_count: 0,
        user_timeout_ms: 7000,
        defer_accept_secs: 0,
        buffer_bytes: 0,
    };

    fn bind(options: TcpOptions) -> BoundListener {
        bind_tcp(&["127.0.0.1".to_owned()], 0, 16, options, PortUse::Exclusive).unwrap().remove(0)
    }

    fn connect(bound: &BoundListener) -> TcpStream {
        TcpStream::connect(("127.0.0.1", bound.endpoint.port())).unwrap()
    }

    #[test]
    fn connections_before_the_first_accept_have_all_options() {
        let bound = bind(OPTIONS);
        let _early = connect(&bound);
        let (accepted, _) = bound.into_std().accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn buffers_have_the_configured_size_until_that_is_switched_off() {
        run(EngineKind::Epoll, async {
            let bound = bind(OPTIONS);
            let port = bound.endpoint.port();
            let listener = Listener::new(bound).unwrap();
            let sizes = async |buffer_bytes| {
                let options = TcpOptions { buffer_bytes, ..OPTIONS };
                let accepting = listener.accept(options);
                assert!(crate::worker::timers::timeout(Duration::from_millis(1), accepting).await.is_none());
                let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (accepted, _) = listener.accept(options).await.unwrap();
                let accepted = socket2::SockRef::from(&accepted);
                (accepted.send_buffer_size().unwrap(), accepted.recv_buffer_size().unwrap())
            };
            let system = sizes(0).await;
            // The kernel doubles them for its own overhead.
            assert_eq!(sizes(20_000).await, (40_000, 40_000));
            assert_eq!(sizes(0).await, system);
        })
        .unwrap();
    }

    #[test]
    fn options_that_are_switched_off_are_reset() {
        run(EngineKind::Epoll, async {
            let bound = bind(OPTIONS);
            let port = bound.endpoint.port();
            let listener = Listener::new(bound).unwrap();
            let off = TcpOptions { keepalive: false, user_timeout_ms: 0, ..OPTIONS };
            let accepting = listener.accept(off);
            assert!(crate::worker::timers::timeout(Duration::from_millis(1), accepting).await.is_none());
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (accepted, _) = listener.accept(off).await.unwrap();
            let accepted = socket2::SockRef::from(&accepted);
            assert!(accepted.tcp_nodelay().unwrap() && !accepted.keepalive().unwrap());
            assert_eq!(accepted.tcp_user_timeout().unwrap(), None);
        })
        .unwrap();
    }
}
