//! A session whose client logs in with SCRAM-SHA-256, and the time that each phase of the login takes. Owns one connection
//! without TLS; never counts sessions.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wire::backend::{self as view, Authentication};
use wire::limits::MAX_WHOLE_BYTES;
use wire::startup::Version;
use wire::tag::backend;
use wire::{encode, scan};

use crate::scram::{self, ScramKeys};
use crate::test_bed::{DATABASE, USER};

/// The only mechanism.
const MECHANISM: &str = "SCRAM-SHA-256";
/// Room for one read: the messages after a login are about half of it. Small, since there are thousands of clients.
const READ_BYTES: usize = 1024;

/// When the phases of a login ended, counted from the call of connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoginTimes {
    /// The pooler has answered the startup message.
    pub(crate) answered: Duration,
    /// The pooler has sent the challenge.
    pub(crate) challenged: Duration,
    /// The session is ready for queries.
    pub(crate) ready: Duration,
}

/// A logged-in session.
pub(crate) struct ScramSession {
    stream: TcpStream,
    received: Vec<u8>,
}

impl ScramSession {
    /// Connects to `port` of 127.0.0.1, from the address `source` if it is given, and logs in.
    pub(crate) async fn login(
        port: u16,
        source: Option<Ipv4Addr>,
        keys: &ScramKeys,
    ) -> Result<(Self, LoginTimes)> {
        let start = Instant::now();
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(SocketAddr::from((source, 0))).context("finding a local port")?;
        }
        let pooler = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = socket.connect(pooler).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, received: Vec::new() };
        let mut request = Vec::new();
        encode::startup(&mut request, Version::V3_0, &[("user", USER), ("database", DATABASE)]);
        let answer = session.exchange(&mut request, backend::AUTHENTICATION).await?;
        let Authentication::Sasl(_) = view::authentication(&answer)? else {
            bail!("the pooler does not ask for {MECHANISM}");
        };
        let answered = start.elapsed();
        encode::sasl_initial(&mut request, MECHANISM, scram::first_message().as_bytes());
        let answer = session.exchange(&mut request, backend::AUTHENTICATION).await?;
        let Authentication::SaslContinue(challenge) = view::authentication(&answer)? else {
            bail!("the pooler does not send a challenge");
        };
        let challenged = start.elapsed();
        encode::sasl_response(&mut request, keys.last_message(challenge)?.as_bytes());
        session.exchange(&mut request, backend::READY_FOR_QUERY).await?;
        Ok((session, LoginTimes { answered, challenged, ready: start.elapsed() }))
    }

    /// Runs a simple query.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<()> {
        let mut request = Vec::new();
        encode::query(&mut request, sql);
        self.exchange(&mut request, backend::READY_FOR_QUERY).await.map(drop)
    }

    /// Ends the session.
    pub(crate) async fn logout(mut self) -> Result<()> {
        let mut request = Vec::new();
        encode::terminate(&mut request);
        Ok(self.stream.write_all(&request).await?)
    }

    /// Sends `request`, empties it, and returns the next message with this tag.
    async fn exchange(&mut self, request: &mut Vec<u8>, tag: u8) -> Result<Vec<u8>> {
        self.stream.write_all(request).await?;
        request.clear();
        loop {
            if let Some(message) = take(&mut self.received, tag)? {
                return Ok(message);
            }
            self.received.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                bail!("the pooler closed the connection");
            }
        }
    }
}

/// Removes whole messages up to the first with this tag, and returns that one.
fn take(received: &mut Vec<u8>, tag: u8) -> Result<Option<Vec<u8>>> {
    let mut at = 0;
    let mut found = None;
    while found.is_none()
        && let Some(frame) = scan::header(&received[at..], MAX_WHOLE_BYTES)?
        && let Some(message) = received.get(at..at + frame.len)
    {
        if frame.tag == backend::ERROR_RESPONSE {
            let fields = view::error_fields(message)?;
            bail!("{} {}: {}", fields.severity, fields.code, fields.message);
        }
        found = (frame.tag == tag).then(|| message.to_vec());
        at += frame.len;
    }
    received.drain(..at);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_up_to_the_one_wanted() {
        let mut received = Vec::new();
        encode::authentication_ok(&mut received);
        encode::ready_for_query(&mut received);
        encode::authentication_ok(&mut received);
        let ready = take(&mut received, backend::READY_FOR_QUERY).unwrap().unwrap();
        assert_eq!(ready[0], backend::READY_FOR_QUERY);
        let last = received.pop().unwrap();
        assert_eq!(take(&mut received, backend::AUTHENTICATION).unwrap(), None);
        received.push(last);
        assert!(take(&mut received, backend::AUTHENTICATION).unwrap().is_some());
        assert!(received.is_empty());
    }

    #[test]
    fn an_error_of_the_pooler_is_an_error() {
        let mut received = Vec::new();
        encode::error_response(&mut received, &encode::ErrorReport::fatal("53300", "no more"));
        let error = take(&mut received, backend::READY_FOR_QUERY).unwrap_err();
        assert!(error.to_string().contains("53300: no more"), "{error}");
    }
}
