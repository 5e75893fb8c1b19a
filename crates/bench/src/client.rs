//! A raw client for what pgbench cannot do: hold a thousand idle sessions, read and discard a large result,
//! send a fixed number of queries. Owns one connection to a pooler that trusts it; never parses a row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::client::Resumption;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::limits::MAX_MESSAGE_BYTES;
use wire::scan::{Event, FROM_SERVER, Scanner};
use wire::startup::Version;
use wire::tag::{backend, frontend};
use wire::{backend as view, encode};

/// A message to send: its tag and the parts of its body.
type Message<'a> = (u8, &'a [&'a [u8]]);

/// Initial size of the receive buffer; small, because this process has thousands of clients …
const SMALL_BUFFER_BYTES: usize = 4 * 1024;
/// … and its size for a large result.
const LARGE_BUFFER_BYTES: usize = 256 * 1024;
/// Name of the only prepared statement, as sent.
const STATEMENT: &[u8] = b"bench\0";
/// Sync.
const SYNC: Message<'_> = (frontend::SYNC, &[]);

trait BenchStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> BenchStream for T {}

/// Address and identity for a login.
pub(crate) struct BenchTarget<'a> {
    /// Port on 127.0.0.1.
    pub(crate) port: u16,
    /// User.
    pub(crate) user: &'a str,
    /// Database.
    pub(crate) database: &'a str,
    /// TLS, if the session uses it.
    pub(crate) tls: Option<&'a TlsConnector>,
}

/// A logged-in session.
pub(crate) struct Client {
    stream: Box<dyn BenchStream>,
    scanner: Scanner,
    buffer: Vec<u8>,
    filled: usize,
}

