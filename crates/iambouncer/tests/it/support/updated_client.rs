//! A client as applications have it while a pooler is restarted: its errors are values, and it checks its connection
//! before use. Owns the connection.

use super::{TIMEOUT, raw};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use wire::startup::Version;

/// A session whose connection may be closed between its transactions.
pub struct UpdatedClient(TcpStream);

impl UpdatedClient {
    /// Connects and logs in.
    pub fn log_in(port: u16) -> io::Result<Self> {
        Self::log_in_to(port, "app")
    }

    /// As `log_in`, to another database.
    pub fn log_in_to(port: u16, database: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Self::start_at(stream, database)
    }

    /// Logs in on a connection.
    pub fn start(stream: TcpStream) -> io::Result<Self> {
        Self::start_at(stream, "app")
    }

    fn start_at(stream: TcpStream, database: &str) -> io::Result<Self> {
        let mut client = Self(stream);
        let mut packet = Vec::new();
        wire::encode::startup(&mut packet, Version::V3_0, &[("user", "app"), ("database", database)]);
        client.0.write_all(&packet)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Reads up to ReadyForQuery. An ErrorResponse is an error.
    fn until_ready(&mut self) -> io::Result<()> {
        loop {
            let mut header = [0; 5];
            self.0.read_exact(&mut header)?;
            let [tag, length @ ..] = header;
            let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
            self.0.read_exact(&mut body)?;
            match tag {
                b'Z' => return Ok(()),
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
                _ => {}
            }
        }
    }

    pub fn query(&mut self, sql: &str) -> io::Result<()> {
        self.0.write_all(&raw::query(sql))?;
        self.until_ready()
    }

    /// Ends the session.
    pub fn terminate(mut self) -> io::Result<()> {
        self.0.write_all(&raw::terminate())
    }

    /// The check before each use: the end of the connection, or the final message.
    pub fn is_closed(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let outcome = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
