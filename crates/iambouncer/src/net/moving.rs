//! Connections in transit between workers. Owns their form, which contains nothing of a worker's engine, buffers or
//! memory.

use super::Inbound;
use super::socket::Socket;
use super::stream::Stream;
use super::tls::{TlsEngine, TlsStream};
use std::io;
use std::os::fd::OwnedFd;

/// TLS of a connection that belongs to no worker.
pub(super) struct TlsInTransit {
    pub(super) engine: TlsEngine,
    /// Received ciphertext that was not decrypted.
    pub(super) incoming: Vec<u8>,
    /// Plaintext that was not read.
    pub(super) plain: Vec<u8>,
}

/// A connection that belongs to no worker. Closed when dropped.
pub struct SocketInTransit {
    fd: OwnedFd,
    tls: Option<Box<TlsInTransit>>,
    /// Received bytes that were not read, without TLS.
    received: Vec<u8>,
}

impl SocketInTransit {
    /// Detaches a connection to a server from this worker. No bytes may be in transit in either direction.
    ///
    /// # Errors
    /// Bytes are in transit or the connection was closed; it is closed.
    pub async fn pack(stream: Stream) -> io::Result<Self> {
        match stream {
            Stream::Plain(mut socket) => {
                Ok(Self { fd: socket.detach().await?, tls: None, received: Vec::new() })
            }
            Stream::Tls(tls) => {
                let (fd, engine) = tls.detach().await?;
                let tls = TlsInTransit { engine, incoming: Vec::new(), plain: Vec::new() };
                Ok(Self { fd, tls: Some(Box::new(tls)), received: Vec::new() })
            }
        }
    }

    /// Detaches a client's connection, which may receive at any time: what it has received moves with it. All sent bytes
    /// must have been passed to the kernel, see [`Stream::poll_settled`]. Not cancel safe.
    ///
    /// # Errors
    /// Returns the connection, which can be used here as before, unless it has failed.
    pub async fn pack_with_input(mut stream: Stream) -> Result<Self, (Stream, io::Error)> {
        let detached = match &mut stream {
            Stream::Plain(socket) => {
                socket.detach_with_input().await.map(|(fd, received)| (fd, None, received))
            }
            Stream::Tls(tls) => {
                let detached = tls.detach_with_input().await;
                detached.map(|(fd, tls)| (fd, Some(Box::new(tls)), Vec::new()))
            }
        };
        match detached {
            Ok((fd, tls, received)) => Ok(Self { fd, tls, received }),
            Err(error) => Err((stream, error)),
        }
    }

    /// Attaches it to this worker.
    ///
    /// # Errors
    /// The worker's engine rejects it.
    pub fn unpack(self) -> io::Result<Stream> {
        self.unpack_with_input().map(|(stream, _)| stream)
    }

    /// The same with the bytes that were received before.
    ///
    /// # Errors
    /// As [`SocketInTransit::unpack`].
    pub fn unpack_with_input(self) -> io::Result<(Stream, Inbound)> {
        let socket = Socket::new(self.fd)?;
        // It may be idle from the start, but its end must be noticed.
        socket.watch_input()?;
        let mut received = Inbound::default();
        received.append(&self.received);
        let stream = match self.tls {
            None => Stream::Plain(socket),
            Some(tls) => Stream::Tls(Box::new(TlsStream::attach(socket, *tls))),
        };
        Ok((stream, received))
    }
}
