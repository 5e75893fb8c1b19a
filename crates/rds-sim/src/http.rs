//! A small HTTP server for the simulator's endpoints.
//!
//! Owns: sockets, size limits and the types of request and reply. Never: interprets paths.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Maximum length of a body, in bytes. A token of maximum length fits.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// A completely received request.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    /// The query string as received, for signature verification.
    pub(crate) raw_query: String,
    headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) header: Option<(&'static str, String)>,
    /// The `Date` header, from the simulator's clock.
    pub(crate) date: Option<String>,
    pub(crate) body: String,
    pub(crate) delay: Duration,
}

pub(crate) type Handler = Arc<dyn Fn(&HttpRequest) -> Reply + Send + Sync>;

/// A listening server; dropping it closes it.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl HttpRequest {
    /// The value of a header, or an empty string.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The body, parsed as a form.
    pub(crate) fn form(&self) -> HashMap<String, String> {
        parse_form(&String::from_utf8_lossy(&self.body))
    }
}

impl Reply {
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain",
            header: None,
            date: None,
            body: body.into(),
            delay: Duration::ZERO,
        }
    }

    pub(crate) fn json(body: impl Into<String>) -> Self {
        Self { content_type: "application/json", ..Self::text(200, body) }
    }

    pub(crate) fn xml(status: u16, body: impl Into<String>) -> Self {
        Self { content_type: "text/xml", ..Self::text(status, body) }
    }
}

impl HttpServer {
    pub(crate) async fn start(listen: SocketAddr, handler: Handler) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_finished) = connections.join_next() => {}
                    accepted = listener.accept() => if let Ok((stream, _peer)) = accepted {
                        connections.spawn(serve(stream, Arc::clone(&handler)));
                    },
                }
            }
        });
        Ok(Self { address, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, handler: Handler) {
    let service = service_fn(move |request| answer(request, Arc::clone(&handler)));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "HTTP connection closed");
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    handler: Handler,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let reply = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Err(_too_long) => Reply::text(413, "body too long"),
        Ok(body) => {
            let request = HttpRequest {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                query: parse_form(head.uri.query().unwrap_or("")),
                raw_query: head.uri.query().unwrap_or("").to_owned(),
                headers: head.headers,
                body: body.to_bytes(),
            };
            handler(&request)
        }
    };
    tokio::time::sleep(reply.delay).await;
    let mut response =
        hyper::Response::builder().status(reply.status).header("content-type", reply.content_type);
    if let Some(date) = reply.date {
        response = response.header("date", date);
    }
    if let Some((name, value)) = reply.header {
        response = response.header(name, value);
    }
    let body = Full::new(Bytes::from(reply.body));
    Ok(response.body(body).unwrap_or_else(|_| hyper::Response::new(Full::new(Bytes::new()))))
}

fn parse_form(text: &str) -> HashMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (form_decode(name), form_decode(value)))
        .collect()
}

fn form_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = |digit: u8| char::from(digit).to_digit(16);
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push((hex(*high).unwrap_or(0) * 16 + hex(*low).unwrap_or(0)) as u8);
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
