//! Probes and metrics over HTTP. Owns one server on the control thread: what it listens on, its limits, and which path
//! is which page. It only reads: there is nothing here that changes the pooler, and nothing that asks a database.
//!
//! The probes look at a few atomics (`health`). A scrape asks every worker once, at its next turn, and waits no longer
//! than a moment (`scrape`); no lock and no clock of a worker is touched.

mod cardinality;
mod exposition;
mod figures;
mod health;
mod metrics_table;
mod places;
mod reference;
mod scrape;

pub use metrics_table::{Metric, MetricKind, table};
pub use reference::metrics_markdown;

use crate::config::{Config, HttpPort};
use crate::net::listener::{self, BoundListener};
use crate::net::tcp_options::TcpOptions;
use crate::process::Process;
use crate::worker::workers::WorkerHandles;
use health::ProbeResult;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use places::{HttpPlace, HttpPlaces};
use scrape::Scraper;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// Connections served at a time. One more takes the place of one that has asked nothing; if all have asked, it waits in
/// the kernel's queue, which is as long.
const MAX_CONNECTIONS: usize = 64;
/// Bytes a request may have before its end is seen; hyper takes no less.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Headers a request may have.
const MAX_HEADERS: usize = 64;
/// How long a client may take for its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// How long a connection may last, the reading of the answer included. It serves one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(20);
/// Pause after accept(2) failed, which means that files or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What the text of probes and errors is.
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// What the text of metrics is.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What there is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpPage {
    Startup,
    Liveness,
    Readiness,
    Metrics,
}

/// Every path.
const PAGES: [(&str, HttpPage); 8] = [
    ("/startup", HttpPage::Startup),
    ("/startupz", HttpPage::Startup),
    ("/liveness", HttpPage::Liveness),
    ("/livez", HttpPage::Liveness),
    ("/healthz", HttpPage::Liveness),
    ("/readiness", HttpPage::Readiness),
    ("/readyz", HttpPage::Readiness),
    ("/metrics", HttpPage::Metrics),
];

/// Binds what `http_addr` and `http_port` say. If neither was set and the default port is taken, the pooler goes without:
/// several of them on one host must not need a setting each.
///
/// # Errors
/// An address that was asked for cannot be had.
pub fn bind(config: &Config) -> anyhow::Result<Vec<BoundListener>> {
    let settings = &config.settings;
    let port = match settings.http_port {
        HttpPort::Off => return Ok(Vec::new()),
        HttpPort::Auto => 0,
        HttpPort::Number(port) => port,
    };
    let hosts: Vec<String> = crate::config::split_list(&settings.http_addr).map(str::to_owned).collect();
    let is_asked_for =
        config.origins.iter().any(|origin| matches!(origin.key.as_str(), "http_addr" | "http_port"));
    match listener::bind_tcp(&hosts, port, MAX_CONNECTIONS as u32, TcpOptions::default()) {
        Ok(bound) => Ok(bound),
        Err(error) if is_asked_for => Err(anyhow::Error::new(error).context("no probes and metrics")),
        Err(error) => {
            tracing::warn!(
                "no probes and metrics: {error}; set http_port to another port, to auto, or to 0 for none"
            );
            Ok(Vec::new())
        }
    }
}

/// What all pages are made from.
struct Shared {
    process: Arc<Process>,
    scraper: Scraper,
}

/// Serves on the control thread, for as long as that runs.
///
/// # Errors
/// tokio refuses a socket.
pub fn serve(process: &Arc<Process>, bound: Vec<BoundListener>, workers: WorkerHandles) -> io::Result<()> {
    let control = &process.control;
    let _inside = control.enter();
    let scraper = Scraper::new(workers, process.clone());
    let shared = Arc::new(Shared { process: process.clone(), scraper });
    let places = HttpPlaces::new(MAX_CONNECTIONS);
    for bound in bound {
        let endpoint = bound.endpoint.to_string();
        let listener = TcpListener::from_std(bound.into_std())?;
        tracing::info!("probes and metrics on http://{endpoint}");
        control.spawn(accept(listener, shared.clone(), places.clone()));
    }
    Ok(())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, places: Arc<HttpPlaces>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = places.take().await;
                tokio::spawn(converse(stream, shared.clone(), Arc::new(place)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, shared: Arc<Shared>, place: Arc<HttpPlace>) {
    let asking = place.clone();
    let service = service_fn(move |request| {
        asking.ask();
        answer(request, shared.clone())
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(MAX_REQUEST_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Counted from the accept on, whatever bytes trickle in.
    let silent = async {
        tokio::time::sleep(REQUEST_LIMIT).await;
        if place.has_asked() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "HTTP connection ended");
            }
        }
        () = silent => tracing::debug!("HTTP connection closed: no request in time"),
        () = place.is_wanted() => tracing::debug!("HTTP connection closed: its place is wanted"),
        () = tokio::time::sleep(CONNECTION_LIMIT) => tracing::debug!("HTTP connection took too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let Some((_, page)) = PAGES.iter().find(|(known, _)| *known == path) else {
        let paths: Vec<&str> = PAGES.iter().map(|(path, _)| *path).collect();
        let text = format!("Nothing here. There are: {}\n", paths.join(" "));
        return Ok(response(StatusCode::NOT_FOUND, PLAIN, text));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Only GET and HEAD.\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    let health = &shared.process.health;
    Ok(match page {
        HttpPage::Startup => told(health::startup(health)),
        HttpPage::Liveness => told(health::liveness(health, Instant::now())),
        HttpPage::Readiness => told(health::readiness(health)),
        HttpPage::Metrics => metrics(&shared).await,
    })
}

fn told(health: ProbeResult) -> Response<Full<Bytes>> {
    let status = if health.is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, PLAIN, health.text)
}

async fn metrics(shared: &Shared) -> Response<Full<Bytes>> {
    let figures = shared.scraper.scrape().await;
    // Some megabytes of text, with many pools: probes and tokens must not wait for that.
    match tokio::task::spawn_blocking(move || exposition::text(&figures)).await {
        Ok(Ok(text)) => response(StatusCode::OK, OPENMETRICS, text),
        Ok(Err(_)) | Err(_) => {
            response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "cannot write the metrics\n".to_owned())
        }
    }
}

fn response(status: StatusCode, kind: HeaderValue, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
