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
    /// Detaches a connection from this worker; the stream must then be dropped. No bytes may be in transit in either
    /// direction.
    ///
    /// # Errors
    /// Bytes are in transit or the connection was closed.
    pub async fn pack(stream: &mut Stream) -> io::Result<Self> {
        let (fd, tls) = match stream {
            Stream::Plain(socket) => (socket.detach().await?, None),
            Stream::Tls(tls) => {
                let (fd, tls) = tls.detach().await?;
                (fd, Some(Box::new(tls)))
            }
        };
        Ok(Self { fd, tls, received: Vec::new() })
    }

    /// The same for a connection that may receive at any time: what it has received moves with it. All sent bytes must
    /// have been passed to the kernel, see [`Stream::poll_settled`]. Not cancel safe.
    ///
    /// # Errors
    /// The stream can be used here as before, unless its connection has failed.
    pub async fn pack_with_input(stream: &mut Stream) -> io::Result<Self> {
        match stream {
            Stream::Plain(socket) => {
                let (fd, received) = socket.detach_with_input().await?;
                Ok(Self { fd, tls: None, received })
            }
            Stream::Tls(tls) => {
                let (fd, tls) = tls.detach_with_input().await?;
                Ok(Self { fd, tls: Some(Box::new(tls)), received: Vec::new() })
            }
        }
    }

    /// Attaches it to this worker. Returns it with the bytes that were received before.
    ///
    /// # Errors
    /// The worker's engine rejects it.
    pub fn unpack(self) -> io::Result<(Stream, Inbound)> {
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
