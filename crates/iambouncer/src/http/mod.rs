//! Probes and metrics over HTTP. Owns one server on the control thread: its listeners, its limits, and its paths. It
//! is read-only: nothing here changes the pooler or queries a database.
//!
//! The probes read a few atomics (`health`). A scrape sends every worker one request, which it handles in its next
//! loop iteration, and waits for a bounded time (`scrape`); it takes no lock and reads no clock of a worker.

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

use crate::admin::Console;
use crate::config::{Config, HttpPort};
use crate::net::listener::{self, BoundListener, PortUse};
use crate::net::tcp_options::TcpOptions;
use crate::process::Process;
use crate::worker::workers::Workers;
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

/// Maximum number of concurrent connections. A further one replaces a connection that has sent no request; if all
/// have, it waits in the kernel's queue, which has the same length.
const MAX_CONNECTIONS: usize = 64;
/// Maximum size of a request's head, in bytes; hyper accepts no lower limit.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 64;
/// Time limit for receiving a request.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// Time limit for a connection, including the transfer of the answer. It serves one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(20);
/// Pause after accept(2) failed, which means that files or memory are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Content type of probes and errors.
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Content type of metrics.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpPage {
    Startup,
    Liveness,
    Readiness,
    Metrics,
}

/// All paths.
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

/// Binds `http_addr` and `http_port`. If neither is set and the default port is in use, the pooler runs without:
/// several poolers on one host must not require a setting each.
///
/// # Errors
/// A configured address cannot be bound.
pub fn bind(config: &Config) -> anyhow::Result<Vec<BoundListener>> {
    let settings = &config.settings;
    let port = match settings.http_port {
        HttpPort::Off => return Ok(Vec::new()),
        HttpPort::Auto => 0,
        HttpPort::Number(port) => port,
    };
    let hosts: Vec<String> = crate::config::split_list(&settings.http_addr).map(str::to_owned).collect();
    let is_configured = config.is_given("http_addr") || config.is_given("http_port");
    let options = TcpOptions::default();
    match listener::bind_tcp(&hosts, port, MAX_CONNECTIONS as u32, options, PortUse::Exclusive) {
        Ok(bound) => Ok(bound),
        Err(error) if is_configured => Err(anyhow::Error::new(error).context("no probes and metrics")),
        Err(error) => {
            tracing::warn!(
                "no probes and metrics: {error}; set http_port to another port, to auto, or to 0 for none"
            );
            Ok(Vec::new())
        }
    }
}

/// What all pages are built from.
struct Shared {
    process: Arc<Process>,
    scraper: Scraper,
}

/// Serves on the control thread until its runtime stops.
///
/// # Errors
/// Tokio refuses a socket.
pub fn serve(
    process: &Arc<Process>,
    bound: Vec<BoundListener>,
    consoles: Workers<Console>,
) -> io::Result<()> {
    let control = &process.control;
    let _inside = control.enter();
    let scraper = Scraper::new(consoles, process.clone());
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
                tokio::spawn(serve_connection(stream, shared.clone(), Arc::new(place)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one request.
async fn serve_connection(stream: TcpStream, shared: Arc<Shared>, place: Arc<HttpPlace>) {
    let requesting = place.clone();
    let service = service_fn(move |request| {
        requesting.mark_requested();
        answer(request, shared.clone())
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(MAX_REQUEST_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Counted from the accept, regardless of partial input.
    let silent = async {
        tokio::time::sleep(REQUEST_LIMIT).await;
        if place.has_requested() {
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
        () = place.evicted() => tracing::debug!("HTTP connection closed: evicted by a new connection"),
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
        let text = format!("Not found. Available paths: {}\n", paths.join(" "));
        return Ok(response(StatusCode::NOT_FOUND, PLAIN, text));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut rejection =
            response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Only GET and HEAD are allowed.\n".to_owned());
        rejection.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(rejection);
    }
    let health = &shared.process.health;
    Ok(match page {
        HttpPage::Startup => probe_response(health::startup(health)),
        HttpPage::Liveness => probe_response(health::liveness(health, Instant::now())),
        HttpPage::Readiness => {
            health.request_first_login();
            probe_response(health::readiness(health))
        }
        HttpPage::Metrics => metrics(&shared).await,
    })
}

fn probe_response(health: ProbeResult) -> Response<Full<Bytes>> {
    let status = if health.is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, PLAIN, health.text)
}

async fn metrics(shared: &Shared) -> Response<Full<Bytes>> {
    let figures = shared.scraper.scrape().await;
    // With many pools this is megabytes of text: probes and tokens must not wait for it.
    match tokio::task::spawn_blocking(move || exposition::text(&figures)).await {
        Ok(Ok(text)) => response(StatusCode::OK, OPENMETRICS, text),
        Ok(Err(_)) | Err(_) => {
            response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "cannot encode the metrics\n".to_owned())
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
