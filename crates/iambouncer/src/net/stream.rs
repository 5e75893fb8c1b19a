//! A connection to a client or a server, with or without TLS. Owns the choice between the two, and helpers for logins
//! that read one message at a time.

use super::Inbound;
use super::address::Endpoint;
use super::peer_credentials::PeerCredentials;
use super::socket::Socket;
use super::tls::TlsStream;
use crate::worker::buffer::SMALL_BLOCK_BYTES;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use wire::scan::{self, Frame};

/// A connection.
pub enum Stream {
    /// Unencrypted.
    Plain(Socket),
    /// Encrypted.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// The client has logged in; see `Socket::use_engine`.
    pub fn use_engine(&mut self) {
        match self {
            Self::Plain(socket) => socket.use_engine(),
            Self::Tls(tls) => tls.socket_mut().use_engine(),
        }
    }

    /// Receives once; see [`Socket::poll_recv`].
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, into: &mut Inbound) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(cx, into),
            Self::Tls(tls) => tls.poll_recv(cx, into),
        }
    }

    /// Data flows fast; see [`Socket::begin_flow`].
    #[cold]
    pub fn begin_flow(&self) {
        self.socket().begin_flow();
    }

    /// The next bytes are reported at once.
    #[inline]
    pub fn end_flow(&self) {
        self.socket().end_flow();
    }

    /// Accepts bytes of `head`, then of `body`, for sending; returns how many.
    #[inline]
    pub fn poll_send(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send(cx, head, body),
            Self::Tls(tls) => tls.poll_send(cx, head, body),
        }
    }

    /// Like [`Stream::poll_send`] for `head` and the first `ready` bytes of `body`, which are consumed.
    #[inline]
    pub fn poll_send_front(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        body: &mut Inbound,
        ready: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send_front(cx, head, body, ready),
            Self::Tls(tls) => {
                let sent = ready!(tls.poll_send(cx, head, &body.bytes()[..ready]))?;
                body.consume(sent.saturating_sub(head.len()));
                Poll::Ready(Ok(sent))
            }
        }
    }

    /// `Ready(Ok)` if no accepted bytes are held back for lack of room.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// `Ready(Ok)` once the kernel has everything. For a stream of messages use [`Stream::poll_flush`], which does
    /// not wait for bytes that are already being sent.
    pub fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.socket().poll_settled()
    }

    /// Closes the sending direction once the kernel has all accepted bytes.
    pub fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_settled(cx))?;
        Poll::Ready(self.socket().half_close())
    }

    /// Sends all of `data` and waits until the kernel has it. Not cancel safe.
    ///
    /// # Errors
    /// As send(2).
    pub async fn send_all(&mut self, data: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < data.len() {
                match self.poll_send(cx, &data[sent..], &[]) {
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.poll_settled(cx)
        })
        .await
    }

    /// Receives once. Cancel safe.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn recv(&mut self, into: &mut Inbound) -> io::Result<usize> {
        poll_fn(|cx| self.poll_recv(cx, into)).await
    }

    /// Like [`Stream::recv`] for an unauthenticated peer: while it is idle, only as much memory is held as it has
    /// sent. Cancel safe.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn recv_sparing(&mut self, into: &mut Inbound) -> io::Result<usize> {
        poll_fn(|cx| {
            if !into.is_empty() {
                into.make_room(SMALL_BLOCK_BYTES.max(into.len() + 1));
            }
            let polled = self.poll_recv(cx, into);
            if polled.is_pending() {
                into.shrink();
                if let Self::Tls(tls) = self {
                    tls.shrink();
                }
            }
            polled
        })
        .await
    }

    /// Receives until `inbound` starts with a complete message, which the caller consumes. Memory grows with the
    /// bytes received, not with the announced length. Cancel safe.
    ///
    /// # Errors
    /// As recv(2); `UnexpectedEof` at the end of the stream; `InvalidData` for a length out of range.
    pub async fn recv_message(&mut self, inbound: &mut Inbound, max_bytes: u32) -> io::Result<Frame> {
        loop {
            let header = scan::header(inbound.bytes(), max_bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some(frame) = header.filter(|frame| inbound.len() >= frame.len) {
                return Ok(frame);
            }
            if self.recv_sparing(inbound).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// True if there may be unread bytes, or the end of the stream.
    #[inline]
    pub fn has_pending_input(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.has_pending_input(),
            Self::Tls(tls) => tls.has_pending_input(),
        }
    }

    /// True if the peer has closed the connection, or its sending direction, even if bytes are unread. Costs a system
    /// call.
    pub fn has_hung_up(&self) -> bool {
        self.socket().has_hung_up()
    }

    /// The TLS layer, if there is one.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls),
        }
    }

    /// See [`Socket::unix_peer`].
    pub fn unix_peer(&self) -> Option<PeerCredentials> {
        self.socket().unix_peer()
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket(),
        }
    }

    /// Clears the waker: no task is woken for this connection any more.
    pub fn clear_waker(&self) {
        self.socket().clear_waker();
    }

    /// Address of the peer.
    pub fn peer(&self) -> Option<Endpoint> {
        self.socket().peer()
    }

    /// Local address.
    pub fn local(&self) -> Option<Endpoint> {
        self.socket().local()
    }
}
