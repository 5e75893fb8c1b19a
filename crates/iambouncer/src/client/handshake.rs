//! From an accepted socket to a startup packet: TLS with and without a request, GSS requests, cancel requests, protocol versions. Owns the
//! order in which these may arrive and their limits.

use super::interrupt::Interrupt;
use crate::client_error::{self, ClientError};
use crate::net::tls::TlsStream;
use crate::net::{Inbound, Socket, Stream};
use rustls::ServerConfig;
use std::pin::pin;
use std::sync::Arc;
use wire::limits::MAX_CANCEL_KEY_BYTES;
use wire::startup::{self, Request, StartupError, Version};

/// SSL and GSS requests a client may send before its startup packet.
const MAX_ENCRYPTION_REQUESTS: usize = 2;

/// The first byte of a TLS record with a ClientHello; a startup packet that begins with it would be too long.
const TLS_HANDSHAKE: u8 = 0x16;

/// The result of the first packets.
pub(super) enum InitialPacket {
    /// A request for a session.
    Session {
        /// The connection, encrypted if requested.
        stream: Stream,
        /// Bytes received after the startup packet.
        inbound: Inbound,
        /// Requested protocol version.
        version: Version,
        /// Startup parameters.
        parameters: Vec<(String, String)>,
    },
    /// A request to cancel a query.
    Cancel {
        /// The connection, which stays open until the request has been handled.
        stream: Stream,
        /// Process ID of the key.
        pid: u32,
        /// Secret of the key.
        key: Vec<u8>,
    },
}

/// Why no startup packet was received.
pub(super) enum HandshakeError {
    /// The connection was closed before anything was sent. Health checks and port scanners do that.
    NothingSent,
    /// The connection was closed or failed.
    Gone,
    /// TLS failed.
    Tls(std::io::Error),
    /// A packet that is not of this protocol or cannot be answered. As in PostgreSQL, no answer is sent.
    Malformed(StartupError),
    /// The login was interrupted: send the error without waiting, then close.
    Interrupted(Box<Stream>, ClientError),
    /// Send the error, then close.
    Error(Box<Stream>, ClientError),
    /// Like `Error`, in the format of protocols before 3.0.
    ErrorBeforeV3(Box<Stream>, ClientError),
}

/// Reads the first packets.
pub(super) async fn open(
    socket: Socket,
    tls: Option<Arc<ServerConfig>>,
    interrupt: &Interrupt,
) -> Result<InitialPacket, HandshakeError> {
    let mut stream = Stream::Plain(socket);
    let mut inbound = Inbound::default();
    let mut requests = 0;
    loop {
        let read = {
            let reading = pin!(read_packet(&mut stream, &mut inbound));
            interrupt.or(reading).await
        };
        let packet = match read {
            Ok(Ok(packet)) => packet,
            Ok(Err(ReadError::Gone)) if requests == 0 && inbound.is_empty() => {
                return Err(HandshakeError::NothingSent);
            }
            Ok(Err(ReadError::Gone)) => return Err(HandshakeError::Gone),
            Ok(Err(ReadError::Broken(error))) => return Err(HandshakeError::Malformed(error)),
            Ok(Err(ReadError::ClientHello)) => {
                let hello = std::mem::take(&mut inbound);
                let encrypting = pin!(encrypt_directly(stream, requests, hello, tls.as_ref()));
                stream = interrupt.or(encrypting).await.map_err(|_| HandshakeError::Gone)??;
                requests = MAX_ENCRYPTION_REQUESTS;
                continue;
            }
            Err(error) => return Err(HandshakeError::Interrupted(Box::new(stream), error)),
        };
        let request = match startup::parse(&packet) {
            Ok(request) => request,
            Err(error) => return Err(invalid_packet(error, stream)),
        };
        match request {
            Request::Ssl | Request::Gss => {
                requests += 1;
                // Bytes sent before TLS would be taken for encrypted ones (CVE-2021-23214).
                let error = match inbound.is_empty() {
                    false => Some(client_error::unencrypted_data(request == Request::Ssl)),
                    true if requests > MAX_ENCRYPTION_REQUESTS => {
                        Some(client_error::misplaced("too many requests for encryption"))
                    }
                    true => None,
                };
                if let Some(error) = error {
                    return Err(HandshakeError::Error(Box::new(stream), error));
                }
                let encrypting = pin!(encrypt(stream, request == Request::Ssl, tls.as_ref()));
                // No error can be sent in the middle of a TLS handshake.
                stream = interrupt.or(encrypting).await.map_err(|_| HandshakeError::Gone)??;
            }
            Request::Cancel { pid, key } => {
                let key = key[..key.len().min(MAX_CANCEL_KEY_BYTES)].to_vec();
                return Ok(InitialPacket::Cancel { stream, pid, key });
            }
            Request::Startup(startup) => {
                let version = startup.version;
                let parameters =
                    startup.parameters().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                return Ok(InitialPacket::Session { stream, inbound, version, parameters });
            }
        }
    }
}

