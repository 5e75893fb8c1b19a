//! The reference page of all metrics, generated from the table. Adds only what applies to all of them.

use super::cardinality::{MAX_POOLS, OTHER};
use super::metrics_table::{MetricKind, table};
use crate::login_failure::LoginFailure;

/// The text of `docs/metrics.md`.
pub fn metrics_markdown() -> String {
    let mut page = format!(
        "# Metrics\n\n\
         <!-- Generated from the tables in crates/iambouncer/src by `make doc`. Do not edit. -->\n\n\
         `GET /metrics` at `http_addr`:`http_port` (127.0.0.1:9127) answers in OpenMetrics text, which Prometheus and\n\
         most agents read. A scrape asks each worker once and takes no lock that a query needs. Nothing here is a\n\
         secret, but database and user names are shown, so keep the port inside your network.\n\n\
         Labels: `database` and `user` name a pool, as in `SHOW POOLS`. The first {MAX_POOLS} pools have series of their\n\
         own; all later ones are summed as `{OTHER}`. Histograms have bounds from 64 µs to 33.6 s, each twice the one\n\
         before, and the usual `_bucket`, `_sum` and `_count`.\n\n\
         | Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n"
    );
    for metric in table() {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::Info => "info",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            metric.full_name(),
            labels.join(", "),
            metric.help
        ));
    }
    page.push_str(
        "\n## Reasons of failed logins\n\n\
         `reason` of `iambouncer_server_login_failures_total`, with the number that log lines and hints give.\n\n\
         | Reason | Number | What is wrong |\n|---|---|---|\n",
    );
    for cause in LoginFailure::ALL {
        let info = cause.info();
        page.push_str(&format!("| `{}` | {} | {} |\n", info.label, info.id, info.title));
    }
    page
}
