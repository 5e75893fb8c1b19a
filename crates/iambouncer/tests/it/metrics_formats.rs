//! The text formats of metrics and their negotiation, and the metrics of pgbouncer_exporter next to the console.

use crate::support::http::{Scrape, get, get_as, parse, request};
use crate::support::{Bouncer, Client, Workers, eventually, postgres};
use std::collections::{BTreeMap, BTreeSet};

const AUTO: &str = "http_port = auto";
/// What Prometheus 2.42 sends.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// The metrics of pgbouncer_exporter 0.12.1 without those of its own process, from its sources: without the prefix
/// `pgbouncer_`, in groups with the same labels.
const OF_EXPORTER: [(&str, &str, &str); 6] = [
    (
        "",
        "up databases users pools free_clients used_clients login_clients free_servers used_servers cached_dns_names \
         cached_dns_zones in_flight_dns_queries config_max_client_connections config_max_user_connections",
        "",
    ),
    ("", "version_info", "version"),
    ("", "client_connections", "database user application_name state"),
    (
        "databases_",
        "pool_size reserve_pool max_connections current_connections paused disabled",
        "name host port database force_user pool_mode",
    ),
    (
        "pools_",
        "client_active_connections client_active_cancel_connections client_waiting_connections \
         client_waiting_cancel_connections server_active_connections server_active_cancel_connections \
         server_being_canceled_connections server_idle_connections server_used_connections server_testing_connections \
         server_login_connections client_maxwait_seconds",
        "database user",
    ),
    (
        "stats_totals_",
        "queries_pooled_total queries_duration_seconds_total received_bytes_total sent_bytes_total \
         client_wait_seconds_total sql_transactions_pooled_total server_in_transaction_seconds_total \
         client_parses_total server_parses_total binds_total server_assignments_total",
        "database",
    ),
];

#[test]
fn metrics_are_in_the_format_that_the_client_prefers() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    bouncer.client().query("SELECT 1");
    let openmetrics = parse(&get_as(port, "/metrics", PROMETHEUS));
    assert!(openmetrics.text.ends_with("# EOF\n"));
    let older = parse(&get(port, "/metrics"));
    assert!(!older.text.contains("# UNIT") && !older.text.contains("# EOF"));
    let series = |scrape: &Scrape| scrape.values.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(series(&openmetrics), series(&older));
    assert_eq!(older.kinds["iambouncer_build_info"], "gauge");
    assert_eq!(older.kinds["iambouncer_queries_total"], "counter");
    assert_eq!(openmetrics.kinds["iambouncer_build"], "info");
    assert_eq!(openmetrics.kinds["iambouncer_queries"], "counter");
    let is_openmetrics = |accept: &str| parse(&get_as(port, "/metrics", accept)).text.ends_with("# EOF\n");
    assert!(is_openmetrics("text/plain;q=0.1, application/openmetrics-text;q=0.2"));
    assert!(!is_openmetrics("application/openmetrics-text;q=0.2, text/plain;q=0.3"));
    assert!(!is_openmetrics("application/openmetrics-text;q=0, */*"));
    assert_eq!(get_as(port, "/metrics", "text/plain;q=0").status, 406);
}

#[test]
fn the_format_parameter_selects_names_and_an_unknown_one_is_an_error() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    assert!(parse(&get(port, "/metrics?format=openmetrics")).text.ends_with("# EOF\n"));
    assert!(!parse(&get(port, "/metrics?format=prometheus")).text.ends_with("# EOF\n"));
    assert!(parse(&get_as(port, "/metrics?format=prometheus", PROMETHEUS)).text.ends_with("# EOF\n"));
    let of_exporter = parse(&get_as(port, "/metrics?format=pgbouncer", PROMETHEUS));
    assert_eq!(of_exporter.kinds["pgbouncer_version"], "info");
    assert!(of_exporter.kinds.keys().all(|name| name.starts_with("pgbouncer_")));
    let unknown = get(port, "/metrics?format=json");
    assert_eq!(unknown.status, 400);
    assert_eq!(unknown.body, "Unknown format. Available values: prometheus openmetrics pgbouncer\n");
    let head = request(port, "HEAD", "/metrics?format=pgbouncer");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

/// The rows of a SHOW command, each with its values by column.
fn rows(console: &mut Client, what: &str) -> Vec<BTreeMap<String, String>> {
    let messages = console.query(&format!("SHOW {what}"));
    let headers = messages.iter().find(|message| message.tag == b'T').expect("a result").headers();
    let rows = messages.iter().filter(|message| message.tag == b'D');
    let row = |values: Vec<Option<String>>| {
        headers
            .iter()
            .map(|(name, _)| name.clone())
            .zip(values.into_iter().map(Option::unwrap_or_default))
            .collect()
    };
    rows.map(|message| row(message.row())).collect()
}

