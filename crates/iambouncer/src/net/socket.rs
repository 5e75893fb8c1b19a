//! A connected socket without TLS. Owns the difference between the two I/O engines; independent of TLS and messages.

use super::Inbound;
use super::address::Endpoint;
use super::peer_credentials::PeerCredentials;
use super::tcp_options::{TcpOptions, apply_tcp_options};
use crate::files::PermittedUse;
use crate::worker::reactor::{self, SocketBackend, Source, flow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll, ready};

/// A connected, non-blocking stream socket of this worker.
pub struct Socket(SocketBackend);

impl Socket {
    /// Takes ownership of a connected, non-blocking socket.
    ///
    /// # Errors
    /// The worker rejects it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(reactor::attach(fd)?))
    }

    /// The same for a client that has not logged in. With either engine it is watched for readiness only: a ring would
    /// receive what thousands of clients send at once before anything of the sessions.
    ///
    /// # Errors
    /// The worker rejects it.
    pub fn of_login(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(reactor::attach_login(fd)?))
    }

    /// The client has logged in: from now on, the worker's engine is used. All sent bytes must have been passed to the
    /// kernel.
    pub(super) fn use_engine(&mut self) {
        let SocketBackend::Login(login) = &self.0 else { return };
        reactor::stop_watching(&*login.channel);
        reactor::forget(&login.source);
        self.0 = SocketBackend::Ring(login.channel.clone());
    }

    /// Connects over TCP. If cancelled, the attempt is abandoned.
    ///
    /// # Errors
    /// As connect(2).
    pub async fn connect_tcp(addr: SocketAddr, options: TcpOptions) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(addr),
            socket2::Type::STREAM.nonblocking().cloexec(),
            Some(socket2::Protocol::TCP),
        )?;
        leave_reserve(&socket)?;
        apply_tcp_options(&socket, options)?;
        Self::connect(socket, &addr.into()).await
    }

    /// Connects to a UNIX socket; a leading `@` denotes the abstract namespace.
    ///
    /// # Errors
    /// As connect(2).
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking().cloexec(), None)?;
        leave_reserve(&socket)?;
        Self::connect(socket, &unix_address(path)?).await
    }

    async fn connect(socket: socket2::Socket, addr: &socket2::SockAddr) -> io::Result<Self> {
        match socket.connect(addr) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
                reactor::connected(&socket).await?;
                rustix::net::sockopt::socket_error(&socket)??;
            }
            Err(error) => return Err(error),
        }
        Self::new(socket.into())
    }

    /// Receives once. `Ready(Ok(0))` is the end of the stream. `into` is given a block only when there are bytes. The
    /// caller must have made room if its block is full.
    #[inline]
    pub fn poll_recv(&mut self, _cx: &mut Context<'_>, into: &mut Inbound) -> Poll<io::Result<usize>> {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.poll_recv(into),
            SocketBackend::Ready(fd, source) => receive(fd.as_fd(), source, into),
            SocketBackend::Login(login) => receive(login.channel.as_fd(), &login.source, into),
        }
    }

    /// Data flows fast: fewer wake-ups, each for more of it. The flow ends by itself.
    pub fn begin_flow(&self) {
        self.0.begin_flow();
    }

    /// The next bytes are expected to be few, and are reported at once.
    #[inline]
    pub fn end_flow(&self) {
        if self.0.has_flow() {
            self.0.end_flow();
        }
    }

    /// Sends a few bytes before the socket is closed, if the kernel accepts them at once.
    pub(super) fn send_last(&mut self, bytes: &[u8]) {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.send_last(bytes),
            SocketBackend::Ready(..) | SocketBackend::Login(..) => {
                let _ = self.poll_send_directly(bytes, &[]);
            }
        }
    }

    /// Accepts bytes of `head`, then of `body`, for sending; returns how many.
    pub fn poll_send(&mut self, _cx: &mut Context<'_>, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.poll_send(head, body),
            SocketBackend::Ready(..) | SocketBackend::Login(..) => self.poll_send_directly(head, body),
        }
    }

    /// Like [`Socket::poll_send`] for `head` and the first `ready` bytes of `body`, which are consumed. A block that
    /// is sent as a whole is not copied.
    #[inline]
    pub fn poll_send_front(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        body: &mut Inbound,
        ready: usize,
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            SocketBackend::Ring(channel) if head.is_empty() && ready == body.len() => {
                channel.poll_send_block(body)
            }
            _ => {
                let sent = ready!(self.poll_send(cx, head, &body.bytes()[..ready]))?;
                body.consume(sent.saturating_sub(head.len()));
                Poll::Ready(Ok(sent))
            }
        }
    }

    /// `Ready(Ok)` once the kernel has all accepted bytes.
    pub fn poll_settled(&self) -> Poll<io::Result<()>> {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.poll_room(),
            SocketBackend::Ready(..) | SocketBackend::Login(..) => Poll::Ready(Ok(())),
        }
    }

    /// Sends in one call as much as the kernel accepts.
    fn poll_send_directly(&self, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        let Some((fd, source)) = self.0.readiness() else { return Poll::Pending };
        source.set_waker();
        if !source.is_writable() {
            return Poll::Pending;
        }
        if source.is_room_wanted() {
            reactor::stop_wanting_write(fd, source)?;
        }
        loop {
            let sent = match (head.is_empty(), body.is_empty()) {
                (true, _) => send(fd, body, SendFlags::NOSIGNAL),
                (_, true) => send(fd, head, SendFlags::NOSIGNAL),
                _ => sendmsg(
                    fd,
                    &[IoSlice::new(head), IoSlice::new(body)],
                    &mut SendAncillaryBuffer::default(),
                    SendFlags::NOSIGNAL,
                ),
            };
            match sent {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    reactor::want_write(fd, source)?;
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// True if the kernel has reported bytes, or the end, that were not read. An idle server must not send anything.
    #[inline]
    pub fn has_pending_input(&self) -> bool {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.has_pending_input(),
            SocketBackend::Ready(_, source) => source.is_readable(),
            SocketBackend::Login(login) => login.source.is_readable(),
        }
    }

    /// Starts watching for input, although no task is reading yet.
    ///
    /// # Errors
    /// The worker's engine rejects it.
    pub fn watch_input(&self) -> io::Result<()> {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.receive_again(),
            SocketBackend::Ready(..) | SocketBackend::Login(..) => Ok(()),
        }
    }

    /// Closes the sending direction: the peer reads the end of the stream after all sent bytes.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn half_close(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, rustix::net::Shutdown::Write)?)
    }

    /// Clears the waker: no task is woken for this socket any more.
    pub fn clear_waker(&self) {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.clear_waker(),
            SocketBackend::Ready(_, source) => source.clear_waker(),
            SocketBackend::Login(login) => login.source.clear_waker(),
        }
    }

    /// The file descriptor for another worker, once nothing is in transit. The socket must then be dropped.
    ///
    /// # Errors
    /// Bytes have arrived, or the connection was closed.
    pub(super) async fn detach(&mut self) -> io::Result<OwnedFd> {
        self.become_quiet().await?;
        let is_quiet = match self.0.readiness() {
            None => !self.has_pending_input(),
            // A socket that was not read until EAGAIN counts as readable, whether or not there are bytes.
            Some((fd, source)) => !source.is_readable() || has_nothing(fd),
        };
        if !is_quiet {
            return Err(io::Error::other("the connection is in use"));
        }
        self.file_to_move()
    }

    /// The file descriptor for another worker, and the bytes that were received and not read. The socket must then be
    /// dropped. Waits until the kernel has all sent bytes. Not cancel safe.
    ///
    /// # Errors
    /// The connection has failed, or no file descriptor is available; the socket can still be used.
    pub(super) async fn detach_with_input(&mut self) -> io::Result<(OwnedFd, Vec<u8>)> {
        self.become_quiet().await?;
        let file = self.file_to_move();
        match &self.0 {
            SocketBackend::Ring(channel) if file.is_err() => channel.stay()?,
            SocketBackend::Ring(channel) => return Ok((file?, channel.take_unread()?)),
            SocketBackend::Ready(..) | SocketBackend::Login(..) => {}
        }
        Ok((file?, Vec::new()))
    }

    /// Waits until the kernel neither receives nor sends for this socket.
    async fn become_quiet(&self) -> io::Result<()> {
        self.end_flow();
        match &self.0 {
            SocketBackend::Ring(channel) => poll_fn(|_| channel.poll_quiet()).await,
            SocketBackend::Ready(..) | SocketBackend::Login(..) => Ok(()),
        }
    }

    fn file_to_move(&self) -> io::Result<OwnedFd> {
        let file = self.as_fd().try_clone_to_owned()?;
        if let Some((fd, _)) = self.0.readiness() {
            // The clone keeps the socket open, so closing this descriptor would not remove it from the epoll set.
            reactor::stop_watching(fd);
        }
        Ok(file)
    }

    /// True if the peer has closed the connection, or its sending direction. Costs a system call.
    pub fn has_hung_up(&self) -> bool {
        let end = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds = [PollFd::new(self, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(end)
    }

    /// Address of the peer.
    pub fn peer(&self) -> Option<Endpoint> {
        endpoint(socket2::SockRef::from(self).peer_addr().ok()?)
    }

    /// The process that opened a UNIX socket to the pooler; `None` if the kernel does not know it.
    pub fn unix_peer(&self) -> Option<PeerCredentials> {
        PeerCredentials::of(self)
    }

    /// Local address.
    pub fn local(&self) -> Option<Endpoint> {
        endpoint(socket2::SockRef::from(self).local_addr().ok()?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.end_flow();
        match &self.0 {
            SocketBackend::Ring(channel) => channel.close(),
            SocketBackend::Ready(_, source) => reactor::forget(source),
            SocketBackend::Login(login) => {
                reactor::forget(&login.source);
                login.channel.close();
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            SocketBackend::Ring(channel) => channel.as_fd(),
            SocketBackend::Login(login) => login.channel.as_fd(),
            SocketBackend::Ready(fd, _) => fd.as_fd(),
        }
    }
}

/// The last file descriptors are not for servers.
fn leave_reserve(socket: &socket2::Socket) -> io::Result<()> {
    if PermittedUse::of(socket) == PermittedUse::Any { Ok(()) } else { Err(Errno::MFILE.into()) }
}

/// True if there are neither bytes nor the end of the stream.
fn has_nothing(fd: BorrowedFd<'_>) -> bool {
    matches!(recv(fd, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
}

/// Receives in one call, if the source is readable.
fn receive(fd: BorrowedFd<'_>, source: &Source, into: &mut Inbound) -> Poll<io::Result<usize>> {
    source.set_waker();
    if !source.is_readable() {
        return Poll::Pending;
    }
    let has_flow = source.has_flow();
    if has_flow {
        into.want_large_block();
    }
    loop {
        let spare = into.spare();
        let room = spare.len();
        if room == 0 {
            return Poll::Ready(Err(io::Error::other("receive buffer is full")));
        }
        match recv(fd, spare, RecvFlags::empty()) {
            Ok((_, n)) => {
                if n < room {
                    source.drained();
                }
                if has_flow {
                    flow::received(fd, source, n, room);
                }
                into.filled(n);
                return Poll::Ready(Ok(n));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                source.refused_read();
                into.filled(0);
                if has_flow {
                    flow::end(fd, source);
                }
                return Poll::Pending;
            }
            Err(error) => {
                into.filled(0);
                return Poll::Ready(Err(error.into()));
            }
        }
    }
}

/// The socket address of a UNIX socket path; `@name` denotes an abstract one.
///
/// # Errors
/// The path is too long.
pub fn unix_address(path: &Path) -> io::Result<socket2::SockAddr> {
    let text = path.to_string_lossy();
    match text.strip_prefix('@') {
        Some(name) => socket2::SockAddr::unix(format!("\0{name}")),
        None => socket2::SockAddr::unix(path),
    }
}

fn endpoint(addr: socket2::SockAddr) -> Option<Endpoint> {
    match addr.as_socket() {
        Some(addr) => Some(Endpoint::Tcp(addr)),
        None => Some(Endpoint::Unix(addr.as_pathname().map(Path::to_path_buf).unwrap_or_default())),
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
