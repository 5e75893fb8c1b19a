//! A collector that accepts `POST /v1/traces` and decodes it with the protocol's own crate. Owns a listener and a thread
//! for each connection; the test determines the answers.

use crate::support::{TIMEOUT, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request: its head as text, and the decoded body.
type Received = (String, ExportTraceServiceRequest);

/// A running collector.
pub(super) struct Collector {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

/// A complete answer of HTTP.
pub(super) fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

impl Collector {
    /// It accepts everything.
    pub(super) fn start() -> Self {
        Self::answering(|| Some(answer("200 OK", b"")))
    }

    /// It sends these bytes in answer to each request; `None` leaves the request without an answer.
    pub(super) fn answering(answer: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (sink, answer) = (received.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (sink, answer) = (sink.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &sink, &*answer));
            }
        });
        Self { port, received }
    }

    /// Its address, for `otlp_endpoint`.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.received.lock().unwrap().iter().map(|(_, request)| request.clone()).collect()
    }

    /// Their heads.
    pub(super) fn heads(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().map(|(head, _)| head.clone()).collect()
    }

    /// All spans so far, in the order of their records.
    pub(super) fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// The number of spans with this name.
    pub(super) fn count(&self, name: &str) -> usize {
        self.spans().iter().filter(|span| span.name == name).count()
    }

    /// Waits for this many spans with this name, and returns all.
    pub(super) fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans {name}"), || self.count(name) >= count);
        self.spans()
    }
}

fn serve(
    stream: TcpStream,
    sink: &Mutex<Vec<Received>>,
    answer: &(dyn Fn() -> Option<Vec<u8>> + Send + Sync),
) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let lower = head.to_lowercase();
    assert!(lower.contains("content-type: application/x-protobuf\r\n"), "{head}");
    let length = lower.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body)?;
    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    sink.lock().unwrap().push((head, request));
    match answer() {
        Some(answer) => (&stream).write_all(&answer),
        // Until the pooler gives up.
        None => reader.read(&mut [0]).map(drop),
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

/// A text among attributes.
pub(super) fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    match value(attributes, key)? {
        Value::StringValue(text) => Some(text.clone()),
        other => panic!("{key} is {other:?}"),
    }
}

/// A number among attributes.
pub(super) fn number(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match value(attributes, key)? {
        Value::IntValue(number) => Some(*number),
        other => panic!("{key} is {other:?}"),
    }
}