/// Compares a metric with a column of a SHOW command, for each of its rows.
#[track_caller]
fn compare(
    shown: &Scrape,
    metric: &str,
    rows: &[BTreeMap<String, String>],
    column: &str,
    labels: &[&str],
    factor: f64,
) {
    let metric = format!("pgbouncer_{metric}");
    for row in rows {
        let labels: Vec<(&str, &str)> = labels.iter().map(|label| (*label, row[*label].as_str())).collect();
        let expected = row[column].parse::<f64>().unwrap() * factor;
        let value = shown.sum(&metric, &labels).unwrap_or_else(|| panic!("{metric}{labels:?}"));
        assert!((value - expected).abs() < 1e-9, "{metric}{labels:?}: {value}, not {expected}");
    }
}

#[test]
fn the_metrics_of_pgbouncer_exporter_are_the_values_of_the_console() {
    let line = "app = host=127.0.0.1 port={port} dbname=app\nother = host=127.0.0.1 port={port} dbname=app user=app \
                password=secret pool_size=3 pool_mode=session max_db_connections=7";
    let line = line.replace("{port}", &postgres().port().to_string());
    let settings = [AUTO, "default_pool_size = 1", "reserve_pool_size = 0", "max_client_conn = 321"];
    let workers = Workers::with_databases(postgres(), "exported", 2, &line, &settings);
    let (port, bouncer) = (workers.bouncer.http_port(), &workers.bouncer);
    let user = workers.user.as_str();
    let log_in = |name: &str| {
        let parameters = [("user", user), ("database", "app"), ("application_name", name)];
        Client::log_in_with(bouncer.port, &parameters)
    };
    let mut holder = log_in("holder");
    holder.query("BEGIN");
    holder.query("SELECT pg_sleep(0.01)");
    let _idle = [log_in("idle \"one\""), log_in("idle \"one\"")];
    let mut waiting = log_in("waiting");
    waiting.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("a client waits", || console.pools("cl_waiting").contains(&"1".to_owned()));
    console.query("PAUSE other");
    console.query("DISABLE other");

    let shown = parse(&get(port, "/metrics?format=pgbouncer"));
    let names: BTreeSet<String> = OF_EXPORTER
        .iter()
        .flat_map(|(prefix, names, _)| {
            names.split_whitespace().map(move |name| format!("pgbouncer_{prefix}{name}"))
        })
        .collect();
    assert_eq!(shown.kinds.keys().cloned().collect::<BTreeSet<_>>(), names);
    for (prefix, names, labels) in OF_EXPORTER {
        let labels: Vec<&str> = labels.split_whitespace().collect();
        for name in names.split_whitespace() {
            let name = format!("pgbouncer_{prefix}{name}");
            let of_name = |series: &&String| series.split('{').next() == Some(name.as_str());
            let all: Vec<&String> = shown.values.keys().filter(of_name).collect();
            assert!(!all.is_empty(), "{name}");
            for series in all {
                let found: Vec<&str> =
                    series.split("=\"").filter_map(|part| part.rsplit(['{', ',']).next()).collect();
                assert_eq!(found[..found.len() - 1], labels, "{series}");
            }
        }
    }

    let lists: BTreeMap<String, String> = rows(&mut console, "LISTS")
        .into_iter()
        .map(|row| (row["list"].clone(), row["items"].clone()))
        .collect();
    for (metric, list) in [
        ("databases", "databases"),
        ("users", "users"),
        ("pools", "pools"),
        ("free_clients", "free_clients"),
        ("used_clients", "used_clients"),
        ("login_clients", "login_clients"),
        ("free_servers", "free_servers"),
        ("used_servers", "used_servers"),
        ("cached_dns_names", "dns_names"),
        ("cached_dns_zones", "dns_zones"),
        ("in_flight_dns_queries", "dns_queries"),
    ] {
        let expected = lists[list].parse().ok();
        assert_eq!(shown.sum(&format!("pgbouncer_{metric}"), &[]), expected, "{metric}");
    }
    assert_eq!(shown.sum("pgbouncer_up", &[]), Some(1.0));
    assert_eq!(shown.sum("pgbouncer_config_max_client_connections", &[]), Some(321.0));
    let version = console.value("SHOW VERSION");
    assert_eq!(shown.sum("pgbouncer_version_info", &[("version", &version)]), Some(1.0));
    compare_tables(&shown, &mut console);

    let clients = [("holder", "active", 1.0), ("idle \\\"one\\\"", "idle", 2.0), ("waiting", "waiting", 1.0)];
    for (name, state, count) in clients {
        let labels = [("database", "app"), ("user", user), ("application_name", name), ("state", state)];
        assert_eq!(shown.sum("pgbouncer_client_connections", &labels), Some(count), "{name}");
    }
    assert_eq!(shown.sum("pgbouncer_client_connections", &[("database", "pgbouncer")]), Some(1.0));
}

