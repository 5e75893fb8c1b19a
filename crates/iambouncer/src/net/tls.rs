//! TLS over a [`Socket`], driven by hand over our own buffers. Owns one rustls connection and what is on its way
//! through it; decides nothing about certificates (see [`super::tls_config`]).
//!
//! rustls holds no buffer of ours: ciphertext lies in a lent block that goes back when it is decrypted, and
//! records are built in one scratch buffer of the thread. Only what the kernel does not take at once is kept.

use super::socket::Socket;
use super::verified::{ServerTls, VerifiedName};
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

/// Plaintext encrypted per call at the most, in bytes; bounds the scratch buffer.
const MAX_PLAINTEXT_BYTES: usize = 64 * 1024;
/// Room for the head, tag and padding of one record, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 5 + 256;
/// Largest plaintext in one record, in bytes (RFC 8446, 5.1).
const RECORD_PLAINTEXT_BYTES: usize = 16 * 1024;
/// Plaintext decrypted ahead of the reader at the most, in bytes; one record more may come on top.
const MAX_AHEAD_BYTES: usize = LARGE_BLOCK_BYTES - RECORD_PLAINTEXT_BYTES;
/// Pieces up to this size are put into one record with their head, in bytes.
const MAX_JOINED_BYTES: usize = RECORD_PLAINTEXT_BYTES;

/// Room for a close_notify record, in bytes.
const CLOSE_NOTIFY_ROOM_BYTES: usize = 128;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { plain: Vec::new(), cipher: Vec::new() }) };
}

struct Scratch {
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

/// One side of a TLS connection; knows no socket.
pub(super) enum TlsEngine {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    /// It has gone to another worker; what is left is dropped at once.
    Moved,
}

/// Where the engine stands after it was fed all there is.
enum EngineState {
    /// Handshake goes on; more bytes are needed.
    Handshaking,
    /// Application data can be sent.
    Open,
    /// The other side has said that nothing more comes.
    PeerClosed,
}

/// A TLS connection.
pub struct TlsStream {
    socket: Socket,
    engine: TlsEngine,
    /// Ciphertext not decrypted yet.
    incoming: Inbound,
    /// Plaintext nobody has asked for yet.
    plain: Inbound,
    /// Ciphertext the kernel has not taken yet.
    outgoing: Vec<u8>,
    peer_closed: bool,
    /// Of a server, if the handshake has verified it.
    verified_name: Option<VerifiedName>,
}

fn moved() -> io::Error {
    io::Error::other("the connection has gone to another worker")
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsStream {
    /// Opens TLS towards a server over a fresh socket.
    ///
    /// # Errors
    /// The handshake fails: certificate, versions, or the connection itself.
    pub async fn connect(socket: Socket, tls: &ServerTls, name: ServerName<'static>) -> io::Result<Self> {
        let (config, note) = tls.for_handshake();
        let engine = TlsEngine::Client(UnbufferedClientConnection::new(config, name).map_err(tls_error)?);
        let mut stream = Self::handshake(socket, engine).await?;
        stream.verified_name = note.of_complete_handshake();
        Ok(stream)
    }

    /// Answers a client that asked for TLS.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn accept(socket: Socket, config: Arc<ServerConfig>) -> io::Result<Self> {
        let engine = TlsEngine::Server(UnbufferedServerConnection::new(config).map_err(tls_error)?);
        Self::handshake(socket, engine).await
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
            let standing = self.drive();
            // What is to be sent goes out even when the handshake has failed: it names the reason.
            let flushed = self.poll_flush(cx);
            let standing = standing?;
            ready!(flushed)?;
            match standing {
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

    /// While nothing comes, a peer that has not proven itself holds what it has sent and no more.
    pub(super) fn shrink(&mut self) {
        self.incoming.shrink();
        self.plain.shrink();
    }

    /// Lets the engine work off `incoming`: plaintext goes to `plain`, answers of its own to `outgoing`.
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
                Ok(Step::Stands(standing)) => return Ok(standing),
                Err(error) => {
                    self.queue_alert();
                    return Err(error);
                }
            }
        }
    }

    /// After an error the engine has an alert to send; it is all it can still do.
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
                self.drive_and_note()?;
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
            // Answers of the engine (key updates) leave when they can.
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                // PostgreSQL does not always say goodbye in TLS; its protocol tells truncation.
                self.peer_closed = true;
                return Poll::Ready(Ok(0));
            }
            self.drive_and_note()?;
        }
    }
}

impl TlsStream {
    fn drive_and_note(&mut self) -> io::Result<()> {
        if let EngineState::PeerClosed = self.drive()? {
            self.peer_closed = true;
        }
        Ok(())
    }

