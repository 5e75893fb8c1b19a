//! Connections in transit between workers. Owns their form, which contains nothing of a worker's engine, buffers or
//! memory.

use super::socket::Socket;
use super::stream::Stream;
use super::tls::{TlsEngine, TlsStream};
use std::io;
use std::os::fd::OwnedFd;

/// A connection that belongs to no worker. Closed when dropped.
pub struct SocketInTransit {
    fd: OwnedFd,
    tls: Option<Box<TlsEngine>>,
}

impl SocketInTransit {
    /// Detaches a connection from this worker. No bytes may be in transit in either direction.
    ///
    /// # Errors
    /// Bytes are in transit or the connection was closed; it is closed.
    pub async fn pack(stream: Stream) -> io::Result<Self> {
        match stream {
            Stream::Plain(mut socket) => Ok(Self { fd: socket.detach().await?, tls: None }),
            Stream::Tls(tls) => {
                let (fd, engine) = tls.detach().await?;
                Ok(Self { fd, tls: Some(Box::new(engine)) })
            }
        }
    }

    /// Attaches it to this worker.
    ///
    /// # Errors
    /// The worker's engine rejects it.
    pub fn unpack(self) -> io::Result<Stream> {
        let socket = Socket::new(self.fd)?;
        // It may be idle from the start, but its end must be noticed.
        socket.watch_input()?;
        Ok(match self.tls {
            None => Stream::Plain(socket),
            Some(engine) => Stream::Tls(Box::new(TlsStream::attach(socket, *engine))),
        })
    }
}
