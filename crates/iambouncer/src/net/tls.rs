//! TLS over a [`Socket`], using rustls' unbuffered API. Owns a rustls connection and the bytes in transit through it;
//! makes no decisions about certificates (see [`super::tls_config`]).
//!
//! rustls holds no buffers: ciphertext is in a borrowed block that is returned once it is decrypted, and records are
//! built in a scratch buffer per thread. Only bytes that the kernel does not accept at once are stored.

use super::moving::TlsInTransit;
use super::socket::Socket;
use super::verified::{ServerTls, VerifiedName};
use super::x509::Certificate;
use crate::config::cipher_name;
use crate::worker::buffer::{Inbound, LARGE_BLOCK_BYTES, SMALL_BLOCK_BYTES};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, ServerConfig};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Maximum plaintext encrypted per call, in bytes; limits the scratch buffer.
const MAX_PLAINTEXT_BYTES: usize = 64 * 1024;
/// Room for header, tag and padding of one record, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 5 + 256;
/// Largest plaintext in one record, in bytes (RFC 8446, 5.1).
const RECORD_PLAINTEXT_BYTES: usize = 16 * 1024;
/// Maximum plaintext decrypted ahead of the reader, in bytes, plus one record.
const MAX_AHEAD_BYTES: usize = LARGE_BLOCK_BYTES - RECORD_PLAINTEXT_BYTES;
/// Maximum size of a head and body that are joined into one record, in bytes.
const MAX_JOINED_BYTES: usize = RECORD_PLAINTEXT_BYTES;

/// Room for a close_notify record, in bytes.
const CLOSE_NOTIFY_ROOM_BYTES: usize = 128;

/// The name of PostgreSQL's protocol in ALPN.
pub const ALPN_PROTOCOL: &[u8] = b"postgresql";

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { plain: Vec::new(), cipher: Vec::new() }) };
}

struct Scratch {
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

/// One side of a TLS connection, without its socket.
pub(super) enum TlsEngine {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    /// Moved to another worker; the rest is about to be dropped.
    Moved,
}

/// State of the engine after processing all input.
enum EngineState {
    /// The handshake needs more bytes.
    Handshaking,
    /// Application data can be sent.
    Open,
    /// The peer has sent close_notify.
    PeerClosed,
}

/// A TLS connection.
pub struct TlsStream {
    socket: Socket,
    engine: TlsEngine,
    /// Ciphertext not decrypted yet.
    incoming: Inbound,
    /// Plaintext not requested yet.
    plain: Inbound,
    /// Ciphertext not accepted by the kernel yet.
    outgoing: Vec<u8>,
    peer_closed: bool,
    /// The verified name of a server, if the handshake verified it.
    verified_name: Option<VerifiedName>,
}

fn moved() -> io::Error {
    io::Error::other("the connection has moved to another worker")
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsStream {
    /// Starts TLS with a server over a new socket.
    ///
    /// # Errors
    /// The handshake fails: certificate, versions, or the connection itself.
    pub async fn connect(socket: Socket, tls: &ServerTls, name: ServerName<'static>) -> io::Result<Self> {
        let (config, record) = tls.for_handshake();
        let engine = TlsEngine::Client(UnbufferedClientConnection::new(config, name).map_err(tls_error)?);
        let mut stream = Self::handshake(socket, engine).await?;
        stream.verified_name = record.of_complete_handshake();
        Ok(stream)
    }

    /// Performs the handshake with a client that requested TLS.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn accept(socket: Socket, config: Arc<ServerConfig>) -> io::Result<Self> {
        let engine = TlsEngine::Server(UnbufferedServerConnection::new(config).map_err(tls_error)?);
        Self::handshake(socket, engine).await
    }

    /// Performs the handshake with a client that has begun it without a request; `hello` is what was received.
    ///
    /// # Errors
    /// The handshake fails, or the client has not named the protocol that follows.
    pub async fn accept_direct(
        socket: Socket,
        config: Arc<ServerConfig>,
        hello: Inbound,
    ) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(tls_error)?;
        let mut stream = Self::new(socket, TlsEngine::Server(connection));
        stream.incoming = hello;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        match &stream.engine {
            TlsEngine::Server(connection) if connection.alpn_protocol() == Some(ALPN_PROTOCOL) => Ok(stream),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS handshake without a request or ALPN")),
        }
    }

    fn new(socket: Socket, engine: TlsEngine) -> Self {
        Self {
            socket,
            engine,
            incoming: Inbound::default(),
            plain: Inbound::default(),
            outgoing: Vec::new(),
            peer_closed: false,
            verified_name: None,
        }
    }

