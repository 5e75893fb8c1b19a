//! The paths of the HTTP server. Owns the table of pages and what each answers with.

use super::access::{AccessCheck, AccessError, ListenerKind};
use super::api::{ROOT, TableReader};
use super::body::{HttpResponse, JSON, PLAIN, response, with_header};
use super::dashboard::DashboardFile;
use super::health::{self, ProbeResult};
use super::metrics_page::MetricsPage;
use super::places::HttpPlace;
use super::scrape::Scraper;
use super::stream::Streams;
use crate::admin::Console;
use crate::process::Process;
use crate::worker::workers::Workers;
use hyper::body::Incoming;
use hyper::header::{ALLOW, WWW_AUTHENTICATE};
use hyper::{Method, Request, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpPage {
    Startup,
    Liveness,
    Readiness,
    Metrics,
    Dashboard(DashboardFile),
    Stream,
    /// The list of tables, and the tables below it.
    Api,
}

impl HttpPage {
    /// True if the page has names of clients, identities and settings.
    fn is_protected(self) -> bool {
        match self {
            Self::Startup | Self::Liveness | Self::Readiness | Self::Metrics => false,
            Self::Dashboard(_) | Self::Stream | Self::Api => true,
        }
    }
}

/// All paths; that of the API includes those below it.
const PAGES: [(&str, HttpPage); 14] = [
    ("/startup", HttpPage::Startup),
    ("/startupz", HttpPage::Startup),
    ("/liveness", HttpPage::Liveness),
    ("/livez", HttpPage::Liveness),
    ("/healthz", HttpPage::Liveness),
    ("/readiness", HttpPage::Readiness),
    ("/readyz", HttpPage::Readiness),
    ("/metrics", HttpPage::Metrics),
    ("/", HttpPage::Dashboard(DashboardFile::Page)),
    ("/dashboard.js", HttpPage::Dashboard(DashboardFile::Script)),
    ("/dashboard.css", HttpPage::Dashboard(DashboardFile::Style)),
    ("/dashboard.svg", HttpPage::Dashboard(DashboardFile::Icon)),
    ("/api/v1/stream", HttpPage::Stream),
    (ROOT, HttpPage::Api),
];

fn find(path: &str) -> Option<HttpPage> {
    let is_below_api = path.strip_prefix(ROOT).is_some_and(|rest| rest.starts_with('/'));
    let known = PAGES.iter().find(|(known, _)| *known == path).map(|(_, page)| *page);
    known.or_else(|| is_below_api.then_some(HttpPage::Api))
}

/// What all pages are built from.
pub(super) struct Pages {
    process: Arc<Process>,
    metrics: MetricsPage,
    access: AccessCheck,
    tables: TableReader,
    streams: Arc<Streams>,
}

impl Pages {
    /// The pages of these workers. Called on the control thread.
    pub(super) fn new(process: &Arc<Process>, consoles: Workers<Console>) -> Arc<Self> {
        let scraper = Arc::new(Scraper::new(consoles.clone(), process.clone()));
        let tables = TableReader::new(consoles.clone());
        Arc::new(Self {
            process: process.clone(),
            metrics: MetricsPage::new(scraper, consoles.clone(), process),
            access: AccessCheck::new(consoles),
            streams: Streams::new(tables.clone()),
            tables,
        })
    }

    /// Answers a request that arrived at a listener of this kind.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        listener: ListenerKind,
        place: Arc<HttpPlace>,
    ) -> HttpResponse {
        let uri = request.uri();
        let Some(page) = find(uri.path()) else {
            let paths: Vec<&str> = PAGES.iter().map(|(path, _)| *path).collect();
            let text = format!("Not found. Available paths: {}\n", paths.join(" "));
            return response(StatusCode::NOT_FOUND, PLAIN, text);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let rejection =
                response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "Only GET and HEAD are allowed.\n");
            return with_header(rejection, ALLOW, "GET, HEAD");
        }
        if page.is_protected()
            && let Err(error) = self.access.check(listener, request.headers()).await
        {
            return rejection(error);
        }
        let health = &self.process.health;
        match page {
            HttpPage::Startup => probe_response(health::startup(health)),
            HttpPage::Liveness => probe_response(health::liveness(health, Instant::now())),
            HttpPage::Readiness => {
                health.request_first_login();
                probe_response(health::readiness(health))
            }
            HttpPage::Metrics => self.metrics.answer(&request).await,
            HttpPage::Dashboard(file) => file.respond(),
            // hyper sends no body for HEAD, so nothing would end the stream.
            HttpPage::Stream if *request.method() == Method::HEAD => response(StatusCode::OK, JSON, ""),
            HttpPage::Stream => self.streams.open(place),
            HttpPage::Api => {
                let below = uri.path().strip_prefix(ROOT).unwrap_or_default();
                self.tables.answer(below, uri.query()).await
            }
        }
    }
}

fn probe_response(health: ProbeResult) -> HttpResponse {
    let status = if health.is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, PLAIN, health.text)
}

fn rejection(error: AccessError) -> HttpResponse {
    match error {
        AccessError::Unauthorized => {
            let text = "A password of a user in stats_users or admin_users, or the token of http_token_file, is required.\n";
            let refusal = response(StatusCode::UNAUTHORIZED, PLAIN, text);
            with_header(refusal, WWW_AUTHENTICATE, "Basic realm=\"iambouncer\", charset=\"UTF-8\"")
        }
        AccessError::Forbidden(reason) => response(StatusCode::FORBIDDEN, PLAIN, format!("{reason}\n")),
        AccessError::Unavailable => response(
            StatusCode::SERVICE_UNAVAILABLE,
            PLAIN,
            "The first worker does not answer, or too many passwords are being verified.\n",
        ),
    }
}
