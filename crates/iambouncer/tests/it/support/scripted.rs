//! A server scripted by the test, for behavior that PostgreSQL does not show. Owns a listener and one thread
//! per connection; the test determines the messages.

use super::TIMEOUT;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// The first packet of a connection.
pub enum First {
    Startup,
    Cancel,
}

/// A bidirectional connection, plain or encrypted.
pub trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// A connection to the server.
pub struct Connection(Box<dyn ReadWrite>);

impl Connection {
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Reads the startup packet or cancel request. Answers an SSLRequest with N.
    pub fn first(&mut self) -> io::Result<First> {
        loop {
            let packet = self.packet()?;
            match u32::from_be_bytes(packet[..4].try_into().unwrap()) {
                80_877_103 => self.send(b"N")?,
                80_877_102 => return Ok(First::Cancel),
                _ => return Ok(First::Startup),
            }
        }
    }

    fn packet(&mut self) -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize - 4];
        self.0.read_exact(&mut body)?;
        Ok(body)
    }

    /// Tag and body of the next message.
    pub fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut tag = [0];
        self.0.read_exact(&mut tag)?;
        Ok((tag[0], self.packet()?))
    }
}

impl Connection {
    /// Accepts a client, with this process ID.
    pub fn admit(&mut self, pid: u32) -> io::Result<()> {
        self.send(&[message(b'R', &[0; 4]), key_data(pid), ready(b'I')].concat())
    }
}

/// A message.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 4).to_be_bytes();
    [&[tag][..], &len, body].concat()
}

/// BackendKeyData with this process ID.
pub fn key_data(pid: u32) -> Vec<u8> {
    message(b'K', &[pid.to_be_bytes(), [1, 2, 3, 4]].concat())
}

/// ReadyForQuery.
pub fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

/// Serves every connection with `serve` for as long as the test runs. Returns the port.
pub fn serve(serve: impl Fn(Connection) -> io::Result<()> + Send + Sync + 'static) -> u16 {
    accept(move |stream| serve(Connection(Box::new(stream))))
}

/// Like [`serve`] with TLS: SSLRequest is answered with S and this certificate.
pub fn serve_tls(
    config: Arc<rustls::ServerConfig>,
    serve: impl Fn(Connection) -> io::Result<()> + Send + Sync + 'static,
) -> u16 {
    accept(move |mut stream| {
        let mut request = [0; 8];
        stream.read_exact(&mut request)?;
        stream.write_all(b"S")?;
        let session = rustls::ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        serve(Connection(Box::new(rustls::StreamOwned::new(session, stream))))
    })
}

fn accept(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                // The peer may disconnect at any time.
                let _ = serve(stream);
            });
        }
    });
    port
}