    async fn handshake(socket: Socket, engine: TlsEngine) -> io::Result<Self> {
        let mut stream = Self::new(socket, engine);
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let state = self.drive();
            // Output is sent even if the handshake has failed: the alert contains the reason.
            let flushed = self.poll_flush(cx);
            let state = state?;
            ready!(flushed)?;
            match state {
                EngineState::Open => return Poll::Ready(Ok(())),
                EngineState::PeerClosed => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                EngineState::Handshaking => {
                    let received = self.poll_receive(cx);
                    if received.is_pending() {
                        self.shrink();
                    }
                    if ready!(received)? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.incoming.is_empty() {
            self.incoming.make_room(SMALL_BLOCK_BYTES);
        }
        if self.incoming.is_full() {
            self.incoming.make_room(LARGE_BLOCK_BYTES);
        }
        self.socket.poll_recv(cx, &mut self.incoming)
    }

    /// While an unauthenticated peer is idle, only as much memory is held as it has sent.
    pub(super) fn shrink(&mut self) {
        self.incoming.shrink();
        self.plain.shrink();
    }

    /// Processes `incoming`: plaintext is appended to `plain`, the engine's own output to `outgoing`.
    fn drive(&mut self) -> io::Result<EngineState> {
        loop {
            let bytes = self.incoming.bytes_mut();
            let (discard, step) = match &mut self.engine {
                TlsEngine::Client(c) => {
                    step(c.process_tls_records(bytes), &mut self.plain, &mut self.outgoing)
                }
                TlsEngine::Server(c) => {
                    step(c.process_tls_records(bytes), &mut self.plain, &mut self.outgoing)
                }
                TlsEngine::Moved => return Err(moved()),
            };
            self.incoming.consume(discard);
            match step {
                Ok(Step::Again) if self.plain.len() > MAX_AHEAD_BYTES => return Ok(EngineState::Open),
                Ok(Step::Again) => {}
                Ok(Step::State(state)) => return Ok(state),
                Err(error) => {
                    self.queue_alert();
                    return Err(error);
                }
            }
        }
    }

    /// After an error, all that the engine can still do is send an alert.
    fn queue_alert(&mut self) {
        let mut nothing = Inbound::default();
        let _ = match &mut self.engine {
            TlsEngine::Client(c) => step(c.process_tls_records(&mut []), &mut nothing, &mut self.outgoing).1,
            TlsEngine::Server(c) => step(c.process_tls_records(&mut []), &mut nothing, &mut self.outgoing).1,
            TlsEngine::Moved => return,
        };
    }

    /// Receives plaintext; see [`Socket::poll_recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, into: &mut Inbound) -> Poll<io::Result<usize>> {
        loop {
            if self.plain.is_empty() && !self.incoming.is_empty() && !self.peer_closed {
                self.advance()?;
            }
            if !self.plain.is_empty() {
                let n = self.plain.len();
                if into.is_empty() {
                    std::mem::swap(into, &mut self.plain);
                } else {
                    into.append(self.plain.bytes());
                    self.plain.clear();
                }
                return Poll::Ready(Ok(n));
            }
            if self.peer_closed {
                return Poll::Ready(Ok(0));
            }
            // The engine's own output (key updates) is sent when possible.
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                // PostgreSQL does not always send close_notify; its own protocol detects truncation.
                self.peer_closed = true;
                return Poll::Ready(Ok(0));
            }
            self.advance()?;
        }
    }
}

impl TlsStream {
    fn advance(&mut self) -> io::Result<()> {
        if let EngineState::PeerClosed = self.drive()? {
            self.peer_closed = true;
        }
        Ok(())
    }