fn compare_tables(shown: &Scrape, console: &mut Client) {
    let databases = rows(console, "DATABASES");
    assert_eq!(databases.len(), 3);
    let labels = ["name", "host", "port", "database", "force_user", "pool_mode"];
    for (metric, column) in [
        ("pool_size", "pool_size"),
        ("reserve_pool", "reserve_pool_size"),
        ("max_connections", "max_connections"),
        ("current_connections", "current_connections"),
        ("paused", "paused"),
        ("disabled", "disabled"),
    ] {
        compare(shown, &format!("databases_{metric}"), &databases, column, &labels, 1.0);
    }
    let other = [("name", "other"), ("pool_mode", "session"), ("force_user", "app")];
    assert_eq!(shown.sum("pgbouncer_databases_paused", &other), Some(1.0));
    assert_eq!(shown.sum("pgbouncer_databases_disabled", &other), Some(1.0));
    let pools = rows(console, "POOLS");
    for (metric, column) in [
        ("client_active_connections", "cl_active"),
        ("client_active_cancel_connections", "cl_active_cancel_req"),
        ("client_waiting_connections", "cl_waiting"),
        ("client_waiting_cancel_connections", "cl_waiting_cancel_req"),
        ("server_active_connections", "sv_active"),
        ("server_active_cancel_connections", "sv_active_cancel"),
        ("server_being_canceled_connections", "sv_being_canceled"),
        ("server_idle_connections", "sv_idle"),
        ("server_used_connections", "sv_used"),
        ("server_testing_connections", "sv_tested"),
        ("server_login_connections", "sv_login"),
    ] {
        compare(shown, &format!("pools_{metric}"), &pools, column, &["database", "user"], 1.0);
    }
    // The console itself is in use, so its counters have increased.
    let mut totals = rows(console, "STATS_TOTALS");
    totals.retain(|row| row["database"] != "pgbouncer");
    for (metric, column, factor) in [
        ("queries_pooled_total", "query_count", 1.0),
        ("queries_duration_seconds_total", "query_time", 1e-6),
        ("received_bytes_total", "bytes_received", 1.0),
        ("sent_bytes_total", "bytes_sent", 1.0),
        ("client_wait_seconds_total", "wait_time", 1e-6),
        ("sql_transactions_pooled_total", "xact_count", 1.0),
        ("server_in_transaction_seconds_total", "xact_time", 1e-6),
        ("client_parses_total", "client_parse_count", 1.0),
        ("server_parses_total", "server_parse_count", 1.0),
        ("binds_total", "bind_count", 1.0),
        ("server_assignments_total", "server_assignment_count", 1.0),
    ] {
        compare(shown, &format!("stats_totals_{metric}"), &totals, column, &["database"], factor);
    }
    let queries = shown.sum("pgbouncer_stats_totals_queries_duration_seconds_total", &[("database", "app")]);
    assert!(queries > Some(0.01), "{queries:?}");
}

#[test]
fn series_of_clients_are_limited_and_none_is_lost() {
    const CLIENTS: usize = 520;
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO, "workers = 2", "max_client_conn = 1000"]);
    let _clients: Vec<Client> = (0..CLIENTS)
        .map(|i| {
            let name = format!("application {i}");
            let parameters = [("user", "app"), ("database", "app"), ("application_name", name.as_str())];
            Client::log_in_with(bouncer.port, &parameters)
        })
        .collect();
    let shown = parse(&get(bouncer.http_port(), "/metrics?format=pgbouncer"));
    let name = "pgbouncer_client_connections";
    let series = shown.values.keys().filter(|series| series.starts_with(name)).count();
    assert_eq!((series, shown.sum(name, &[])), (501, Some(CLIENTS as f64)));
    assert_eq!(shown.sum(name, &[("application_name", "_other"), ("state", "idle")]), Some(20.0));
}