/// A TLS client that trusts only the CA in `ca_pem`.
pub(crate) fn tls_connector(ca_pem: &str) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Ten thousand clients represent ten thousand unrelated ones, which do not share TLS sessions.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Client {
    /// Connects and logs in.
    pub(crate) async fn login(target: &BenchTarget<'_>) -> Result<Self> {
        let mut tcp = TcpStream::connect(("127.0.0.1", target.port)).await.context("connecting")?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn BenchStream> = match target.tls {
            None => Box::new(tcp),
            Some(connector) => {
                let mut request = Vec::new();
                encode::ssl_request(&mut request);
                tcp.write_all(&request).await?;
                let answer = tcp.read_u8().await.context("requesting TLS")?;
                if answer != b'S' {
                    bail!("the pooler does not offer TLS");
                }
                Box::new(connector.connect(ServerName::try_from("127.0.0.1")?, tcp).await?)
            }
        };
        let scanner = Scanner::new(&FROM_SERVER, MAX_MESSAGE_BYTES);
        let mut client = Self { stream, scanner, buffer: vec![0; SMALL_BUFFER_BYTES], filled: 0 };
        let mut startup = Vec::new();
        let parameters = [("user", target.user), ("database", target.database)];
        encode::startup(&mut startup, Version::V3_0, &parameters);
        client.exchange(&startup).await.context("logging in")?;
        Ok(client)
    }

    /// Runs a simple query and returns the size of the response in bytes.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<u64> {
        let mut request = Vec::new();
        encode::query(&mut request, sql);
        self.exchange(&request).await.with_context(|| format!("running {sql}"))
    }

    /// Prepares `sql`, which takes no parameters.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<u64> {
        let no_types = &[0, 0];
        let parse: Message<'_> = (frontend::PARSE, &[STATEMENT, sql.as_bytes(), b"\0", no_types]);
        self.exchange(&messages(&[parse, SYNC])).await.with_context(|| format!("preparing {sql}"))
    }

    /// Runs the prepared statement.
    pub(crate) async fn execute_prepared(&mut self) -> Result<u64> {
        // The unnamed portal; no formats, no parameters, no result formats.
        let bind: Message<'_> = (frontend::BIND, &[b"\0", STATEMENT, &[0; 6]]);
        // The unnamed portal; all rows.
        let execute: Message<'_> = (frontend::EXECUTE, &[&[0; 5]]);
        let request = messages(&[bind, execute, SYNC]);
        self.exchange(&request).await.context("running the prepared statement")
    }

    /// Closes a statement that does not exist `count` times, in one batch: a pooler answers it without a server.
    pub(crate) async fn close_unknown(&mut self, count: usize) -> Result<u64> {
        let close: Message<'_> = (frontend::CLOSE, &[b"S", b"unknown\0"]);
        let mut batch = vec![close; count];
        batch.push(SYNC);
        self.exchange(&messages(&batch)).await.context("closing statements")
    }

    /// Enlarges the receive buffer for a large result.
    pub(crate) fn enlarge_buffer(&mut self) {
        self.buffer.resize(LARGE_BUFFER_BYTES, 0);
    }

    /// Runs a simple query with a large result and reads for `time` at `bytes_per_s`; the rest is left
    /// unread.
    pub(crate) async fn read_slowly(&mut self, sql: &str, bytes_per_s: u32, time: Duration) -> Result<()> {
        let mut request = Vec::new();
        encode::query(&mut request, sql);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            let n = self.stream.read(&mut self.buffer).await?;
            if n == 0 {
                bail!("the pooler closed the connection");
            }
            tokio::time::sleep(Duration::from_secs_f64(n as f64 / f64::from(bytes_per_s))).await;
        }
        Ok(())
    }

    /// Runs a COPY to the server: sends `line` at least until `bytes` have been sent, `lines` of them at a time. Returns
    /// the number of bytes.
    pub(crate) async fn copy_in(&mut self, sql: &str, line: &[u8], lines: u64, bytes: u64) -> Result<u64> {
        let mut request = Vec::new();
        encode::query(&mut request, sql);
        self.stream.write_all(&request).await?;
        self.read_until(backend::COPY_IN_RESPONSE).await.with_context(|| format!("running {sql}"))?;
        let one: Message<'_> = (frontend::COPY_DATA, &[line]);
        let chunk = messages(&vec![one; lines.max(1) as usize]);
        let mut sent = 0;
        while sent < bytes {
            self.stream.write_all(&chunk).await?;
            sent += chunk.len() as u64;
        }
        self.exchange(&messages(&[(frontend::COPY_DONE, &[])])).await.context("ending COPY")?;
        Ok(sent)
    }

    /// Sends `request` and reads up to the next ReadyForQuery.
    async fn exchange(&mut self, request: &[u8]) -> Result<u64> {
        self.stream.write_all(request).await?;
        self.read_until(backend::READY_FOR_QUERY).await
    }

    /// Reads up to the next message with this tag. Returns the number of bytes.
    async fn read_until(&mut self, tag: u8) -> Result<u64> {
        self.stream.flush().await?;
        let mut answer_bytes = 0;
        loop {
            let free = &mut self.buffer[self.filled..];
            if free.is_empty() {
                bail!("the pooler sent a message head longer than {} bytes", self.buffer.len());
            }
            let n = self.stream.read(free).await?;
            if n == 0 {
                bail!("the pooler closed the connection");
            }
            answer_bytes += n as u64;
            self.filled += n;
            if self.scan(tag)? {
                return Ok(answer_bytes);
            }
        }
    }

    /// Scans the received bytes; true if they contain a message with this tag.
    fn scan(&mut self, tag: u8) -> Result<bool> {
        let mut at = 0;
        let mut is_found = false;
        loop {
            let bytes = &self.buffer[at..self.filled];
            match self.scanner.next(bytes)? {
                Event::Tail(n) | Event::Run(n) => at += n,
                Event::Message(frame) => {
                    if frame.tag == backend::ERROR_RESPONSE {
                        let fields = view::error_fields(&bytes[..frame.len.min(bytes.len())])?;
                        bail!("{} {}: {}", fields.severity, fields.code, fields.message);
                    }
                    is_found |= frame.tag == tag;
                    at += self.scanner.consume(frame, bytes.len());
                }
                Event::Incomplete(_) => break,
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(is_found)
    }
}

/// Encodes messages.
fn messages(list: &[Message<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, parts) in list {
        let body = parts.concat();
        bytes.push(*tag);
        // All statements of this client are far below 4 GiB.
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(&body);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_tag_and_length() {
        let bytes = messages(&[(b'X', &[b"ab", b"c"]), SYNC]);
        assert_eq!(bytes, b"X\0\0\0\x07abcS\0\0\0\x04");
    }
}