    /// Encrypts and sends up to 64 KiB at a time; returns how much was accepted. Accepted bytes may still be stored
    /// in this stream: see [`TlsStream::poll_flush`].
    pub fn poll_send(&mut self, cx: &mut Context<'_>, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.cipher.clear();
            let taken = if !head.is_empty() && !body.is_empty() && head.len() + body.len() <= MAX_JOINED_BYTES
            {
                scratch.plain.clear();
                scratch.plain.extend_from_slice(head);
                scratch.plain.extend_from_slice(body);
                self.encrypt(&scratch.plain, &mut scratch.cipher)?;
                scratch.plain.len()
            } else {
                let head = &head[..head.len().min(MAX_PLAINTEXT_BYTES)];
                let body = &body[..body.len().min(MAX_PLAINTEXT_BYTES - head.len())];
                for piece in [head, body] {
                    if !piece.is_empty() {
                        self.encrypt(piece, &mut scratch.cipher)?;
                    }
                }
                head.len() + body.len()
            };
            match self.socket.poll_send(cx, &scratch.cipher, &[]) {
                Poll::Ready(Ok(n)) => self.outgoing.extend_from_slice(&scratch.cipher[n..]),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => self.outgoing.extend_from_slice(&scratch.cipher),
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Appends the records for `data` to `cipher`.
    fn encrypt(&mut self, data: &[u8], cipher: &mut Vec<u8>) -> io::Result<()> {
        let records = data.len().div_ceil(RECORD_PLAINTEXT_BYTES);
        let at = cipher.len();
        cipher.resize(at + data.len() + records * RECORD_OVERHEAD_BYTES, 0);
        loop {
            let bytes = self.incoming.bytes_mut();
            let (discard, outcome) = match &mut self.engine {
                TlsEngine::Client(c) => seal(
                    c.process_tls_records(bytes),
                    data,
                    &mut cipher[at..],
                    &mut self.plain,
                    &mut self.outgoing,
                ),
                TlsEngine::Server(c) => seal(
                    c.process_tls_records(bytes),
                    data,
                    &mut cipher[at..],
                    &mut self.plain,
                    &mut self.outgoing,
                ),
                TlsEngine::Moved => return Err(moved()),
            };
            self.incoming.consume(discard);
            if let Some(n) = outcome? {
                cipher.truncate(at + n);
                // Records that the engine produced earlier (key updates) must be sent first.
                if !self.outgoing.is_empty() {
                    cipher.splice(at..at, self.outgoing.drain(..));
                }
                return Ok(());
            }
        }
    }

    /// Sends stored bytes. `Ready(Ok)` when none are left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let n = ready!(self.socket.poll_send(cx, &self.outgoing, &[]))?;
            if n == self.outgoing.len() {
                self.outgoing = Vec::new();
            } else {
                self.outgoing.drain(..n);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Detaches the connection from this worker, between two records.
    ///
    /// # Errors
    /// A record is incomplete, or the peer has closed the connection.
    pub(super) async fn detach(&mut self) -> io::Result<(OwnedFd, TlsInTransit)> {
        let is_between = self.plain.is_empty() && self.incoming.is_empty() && self.outgoing.is_empty();
        if self.peer_closed || !is_between {
            return Err(io::Error::other("the connection is in use"));
        }
        let fd = self.socket.detach().await?;
        Ok((fd, self.take_engine(&[])))
    }

    /// Detaches a connection with what it has received. The stream must then be dropped.
    ///
    /// # Errors
    /// As [`Socket::detach_with_input`]; the stream can still be used.
    pub(super) async fn detach_with_input(&mut self) -> io::Result<(OwnedFd, TlsInTransit)> {
        if self.peer_closed || !self.outgoing.is_empty() {
            return Err(io::Error::other("the connection is being closed, or has unsent bytes"));
        }
        let (fd, received) = self.socket.detach_with_input().await?;
        Ok((fd, self.take_engine(&received)))
    }

    /// What moves with the socket, which has received these bytes last.
    fn take_engine(&mut self, received: &[u8]) -> TlsInTransit {
        TlsInTransit {
            engine: std::mem::replace(&mut self.engine, TlsEngine::Moved),
            incoming: [self.incoming.bytes(), received].concat(),
            plain: self.plain.bytes().to_vec(),
        }
    }

    /// Rebuilds a connection that was detached.
    pub(super) fn attach(socket: Socket, tls: TlsInTransit) -> Self {
        let TlsInTransit { engine, incoming, plain } = tls;
        let mut stream = Self::new(socket, engine);
        stream.incoming.append(&incoming);
        stream.plain.append(&plain);
        stream
    }

    /// The server's name, if the handshake of this connection verified it.
    pub fn verified_name(&self) -> Option<&VerifiedName> {
        self.verified_name.as_ref()
    }

    /// The peer's certificate.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common()?.peer_certificates().and_then(<[_]>::first)
    }

    /// The subject's common name in the peer's certificate, if it has exactly one. That of a client was verified.
    pub fn peer_common_name(&self) -> Option<String> {
        let certificate = Certificate::read(self.peer_certificate()?).ok()?;
        certificate.common_name().map(str::to_owned)
    }

    /// Version and cipher suite, as PgBouncer shows them.
    pub fn description(&self) -> String {
        let common = self.common();
        let version = common.and_then(|c| c.protocol_version()).and_then(|v| v.as_str()).unwrap_or("TLS");
        let suite = common.and_then(|c| c.negotiated_cipher_suite()).map(|suite| suite.suite());
        match suite.and_then(|suite| cipher_name(suite.into())) {
            Some(name) => format!("{}/{name}", version.replace('_', ".")),
            None => version.to_owned(),
        }
    }

    fn common(&self) -> Option<&CommonState> {
        match &self.engine {
            TlsEngine::Client(c) => Some(c),
            TlsEngine::Server(c) => Some(c),
            TlsEngine::Moved => None,
        }
    }

    /// True if there may be unread bytes of any kind.
    pub fn has_pending_input(&self) -> bool {
        self.peer_closed
            || !self.plain.is_empty()
            || !self.incoming.is_empty()
            || self.socket.has_pending_input()
    }

    /// The underlying socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The same, for a change of its state.
    pub(super) fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Drop for TlsStream {
    /// Sends close_notify if the kernel accepts it at once: without it, some clients report a truncated connection.
    fn drop(&mut self) {
        if !self.outgoing.is_empty() {
            return;
        }
        let mut record = [0; CLOSE_NOTIFY_ROOM_BYTES];
        let mut written = None;
        // Unread records must be processed first.
        while written.is_none() {
            let bytes = self.incoming.bytes_mut();
            let (discard, outcome) = match &mut self.engine {
                TlsEngine::Client(c) => close_notify(c.process_tls_records(bytes), &mut record),
                TlsEngine::Server(c) => close_notify(c.process_tls_records(bytes), &mut record),
                TlsEngine::Moved => return,
            };
            self.incoming.consume(discard);
            match outcome {
                CloseNotify::Written(n) => written = Some(n),
                CloseNotify::NotYet if discard > 0 => {}
                CloseNotify::NotYet | CloseNotify::Impossible => return,
            }
        }
        self.socket.send_last(&record[..written.unwrap_or(0)]);
    }
}

/// The result of an attempt to write close_notify.
enum CloseNotify {
    /// The number of bytes to be sent.
    Written(usize),
    /// Other records had to be processed first.
    NotYet,
    /// Not possible in this state of the connection.
    Impossible,
}

fn close_notify<D>(status: UnbufferedStatus<'_, '_, D>, room: &mut [u8]) -> (usize, CloseNotify) {
    let UnbufferedStatus { mut discard, state } = status;
    let outcome = match state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            traffic.queue_close_notify(room).map_or(CloseNotify::Impossible, CloseNotify::Written)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => discard += record.discard,
                    Err(_) => return (discard, CloseNotify::Impossible),
                }
            }
            CloseNotify::NotYet
        }
        _ => CloseNotify::Impossible,
    };
    (discard, outcome)
}

