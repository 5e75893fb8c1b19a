//! The reference pages of the metrics and of the API, generated from the tables. Adds only what applies to all of them.

use super::api::{DEFAULT_ROWS, MAX_ROWS, ROOT};
use super::cardinality::{MAX_POOLS, OTHER};
use super::metrics_table::{MetricKind, table};
use super::stream::{MAX_STREAMS, TABLES};
use crate::admin::TableName;
use crate::events::{KINDS, MAX_EVENTS};
use crate::login_failure::LoginFailure;
use wire::encode::ColumnType;

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

/// The text of `docs/api.md`.
pub fn api_markdown() -> String {
    let mut page = format!(
        "# API\n\n\
         <!-- Generated from the tables in crates/iambouncer/src by `make doc`. Do not edit. -->\n\n\
         The tables of the [console](console.md) as JSON, at `http_addr`:`http_port` (127.0.0.1:9127), for the\n\
         [dashboard](dashboard.md) and for your own programs. It is read-only. Who may use it is described in\n\
         [dashboard.md](dashboard.md#access).\n\n\
         | Path | Answer |\n|---|---|\n\
         | `{ROOT}` | the list of tables with their columns |\n\
         | `{ROOT}/TABLE` | `total`, the number of rows, and `rows`, an object for each of the first {DEFAULT_ROWS}; \
         `?limit=N` shows up to {MAX_ROWS} |\n\
         | `{ROOT}/stream` | server-sent events `update`, one per second, with the tables {}; `trouble` if a worker does not \
         answer. At most {MAX_STREAMS} at a time |\n\n\
         An error has a status other than 200 and an object with `error`. Names and meanings of the columns are those of the\n\
         console; numbers are numbers, NULL is `null`, times are texts in UTC. New columns may be added; existing ones\n\
         keep their names.\n\n\
         ## Tables\n\n",
        TABLES.map(|name| format!("`{name}`")).join(", ")
    );
    for table in TableName::all() {
        let columns: Vec<String> = table
            .columns()
            .iter()
            .map(|(name, kind)| match kind {
                ColumnType::Text => format!("`{name}`"),
                ColumnType::Int4 | ColumnType::Int8 | ColumnType::Numeric => format!("`{name}` (number)"),
            })
            .collect();
        page.push_str(&format!(
            "### {}\n\n`{ROOT}/{0}`, {}: {}\n\n{}\n\n",
            table.name(),
            table.words(),
            table.help(),
            columns.join(", ")
        ));
    }
    page.push_str(&format!(
        "## Events\n\nThe last {MAX_EVENTS} events. Repetitions are counted. Each is also a log line, which has the name in its \
         field `event`\nwith `log_format = json`.\n\n| `event` | What has happened |\n|---|---|\n"
    ));
    for kind in KINDS {
        page.push_str(&format!("| `{}` | {} |\n", kind.name, kind.meaning));
    }
    page
}
