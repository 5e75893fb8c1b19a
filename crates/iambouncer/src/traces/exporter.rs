//! The export of records to a collector: batches, attempts and their limits. Owns the task on the control thread; what it
//! cannot deliver is dropped and counted.

use super::destination::CollectorAddress;
use super::protocol::{ExportAnswer, ExportRequest, ResourceSpans, ScopeSpans, TraceResource, TraceScope};
use super::record::TraceRecord;
use super::spans::spans_of;
use crate::net::certificates;
use crate::stats::trace_counters::TraceCounters;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Records in one request.
const MAX_BATCH: usize = 512;
/// Time for which the first record of a batch waits for others.
const BATCH_PERIOD: Duration = Duration::from_secs(1);
/// Time limit for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Attempts for a batch while the collector is unreachable or overloaded …
const MAX_ATTEMPTS: u32 = 3;
/// … with this pause, which doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Time between two log lines about failed exports.
const LOG_PERIOD: Duration = Duration::from_secs(60);

type CollectorClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Why a batch was not delivered.
enum ExportFailure {
    /// Another attempt may succeed.
    Transient(String),
    /// The collector does not accept it.
    Refused(StatusCode),
}

/// The task.
pub(super) struct Exporter {
    records: mpsc::Receiver<TraceRecord>,
    endings: mpsc::Receiver<oneshot::Sender<()>>,
    /// The process ends, and waits for this.
    ending: Option<oneshot::Sender<()>>,
    destination: watch::Receiver<Option<Arc<CollectorAddress>>>,
    counters: Arc<TraceCounters>,
    client: Option<CollectorClient>,
    logged_at: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(
        records: mpsc::Receiver<TraceRecord>,
        endings: mpsc::Receiver<oneshot::Sender<()>>,
        destination: watch::Receiver<Option<Arc<CollectorAddress>>>,
        counters: Arc<TraceCounters>,
    ) -> Self {
        Self { records, endings, ending: None, destination, counters, client: None, logged_at: None }
    }

    /// Exports until the process ends.
    pub(super) async fn run(mut self) {
        loop {
            let batch = self.collect().await;
            if !batch.is_empty() {
                self.export(&batch).await;
                continue;
            }
            if let Some(ending) = self.ending.take() {
                let _ = ending.send(());
            }
            if self.records.is_closed() {
                return;
            }
        }
    }

    /// The next batch. Empty if there is none and the process ends.
    async fn collect(&mut self) -> Vec<TraceRecord> {
        let mut batch = Vec::new();
        let mut period = pin!(None);
        while self.ending.is_none() && batch.len() < MAX_BATCH {
            let room = MAX_BATCH - batch.len();
            let waits = !batch.is_empty();
            if waits && period.is_none() {
                period.set(Some(tokio::time::sleep(BATCH_PERIOD)));
            }
            tokio::select! {
                received = self.records.recv_many(&mut batch, room) => if received == 0 { return batch },
                Some(ending) = self.endings.recv() => self.ending = Some(ending),
                () = async { if let Some(sleep) = period.as_mut().as_pin_mut() { sleep.await } }, if waits => break,
            }
        }
        while batch.len() < MAX_BATCH
            && let Ok(record) = self.records.try_recv()
        {
            batch.push(record);
        }
        batch
    }

    async fn export(&mut self, batch: &[TraceRecord]) {
        let Some(destination) = self.destination.borrow().clone() else {
            return self.counters.count_dropped(batch.len() as u64);
        };
        let body = Bytes::from(request_of(batch, &destination).encode_to_vec());
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=MAX_ATTEMPTS {
            let failure = match self.attempt(&destination, body.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(batch.len() as u64);
                    self.counters.count_exported(batch.len() as u64 - rejected);
                    return self.counters.count_dropped(rejected);
                }
                Err(failure) => failure,
            };
            let is_last = attempt == MAX_ATTEMPTS || self.ending.is_some();
            match failure {
                ExportFailure::Transient(_) if !is_last && self.pauses(pause).await => pause *= 2,
                failure => {
                    self.counters.count_dropped(batch.len() as u64);
                    return self.log(&destination, &failure);
                }
            }
        }
    }

    /// Waits before the next attempt. False if the process ends meanwhile.
    async fn pauses(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            Some(ending) = self.endings.recv() => {
                self.ending = Some(ending);
                false
            }
        }
    }

    /// One attempt. The number of rejected spans if the collector has accepted the others.
    async fn attempt(&mut self, destination: &CollectorAddress, body: Bytes) -> Result<u64, ExportFailure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let built = tokio::task::spawn_blocking(collector_client).await;
                let built = built.unwrap_or_else(|_| Err("stopped".to_owned()));
                self.client.insert(built.map_err(ExportFailure::Transient)?).clone()
            }
        };
        let sent = tokio::time::timeout(REQUEST_LIMIT, send(&client, destination, body)).await;
        sent.unwrap_or_else(|_| Err(ExportFailure::Transient("it did not answer in time".to_owned())))
    }

    /// Texts of the collector are not logged.
    fn log(&mut self, destination: &CollectorAddress, failure: &ExportFailure) {
        let now = Instant::now();
        if self.logged_at.is_some_and(|at| now - at < LOG_PERIOD) {
            return;
        }
        self.logged_at = Some(now);
        match failure {
            ExportFailure::Transient(reason) => {
                tracing::warn!("traces cannot be exported to {destination}: {reason}");
            }
            ExportFailure::Refused(status) => {
                tracing::warn!("traces cannot be exported to {destination}: it answered {status}");
            }
        }
    }
}

fn request_of(batch: &[TraceRecord], destination: &CollectorAddress) -> ExportRequest {
    let scope = TraceScope { name: "iambouncer".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = batch.iter().filter_map(spans_of).flatten().collect();
    let resource = TraceResource { attributes: destination.resource.clone() };
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
        }],
    }
}

async fn send(
    client: &CollectorClient,
    destination: &CollectorAddress,
    body: Bytes,
) -> Result<u64, ExportFailure> {
    let transient = |text: &str| ExportFailure::Transient(text.to_owned());
    let mut request = Request::post(destination.uri.clone())
        .body(Full::new(body))
        .map_err(|_| transient("the request cannot be built"))?;
    *request.headers_mut() = destination.headers.clone();
    let kind = hyper::header::HeaderValue::from_static("application/x-protobuf");
    request.headers_mut().insert(CONTENT_TYPE, kind);
    let answer = client.request(request).await.map_err(|error| transient(&innermost(&error)))?;
    let (head, body) = answer.into_parts();
    match head.status {
        status if status.is_success() => {}
        // Those that the protocol allows to be repeated.
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => return Err(transient(head.status.as_str())),
        status => return Err(ExportFailure::Refused(status)),
    }
    // The spans are accepted, whatever else the answer is.
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map(|body| body.to_bytes());
    let decoded = body.ok().and_then(|body| ExportAnswer::decode(body).ok());
    let rejected = decoded.and_then(|answer| answer.partial_success).map_or(0, |part| part.rejected_spans);
    Ok(rejected.try_into().unwrap_or(0))
}

/// Reads the authorities: those of the host, or those of OpenTelemetry's variable.
fn collector_client() -> Result<CollectorClient, String> {
    let file = std::env::var("OTEL_EXPORTER_OTLP_CERTIFICATE").ok().filter(|file| !file.is_empty());
    let roots = certificates::server_roots(file.as_deref().unwrap_or("system")).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    crate::printable::line(&cause.to_string())
}
