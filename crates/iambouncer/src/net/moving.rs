//! Connections on their way from one worker to another. Owns the form in which they travel: nothing of a worker's
//! engine, buffers or memory is in it.

use super::socket::Socket;
use super::stream::Stream;
use super::tls::{TlsEngine, TlsStream};
use std::io;
use std::os::fd::OwnedFd;

/// A connection that belongs to no worker. Dropping it closes it.
pub struct SocketInTransit {
    fd: OwnedFd,
    tls: Option<Box<TlsEngine>>,
}

impl SocketInTransit {
    /// Takes a connection off this worker. Nothing may be on its way in either direction.
    ///
    /// # Errors
    /// Something is, or the connection has ended: it is closed.
    pub async fn pack(stream: Stream) -> io::Result<Self> {
        match stream {
            Stream::Plain(mut socket) => Ok(Self { fd: socket.detach().await?, tls: None }),
            Stream::Tls(tls) => {
                let (fd, engine) = tls.detach().await?;
                Ok(Self { fd, tls: Some(Box::new(engine)) })
            }
        }
    }

    /// Makes it a connection of this worker.
    ///
    /// # Errors
    /// The worker's engine refuses it.
    pub fn unpack(self) -> io::Result<Stream> {
        let socket = Socket::new(self.fd)?;
        // It may lie idle here from the start: its end has to be heard all the same.
        socket.listen()?;
        Ok(match self.tls {
            None => Stream::Plain(socket),
            Some(engine) => Stream::Tls(Box::new(TlsStream::attach(socket, *engine))),
        })
    }
}
