//! The reference pages of the metrics and of the API, generated from the tables. Adds only what applies to all of them.

use super::api::{DEFAULT_ROWS, MAX_ROWS, ROOT};
use super::metric::MetricDescription;
use super::metrics_table::table;
use super::pgbouncer_figures::MAX_CLIENT_SERIES;
use super::pgbouncer_table::pgbouncer_table;
use super::stream::{MAX_STREAMS, TABLES};
use crate::admin::TableName;
use crate::events::{KINDS, MAX_EVENTS};
use crate::login_failure::LoginFailure;
use crate::stats::snapshot::{MAX_NAMED_POOLS, OTHER};
use wire::encode::ColumnType;

/// The text of `docs/metrics.md`.
pub fn metrics_markdown() -> String {
    let mut page = format!(
        "# Metrics\n\n\
         <!-- Generated from the tables in crates/iambouncer/src by `make doc`. Do not edit. -->\n\n\
         `GET /metrics` at `http_addr`:`http_port` (127.0.0.1:9127) answers in Prometheus' text format 0.0.4, or in\n\
         OpenMetrics 1.0.0 if the Accept header of the request prefers it, as that of Prometheus does. A scrape asks each\n\
         worker once and takes no lock that a query needs. Nothing here is a secret, but names of databases and users are\n\
         shown, so keep the port inside your network.\n\n\
         | Path | Names | Format |\n|---|---|---|\n\
         | `/metrics`, `/metrics?format=prometheus` | those in this table | as negotiated |\n\
         | `/metrics?format=openmetrics` | the same | OpenMetrics |\n\
         | `/metrics?format=pgbouncer` | [those of pgbouncer_exporter](#metrics-of-pgbouncer_exporter) | as negotiated |\n\n\
         A dashboard and alert rules are in [deploy/monitoring](../deploy/monitoring/README.md).\n\n\
         Labels: `database` and `user` name a pool, as in `SHOW POOLS`. The first {MAX_NAMED_POOLS} pools have series of their\n\
         own; all later ones are summed as `{OTHER}`. Histograms have bounds from 64 µs to 33.6 s, each twice the one\n\
         before, and the usual `_bucket`, `_sum` and `_count`.\n\n\
         | Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n"
    );
    rows(&mut page, table());
    page.push_str(
        "\n## Reasons of failed logins\n\n\
         `reason` of `iambouncer_server_login_failures_total`, with the number that log lines and hints give.\n\n\
         | Reason | Number | What is wrong |\n|---|---|---|\n",
    );
    for cause in LoginFailure::ALL {
        let info = cause.info();
        page.push_str(&format!("| `{}` | {} | {} |\n", info.label, info.id, info.title));
    }
    page.push_str(&format!(
        "\n## Metrics of pgbouncer_exporter\n\n\
         `/metrics?format=pgbouncer` has the names, labels and values of prometheus-community's pgbouncer_exporter 0.12, so\n\
         that dashboards and alerts made for it (for Grafana: 14022) work without that program. Values are those of the\n\
         console: `SHOW LISTS`, `CONFIG`, `CLIENTS`, `DATABASES`, `STATS_TOTALS`, `POOLS` and `VERSION`. There is no\n\
         `pgbouncer_stats_totals_queries_total`, which the exporter has for PgBouncer before 1.8 only. Databases and pools are\n\
         limited as above, and `pgbouncer_client_connections` to the {MAX_CLIENT_SERIES} series with the most\n\
         clients; the rest is summed.\n\n\
         | Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n"
    ));
    rows(&mut page, pgbouncer_table());
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
         | `{ROOT}/stream` | server-sent events `update`, one per second, with the tables {} and `sums` over all of their rows; `trouble` if a worker does not \
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

/// The rows of a table of metrics.
fn rows(page: &mut String, table: impl Iterator<Item = &'static MetricDescription>) {
    for metric in table {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            metric.full_name(),
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        ));
    }
}
