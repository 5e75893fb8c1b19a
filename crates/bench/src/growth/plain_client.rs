//! A client without a runtime, for threads of their own and for many idle connections: one connection without TLS to a
//! pooler that trusts it. Owns the reading of rows; never encrypts.

use std::io::{self, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wire::startup::Version;
use wire::tag::{backend, frontend};
use wire::{backend as view, encode};

/// Receive buffer. Of that of an idle client, the kernel only provides the pages that were used.
const BUFFER_BYTES: usize = 16 * 1024;
/// Time limit for each read, in case a pooler hangs.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// Time limit until a local port is free; longer than TIME_WAIT lasts.
const PORT_LIMIT: Duration = Duration::from_secs(90);
/// Interval between attempts.
const PORT_POLL: Duration = Duration::from_millis(100);
/// Tag and length of a message.
const HEAD_BYTES: usize = 5;
/// The length field includes itself.
const LENGTH_BYTES: usize = 4;

/// A logged-in client.
pub(super) struct PlainClient {
    stream: BufReader<TcpStream>,
    /// The last message: tag, length and body.
    message: Vec<u8>,
}

impl PlainClient {
    /// Connects and logs in.
    pub(super) fn login(port: u16, user: &str, database: &str) -> Result<Self> {
        let tcp = connect(port).context("connecting")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(READ_LIMIT))?;
        let stream = BufReader::with_capacity(BUFFER_BYTES, tcp);
        let mut client = Self { stream, message: Vec::new() };
        let mut startup = Vec::new();
        encode::startup(&mut startup, Version::V3_0, &[("user", user), ("database", database)]);
        let login = client.exchange(&startup, |_| Ok(()));
        login.with_context(|| format!("logging in as {user} to {database}"))?;
        Ok(client)
    }

    /// Runs a simple query and returns the number of rows.
    pub(super) fn query(&mut self, sql: &str) -> Result<u32> {
        let mut rows = 0;
        self.simple(sql, |_| {
            rows += 1;
            Ok(())
        })?;
        Ok(rows)
    }

    /// Runs a simple query and returns its rows as text; NULL is empty.
    pub(super) fn rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>> {
        let mut rows = Vec::new();
        self.simple(sql, |message| {
            rows.push(values(message).context("invalid row")?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Prepares statements, each with a name and a text, with one Sync at the end.
    pub(super) fn prepare(&mut self, statements: &[(String, String)]) -> Result<()> {
        let mut request = Vec::new();
        for (name, sql) in statements {
            let no_types = [0, 0];
            let body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &no_types].concat();
            put(&mut request, frontend::PARSE, &body)?;
        }
        put(&mut request, frontend::SYNC, &[])?;
        self.exchange(&request, |_| Ok(())).context("preparing statements")
    }

    fn simple(&mut self, sql: &str, on_row: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut request = Vec::new();
        encode::query(&mut request, sql);
        self.exchange(&request, on_row).with_context(|| format!("running {sql}"))
    }

    /// Sends `request` and reads up to the next ReadyForQuery.
    fn exchange(&mut self, request: &[u8], mut on_row: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.stream.get_mut().write_all(request)?;
        loop {
            self.receive()?;
            match self.message[0] {
                backend::READY_FOR_QUERY => return Ok(()),
                backend::DATA_ROW => on_row(&self.message)?,
                backend::ERROR_RESPONSE => {
                    let fields = view::error_fields(&self.message)?;
                    bail!("{} {}: {}", fields.severity, fields.code, fields.message);
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<()> {
        self.message.resize(HEAD_BYTES, 0);
        self.stream.read_exact(&mut self.message).context("waiting for an answer")?;
        let length = u32::from_be_bytes(self.message[1..].try_into()?) as usize;
        let body_bytes = length.checked_sub(LENGTH_BYTES).context("invalid length of a message")?;
        self.message.resize(HEAD_BYTES + body_bytes, 0);
        self.stream.read_exact(&mut self.message[HEAD_BYTES..]).context("reading an answer")
    }
}

/// Connects, and waits if no local port is free: those of closed connections are not for a while.
fn connect(port: u16) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                std::thread::sleep(PORT_POLL);
            }
            outcome => return outcome,
        }
    }
}

/// Appends a message.
fn put(request: &mut Vec<u8>, tag: u8, body: &[u8]) -> Result<()> {
    request.push(tag);
    request.extend_from_slice(&u32::try_from(LENGTH_BYTES + body.len())?.to_be_bytes());
    request.extend_from_slice(body);
    Ok(())
}

/// The values of a DataRow message.
fn values(message: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = message.get(HEAD_BYTES..)?.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        // A negative length is NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        values.push(String::from_utf8_lossy(tail.get(..length)?).into_owned());
        rest = &tail[length..];
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_decoded() {
        let mut message = Vec::new();
        let row: [Option<&[u8]>; 3] = [Some(b"a"), None, Some(b"bc")];
        encode::data_row(&mut message, row.into_iter());
        assert_eq!(values(&message), Some(vec!["a".to_owned(), String::new(), "bc".to_owned()]));
        assert_eq!(values(&message[..message.len() - 1]), None);
    }

    #[test]
    fn a_message_has_tag_and_length() {
        let mut request = Vec::new();
        put(&mut request, b'X', b"ab").unwrap();
        assert_eq!(request, b"X\0\0\0\x06ab");
    }
}