/// What becomes of a client whose first packet is not a startup packet.
fn invalid_packet(error: StartupError, stream: Stream) -> HandshakeError {
    let stream = Box::new(stream);
    match error {
        StartupError::Length => HandshakeError::Malformed(error),
        StartupError::Version(version) if version.major() < Version::V3_0.major() => {
            HandshakeError::ErrorBeforeV3(stream, client_error::unsupported_protocol(error))
        }
        StartupError::Version(_) => HandshakeError::Error(stream, client_error::unsupported_protocol(error)),
        StartupError::Layout(_) => HandshakeError::Error(stream, client_error::protocol(error)),
    }
}

/// Answers an encryption request: `S` and TLS if configured, else `N`, and the connection stays unencrypted.
async fn encrypt(
    mut stream: Stream,
    is_ssl: bool,
    tls: Option<&Arc<ServerConfig>>,
) -> Result<Stream, HandshakeError> {
    let config = tls.filter(|_| is_ssl && stream.tls().is_none());
    let answer: &[u8] = if config.is_some() { b"S" } else { b"N" };
    stream.send_all(answer).await.map_err(|_| HandshakeError::Gone)?;
    match (stream, config) {
        (Stream::Plain(socket), Some(config)) => {
            // Boxed: ten times as large as the rest of a login.
            let accepted = Box::pin(TlsStream::accept(socket, config.clone())).await;
            let tls = accepted.map_err(HandshakeError::Tls)?;
            Ok(Stream::Tls(Box::new(tls)))
        }
        (stream, _) => Ok(stream),
    }
}

/// Without a request (`sslnegotiation=direct`), TLS must be the first that the client sends, and confirm by ALPN that
/// this protocol follows. There is no answer to a client that cannot have TLS.
async fn encrypt_directly(
    stream: Stream,
    requests: usize,
    hello: Inbound,
    tls: Option<&Arc<ServerConfig>>,
) -> Result<Stream, HandshakeError> {
    let refused = |text: &str| HandshakeError::Tls(std::io::Error::other(text.to_owned()));
    let (Stream::Plain(socket), 0) = (stream, requests) else {
        return Err(refused("a TLS handshake after another request"));
    };
    let config = tls.ok_or_else(|| refused("a TLS handshake without a request, but TLS is off"))?.clone();
    let accepted = Box::pin(TlsStream::accept_direct(socket, config, hello)).await;
    Ok(Stream::Tls(Box::new(accepted.map_err(HandshakeError::Tls)?)))
}

enum ReadError {
    Gone,
    /// The client has begun TLS.
    ClientHello,
    Broken(StartupError),
}

async fn read_packet(stream: &mut Stream, inbound: &mut Inbound) -> Result<Vec<u8>, ReadError> {
    loop {
        if inbound.bytes().first() == Some(&TLS_HANDSHAKE) && stream.tls().is_none() {
            return Err(ReadError::ClientHello);
        }
        if let Some(len) = startup::packet_len(inbound.bytes()).map_err(ReadError::Broken)?
            && inbound.len() >= len
        {
            let packet = inbound.bytes()[..len].to_vec();
            inbound.consume(len);
            return Ok(packet);
        }
        match stream.recv_sparing(inbound).await {
            Ok(n) if n > 0 => {}
            _ => return Err(ReadError::Gone),
        }
    }
}