    /// Encrypts and sends; takes up to 64 KiB at a time and says how much it took. What was taken
    /// may still lie in this stream: see [`TlsStream::poll_flush`].
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
                // Records the engine made before ours (key updates) go first.
                if !self.outgoing.is_empty() {
                    cipher.splice(at..at, self.outgoing.drain(..));
                }
                return Ok(());
            }
        }
    }

    /// Sends what the kernel refused before. `Ready(Ok)` when nothing is left.
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

    /// Takes the connection off this worker, between two records.
    ///
    /// # Errors
    /// It is not between two records, or the other side has closed.
    pub(super) async fn detach(mut self) -> io::Result<(OwnedFd, TlsEngine)> {
        let is_between = self.plain.is_empty() && self.incoming.is_empty() && self.outgoing.is_empty();
        if self.peer_closed || !is_between {
            return Err(io::Error::other("the connection is in use"));
        }
        let fd = self.socket.detach().await?;
        Ok((fd, std::mem::replace(&mut self.engine, TlsEngine::Moved)))
    }

    /// Puts together what [`TlsStream::detach`] took apart.
    pub(super) fn attach(socket: Socket, engine: TlsEngine) -> Self {
        Self::new(socket, engine)
    }

    /// The server's name, if it was verified in the handshake of this connection.
    pub fn verified_name(&self) -> Option<&VerifiedName> {
        self.verified_name.as_ref()
    }

    /// The certificate the other side showed.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.common()?.peer_certificates().and_then(<[_]>::first)
    }

    /// Version and suite, as the console shows them.
    pub fn description(&self) -> String {
        let common = self.common();
        let version = common.and_then(|c| c.protocol_version()).and_then(|v| v.as_str()).unwrap_or("TLS");
        match common.and_then(|c| c.negotiated_cipher_suite()) {
            Some(suite) => format!("{}/{:?}", version.replace('_', "."), suite.suite()),
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

    /// True when bytes of any kind may be waiting.
    pub fn has_pending_input(&self) -> bool {
        self.peer_closed
            || !self.plain.is_empty()
            || !self.incoming.is_empty()
            || self.socket.has_pending_input()
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl Drop for TlsStream {
    /// Says goodbye, if the kernel takes it at once: without it some clients report a truncated connection.
    fn drop(&mut self) {
        if !self.outgoing.is_empty() {
            return;
        }
        let mut record = [0; CLOSE_NOTIFY_ROOM_BYTES];
        let mut written = None;
        // What has come and nobody will read stands in front of it.
        while written.is_none() {
            let bytes = self.incoming.bytes_mut();
            let (discard, farewell) = match &mut self.engine {
                TlsEngine::Client(c) => goodbye(c.process_tls_records(bytes), &mut record),
                TlsEngine::Server(c) => goodbye(c.process_tls_records(bytes), &mut record),
                TlsEngine::Moved => return,
            };
            self.incoming.consume(discard);
            match farewell {
                CloseNotify::Written(n) => written = Some(n),
                CloseNotify::NotYet if discard > 0 => {}
                CloseNotify::NotYet | CloseNotify::Impossible => return,
            }
        }
        self.socket.send_last(&record[..written.unwrap_or(0)]);
    }
}

/// What came of an attempt to say goodbye.
enum CloseNotify {
    /// So many bytes are to be sent.
    Written(usize),
    /// Something else had to be worked off first.
    NotYet,
    /// The connection is not in a state for it.
    Impossible,
}

fn goodbye<D>(status: UnbufferedStatus<'_, '_, D>, room: &mut [u8]) -> (usize, CloseNotify) {
    let UnbufferedStatus { mut discard, state } = status;
    let farewell = match state {
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
    (discard, farewell)
}

/// Encrypts `data` if the engine is ready for it; else acts as [`step`] does and returns `None`.
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
                EncryptError::EncryptExhausted => io::Error::other("TLS keys are used up"),
                EncryptError::InsufficientSize(_) => io::Error::other("TLS record larger than its bound"),
            });
            (discard, sealed)
        }
        state => match step(UnbufferedStatus { discard, state }, plain, outgoing) {
            (discard, Ok(Step::Again)) => (discard, Ok(None)),
            (discard, Ok(Step::Stands(_))) => (discard, Err(io::ErrorKind::BrokenPipe.into())),
            (discard, Err(error)) => (discard, Err(error)),
        },
    }
}

enum Step {
    Again,
    Stands(EngineState),
}

/// Acts on one state of the engine. Returns how much of the incoming bytes is used up.
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
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Stands(EngineState::Handshaking)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Stands(EngineState::Open)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Ok(Step::Stands(EngineState::PeerClosed))
        }
        Ok(_) => Err(io::Error::other("TLS state this build does not know")),
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
