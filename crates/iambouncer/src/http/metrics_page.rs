//! The page of metrics. Owns its query parameter, which selects the names, and the selection of the text format.

use super::accept;
use super::body::{HttpResponse, PLAIN, response, with_header};
use super::exposition::{self, ExpositionFormat};
use super::pgbouncer_figures::PgbouncerScraper;
use super::scrape::Scraper;
use super::{metrics_table, pgbouncer_table};
use crate::admin::Console;
use crate::process::Process;
use crate::worker::workers::Workers;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderValue, VARY};
use hyper::{Request, StatusCode};
use std::sync::Arc;

/// The query parameter.
const FORMAT: &str = "format";

/// What a request can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricsRequest {
    /// The pooler's own metrics, in the format that the client prefers.
    Negotiated,
    /// The same as OpenMetrics.
    OpenMetrics,
    /// Those of pgbouncer_exporter.
    Pgbouncer,
}

/// All values of the parameter.
const REQUESTS: [(&str, MetricsRequest); 3] = [
    ("prometheus", MetricsRequest::Negotiated),
    ("openmetrics", MetricsRequest::OpenMetrics),
    ("pgbouncer", MetricsRequest::Pgbouncer),
];

impl MetricsRequest {
    /// `None` if the value is unknown, or if there are several. Other parameters are ignored.
    fn read(query: Option<&str>) -> Option<Self> {
        let parameters = query.unwrap_or_default().split('&');
        let mut values = parameters
            .map(|text| text.split_once('=').unwrap_or((text, "")))
            .filter(|(name, _)| *name == FORMAT);
        match (values.next(), values.next()) {
            (None, _) => Some(Self::Negotiated),
            (Some((_, value)), None) => {
                REQUESTS.iter().find(|(known, _)| *known == value).map(|(_, request)| *request)
            }
            (Some(_), Some(_)) => None,
        }
    }
}

/// Answers requests for metrics.
pub(super) struct MetricsPage {
    scraper: Arc<Scraper>,
    pgbouncer: PgbouncerScraper,
}

impl MetricsPage {
    pub(super) fn new(scraper: Arc<Scraper>, consoles: Workers<Console>, process: &Arc<Process>) -> Self {
        Self { scraper, pgbouncer: PgbouncerScraper::new(consoles, process.clone()) }
    }

    /// The metrics that the request selects, in the format that the client prefers.
    pub(super) async fn answer(&self, request: &Request<Incoming>) -> HttpResponse {
        let Some(wanted) = MetricsRequest::read(request.uri().query()) else {
            let values = REQUESTS.map(|(value, _)| value).join(" ");
            let text = format!("Unknown {FORMAT}. Available values: {values}\n");
            return response(StatusCode::BAD_REQUEST, PLAIN, text);
        };
        let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|header| header.to_str().ok());
        let format = match wanted {
            MetricsRequest::OpenMetrics => Some(ExpositionFormat::OpenMetrics),
            MetricsRequest::Negotiated | MetricsRequest::Pgbouncer => accept::negotiate(accepted),
        };
        let Some(format) = format else {
            let types = [ExpositionFormat::Prometheus, ExpositionFormat::OpenMetrics]
                .map(ExpositionFormat::content_type);
            let text = format!("Available types:\n{}\n", types.join("\n"));
            return response(StatusCode::NOT_ACCEPTABLE, PLAIN, text);
        };
        // With many pools this is megabytes of text: probes and tokens must not wait for it.
        let encoded = match wanted {
            MetricsRequest::Pgbouncer => {
                let figures = self.pgbouncer.scrape().await;
                tokio::task::spawn_blocking(move || {
                    exposition::text(pgbouncer_table::TABLE, &*figures, format)
                })
                .await
            }
            MetricsRequest::Negotiated | MetricsRequest::OpenMetrics => {
                let figures = self.scraper.scrape().await;
                tokio::task::spawn_blocking(move || exposition::text(metrics_table::TABLE, &*figures, format))
                    .await
            }
        };
        match encoded {
            Ok(text) => {
                let kind = HeaderValue::from_static(format.content_type());
                with_header(response(StatusCode::OK, kind, text), VARY, "accept")
            }
            Err(_) => {
                let text = "cannot encode the metrics\n";
                response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_one_of_the_list() {
        for (query, expected) in [
            (None, Some(MetricsRequest::Negotiated)),
            (Some(""), Some(MetricsRequest::Negotiated)),
            (Some("verbose&x=format"), Some(MetricsRequest::Negotiated)),
            (Some("format=prometheus"), Some(MetricsRequest::Negotiated)),
            (Some("a=b&format=openmetrics"), Some(MetricsRequest::OpenMetrics)),
            (Some("format=pgbouncer&a"), Some(MetricsRequest::Pgbouncer)),
            (Some("format="), None),
            (Some("format"), None),
            (Some("format=json"), None),
            (Some("format=pgbouncer&format=pgbouncer"), None),
        ] {
            assert_eq!(MetricsRequest::read(query), expected, "{query:?}");
        }
    }
}
