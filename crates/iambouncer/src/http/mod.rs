//! Dashboard, API, probes and metrics over HTTP. Owns one server on the control thread: its listeners and the limits of its
//! connections. It is read-only: nothing here changes the pooler or queries a database.
//!
//! The probes read a few atomics (`health`). A scrape sends every worker one request, which it handles in its next
//! loop iteration, and waits for a bounded time (`scrape`); it takes no lock and reads no clock of a worker. The API reads
//! the tables of the console (`api`), in steps that are far shorter than a millisecond each.

mod accept;
mod access;
mod api;
mod body;
mod cardinality;
mod credentials;
mod dashboard;
mod exposition;
mod figures;
mod health;
mod metric;
mod metrics_page;
mod metrics_table;
mod pages;
mod pgbouncer_figures;
mod pgbouncer_part;
mod pgbouncer_table;
mod places;
mod reference;
mod scrape;
mod shared_rounds;
mod stream;
mod worker_answers;
mod worker_part;

pub use metric::{MetricDescription, MetricKind, Unit};
pub use metrics_table::table;
pub use pgbouncer_table::pgbouncer_table;
pub use reference::{api_markdown, metrics_markdown};

use crate::admin::Console;
use crate::config::{Config, HttpPort};
use crate::net::listener::{self, BoundListener, PortUse};
use crate::net::tcp_options::TcpOptions;
use crate::process::Process;
use crate::worker::workers::Workers;
use access::ListenerKind;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pages::Pages;
use places::{HttpPlace, HttpPlaces};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
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
/// Pause after accept(2) failed, which means that files or memory are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
        Err(error) if is_configured => {
            Err(anyhow::Error::new(error).context("no dashboard, probes and metrics"))
        }
        Err(error) => {
            tracing::warn!(
                "no dashboard, probes and metrics: {error}; set http_port to another port, to auto, or to 0 for none"
            );
            Ok(Vec::new())
        }
    }
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
    let pages = Pages::new(process, consoles);
    let places = HttpPlaces::new(MAX_CONNECTIONS);
    for bound in bound {
        let endpoint = bound.endpoint.to_string();
        let listener = TcpListener::from_std(bound.into_std())?;
        tracing::info!("dashboard, probes and metrics on http://{endpoint}");
        let kind = ListenerKind::of(listener.local_addr()?);
        control.spawn(accept(listener, kind, pages.clone(), places.clone()));
    }
    Ok(())
}

async fn accept(listener: TcpListener, kind: ListenerKind, pages: Arc<Pages>, places: Arc<HttpPlaces>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = places.take().await;
                tokio::spawn(serve_connection(stream, kind, pages.clone(), Arc::new(place)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one request.
async fn serve_connection(stream: TcpStream, kind: ListenerKind, pages: Arc<Pages>, place: Arc<HttpPlace>) {
    let of_service = place.clone();
    let service = service_fn(move |request| {
        of_service.mark_requested();
        let (pages, place) = (pages.clone(), of_service.clone());
        async move { Ok::<_, Infallible>(pages.answer(request, kind, place).await) }
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
        () = place.expired() => tracing::debug!("HTTP connection took too long"),
    }
}