/// Encrypts `data` if the engine is ready for it; otherwise does the same as [`step`] and returns `None`.
fn seal<D>(
    status: UnbufferedStatus<'_, '_, D>,
    data: &[u8],
    room: &mut [u8],
    plain: &mut Inbound,
    outgoing: &mut Vec<u8>,
) -> (usize, io::Result<Option<usize>>) {
    let discard = status.discard;
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let sealed = traffic.encrypt(data, room).map(Some).map_err(|error| match error {
                EncryptError::EncryptExhausted => io::Error::other("TLS keys are exhausted"),
                EncryptError::InsufficientSize(_) => io::Error::other("TLS record larger than expected"),
            });
            (discard, sealed)
        }
        state => match step(UnbufferedStatus { discard, state }, plain, outgoing) {
            (discard, Ok(Step::Again)) => (discard, Ok(None)),
            (discard, Ok(Step::State(_))) => (discard, Err(io::ErrorKind::BrokenPipe.into())),
            (discard, Err(error)) => (discard, Err(error)),
        },
    }
}

enum Step {
    Again,
    State(EngineState),
}

/// Handles one state of the engine. Returns the number of input bytes consumed.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Inbound,
    outgoing: &mut Vec<u8>,
) -> (usize, io::Result<Step>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plain.append(record.payload);
                    }
                    Err(error) => return (discard, Err(tls_error(error))),
                }
            }
            Ok(Step::Again)
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(outgoing, |room| data.encode(room)),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::State(EngineState::Handshaking)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::State(EngineState::Open)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::State(EngineState::PeerClosed)),
        Ok(_) => Err(io::Error::other("unexpected TLS state")),
        Err(error) => Err(tls_error(error)),
    };
    (discard, step)
}

fn encode(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> io::Result<Step> {
    let at = outgoing.len();
    let written = match write(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => {
            outgoing.resize(at + size.required_size, 0);
            write(&mut outgoing[at..])
        }
        other => other,
    };
    match written {
        Ok(n) => {
            outgoing.truncate(at + n);
            Ok(Step::Again)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}
