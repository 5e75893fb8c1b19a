//! The dashboard with a real Prometheus that scrapes real poolers: each of its queries returns data. promtool accepts
//! metrics and rules; [`super::alerts`] has the alerts.

use super::manifests::deploy_file;
use super::prometheus::{Prometheus, Target, promtool};
use crate::support::bouncer::Start;
use crate::support::http::get;
use crate::support::moto::Moto;
use crate::support::sim::Sim;
use crate::support::{Bouncer, eventually, postgres};
use rds_sim::{Certificates, CredentialSettings};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

pub(super) const AUTO: &str = "http_port = auto";
const PASSWORD: &str = "hush";
/// Days until the certificate of a listener expires.
const DAYS_LEFT: i64 = 10;

pub(super) fn file(name: &str) -> String {
    std::fs::read_to_string(deploy_file("monitoring").join(name)).unwrap()
}

/// A pooler whose logins to the server use IAM tokens, with temporary credentials.
pub(super) fn with_tokens(sim: &Sim, line: &str, container: &[(&str, String)], settings: &[&str]) -> Bouncer {
    let start = sim.keyless(line).set("workers = 2").set(AUTO);
    let start = settings.iter().fold(start, |start, setting| start.set(setting));
    container.iter().fold(start, |start, (key, value)| start.env(key, value)).start()
}

/// The variables for a container's credentials.
pub(super) fn container(sim: &Sim, server: &rds_sim::CredentialServer) -> Vec<(&'static str, String)> {
    let authorization = sim.dir().join("authorization");
    std::fs::write(&authorization, CredentialSettings::default().authorization).unwrap();
    server.container_environment(&authorization)
}

/// Settings of TLS with clients.
pub(super) fn with_certificate<'a>(start: Start<'a>, dir: &Path) -> Start<'a> {
    let certificates = Certificates::generate_until(&["localhost".to_owned()], Some(DAYS_LEFT)).unwrap();
    let files = certificates.for_postgres();
    std::fs::write(dir.join("cert.pem"), &files.certificate_pem).unwrap();
    std::fs::write(dir.join("key.pem"), &files.key_pem).unwrap();
    start
        .set("client_tls_sslmode = allow")
        .set(&format!("client_tls_cert_file = {}", dir.join("cert.pem").display()))
        .set(&format!("client_tls_key_file = {}", dir.join("key.pem").display()))
}

/// All queries of the dashboard, for every job, instance, database and user.
fn queries() -> Vec<String> {
    let board: Value = serde_json::from_str(&file("grafana-dashboard.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let queries = targets.map(|target| {
        let mut text = target["expr"].as_str().unwrap().replace("$__rate_interval", "20s");
        for variable in ["$job", "$instance", "$database", "$user"] {
            text = text.replace(variable, ".*");
        }
        assert!(!text.contains('$'), "{text}");
        text
    });
    queries.collect()
}

/// What `label_values(metric, label)` of the dashboard's variables is made of.
fn variables() -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(&file("grafana-dashboard.json")).unwrap();
    let variables = board["templating"]["list"].as_array().unwrap().iter();
    let texts = variables.filter_map(|variable| variable["query"]["query"].as_str());
    let parts = texts.map(|text| text.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap());
    parts.map(|text| text.split_once(", ").unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
#[ignore = "needs Prometheus: make test-deploy"]
fn promtool_accepts_metrics_and_rules() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    bouncer.client().query("SELECT 1");
    let directory = deploy_file("monitoring");
    for path in ["/metrics", "/metrics?format=pgbouncer"] {
        let answer = get(bouncer.http_port(), path);
        promtool(&["check", "metrics"], &directory, &answer.body);
    }
    promtool(&["check", "rules", "alerts.yaml"], &directory, "");
    promtool(&["test", "rules", "alerts_test.yaml"], &directory, "");
}

#[test]
#[ignore = "needs Prometheus: make test-deploy"]
fn every_query_of_the_dashboard_returns_data() {
    let sim = Sim::in_front_of(postgres());
    let server = sim.credentials(CredentialSettings::default());
    let line = sim.database();
    let tokens = with_tokens(&sim, &line, &container(&sim, &server), &["server_login_retry = 1"]);
    let moto = Moto::start();
    let value = json!({ "engine": "postgres", "username": "app", "password": PASSWORD }).to_string();
    moto.create_secret("app", &value);
    let described = moto.call("DescribeSecret", &json!({ "SecretId": "app" })).unwrap();
    let port = postgres().port();
    let line = format!(
        "app = host=127.0.0.1 port={port} dbname=app secret_arn={}",
        described["ARN"].as_str().unwrap()
    );
    let dir = tempfile::tempdir().unwrap();
    let start = Start::databases(&line).set(AUTO).set("server_tls_sslmode = disable");
    let start = with_certificate(start, dir.path()).set("default_pool_size = 1").set("secret_refresh = 1");
    let secrets =
        moto.environment().into_iter().fold(start, |start, (key, value)| start.env(key, &value)).start();
    let targets = [
        Target::new("tokens", &tokens, "prometheus"),
        Target::new("secrets", &secrets, "openmetrics"),
        Target::new("exporter", &tokens, "pgbouncer"),
    ];
    let prometheus = Prometheus::start(&targets, &file("alerts.yaml"));
    assert_eq!(prometheus.query("pgbouncer_up"), Ok(vec![1.0]));

    let mut left: BTreeSet<String> = queries().into_iter().collect();
    assert!(left.len() > 45, "{}", left.len());
    let limit = std::time::Instant::now() + Duration::from_secs(30);
    while !left.is_empty() {
        assert!(std::time::Instant::now() < limit, "no data for {left:#?}");
        use_poolers(&sim, &tokens, &secrets);
        left.retain(|query| {
            prometheus.query(query).unwrap_or_else(|error| panic!("{query}: {error}")).is_empty()
        });
    }
    for (metric, label) in variables() {
        let values = prometheus.label_values(&metric, &label).unwrap();
        assert!(!values.is_empty(), "{label} of {metric}");
    }
    let failed = prometheus.query("sum(iambouncer_server_login_failures_total)").unwrap();
    assert!(failed[0] > 0.0, "a failed login is among the data");
}

/// Queries, a wait, prepared statements, a login with a token, and one that fails.
fn use_poolers(sim: &Sim, tokens: &Bouncer, secrets: &Bouncer) {
    let mut client = tokens.client();
    client.query("SELECT 1");
    client.query("BEGIN; SELECT 1; COMMIT");
    tokens.console().query("RECONNECT app");
    client.query("SELECT 1");
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    tokens.console().query("RECONNECT app");
    let mut refused = tokens.client();
    refused.send_query("SELECT 1");
    refused.until_end();
    sim.simulator.faults().clear();
    // Discards the remembered failure.
    tokens.console().query("RELOAD");
    let mut holder = secrets.client();
    holder.query("BEGIN");
    let mut waiting = secrets.client();
    waiting.send_query("SELECT 1");
    let mut console = secrets.console();
    eventually("a client waits", || console.pools("cl_waiting") == ["1"]);
    holder.query("COMMIT");
    waiting.until_ready();
}
