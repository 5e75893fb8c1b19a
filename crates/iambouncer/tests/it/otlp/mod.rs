//! Traces over OTLP, read by a collector that decodes them with the protocol's own crate: what a trace contains, which
//! transactions are exported, and what a collector in trouble changes.

mod collector;
mod sampling;
mod trouble;

use crate::support::bouncer::Start;
use crate::support::raw::{self, Client, query, tags};
use crate::support::sim::Sim;
use crate::support::{Bouncer, eventually, postgres};
use collector::{Collector, number, text};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN_ID: &str = "b7ad6b7169203331";

/// A pooler that exports each transaction.
fn pooler(collector: &Collector, settings: &[&str]) -> Bouncer {
    let endpoint = format!("otlp_endpoint = {}", collector.url());
    let mut all =
        vec![endpoint.as_str(), "trace_sample = 1", "server_tls_sslmode = disable", "http_port = auto"];
    all.extend(settings);
    Bouncer::in_front_of(postgres(), &all)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The child of this name, which is within its parent.
#[track_caller]
fn child<'a>(spans: &'a [Span], parent: &Span, name: &str) -> &'a Span {
    let is_child = |span: &&Span| {
        span.trace_id == parent.trace_id && span.parent_span_id == parent.span_id && span.name == name
    };
    let found: Vec<&Span> = spans.iter().filter(is_child).collect();
    let [span] = found[..] else { panic!("{} spans {name} in {}", found.len(), parent.name) };
    assert!(parent.start_time_unix_nano <= span.start_time_unix_nano, "{name} starts in its parent");
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{name} has a duration");
    assert!(span.end_time_unix_nano <= parent.end_time_unix_nano, "{name} ends in its parent");
    span
}

fn expect_place(span: &Span) {
    let port = postgres().port();
    assert_eq!(text(&span.attributes, "db.system.name").as_deref(), Some("postgresql"));
    assert_eq!(text(&span.attributes, "db.namespace").as_deref(), Some("app"));
    assert_eq!(text(&span.attributes, "user.name").as_deref(), Some("app"));
    assert_eq!(text(&span.attributes, "server.address").as_deref(), Some("127.0.0.1"));
    assert_eq!(number(&span.attributes, "server.port"), Some(port.into()));
    let pool = text(&span.attributes, "db.client.connection.pool.name");
    assert_eq!(pool, Some(format!("127.0.0.1:{port}/app")));
}

#[test]
fn otlp_a_transaction_is_a_trace_with_its_server_and_pool() {
    let collector = Collector::start();
    let bouncer = pooler(&collector, &[]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    client.query("SELECT 'a text that is not exported'");
    assert_eq!(tags(&client.query("COMMIT")), "CZ");
    client.query("SELECT 1/0");
    let spans = collector.wait_for("transaction", 2);
    let roots: Vec<&Span> = spans.iter().filter(|span| span.name == "transaction").collect();
    for root in &roots {
        assert_eq!(root.kind(), SpanKind::Server);
        assert_eq!((root.trace_id.len(), root.span_id.len(), root.parent_span_id.len()), (16, 8, 0));
        expect_place(root);
        let server = child(&spans, root, "server");
        assert_eq!(server.kind(), SpanKind::Client);
        expect_place(server);
        assert!(!spans.iter().any(|span| span.name == "wait" && span.trace_id == root.trace_id));
    }
    let codes = roots.iter().map(|root| text(&root.attributes, "db.response.status_code"));
    assert_eq!(codes.collect::<Vec<_>>(), [None, Some("22012".to_owned())]);
    let statuses = roots.iter().map(|root| root.status.as_ref().map(|status| status.code));
    assert_eq!(statuses.collect::<Vec<_>>(), [None, Some(2)]);
    assert_eq!(text(&roots[1].attributes, "error.type").as_deref(), Some("22012"));
    assert_ne!(roots[0].trace_id, roots[1].trace_id);

    let request = &collector.requests()[0];
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("iambouncer"));
    assert_eq!(text(&resource.attributes, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert!(!format!("{spans:?}").contains("not exported"));
    let exported = || {
        let scrape = crate::support::http::scrape(bouncer.http_port());
        scrape.sum("iambouncer_traces_exported_total", &[]) == Some(3.0)
            && scrape.sum("iambouncer_traces_dropped_total", &[]) == Some(0.0)
    };
    eventually("two transactions and a login are counted", exported);
}

#[test]
fn otlp_variables_and_headers_of_opentelemetry_apply_and_secrets_are_not_exported() {
    let collector = Collector::start();
    let line = format!(
        "app = host=127.0.0.1 port={} dbname=app user=app password=secret_of_the_line",
        postgres().port()
    );
    let bouncer = Start::databases(&line)
        .set("trace_sample = 1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret%20key")
        .env("OTEL_SERVICE_NAME", "orders-pooler")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .start();
    bouncer.client().query("SELECT 1");
    let spans = collector.wait_for("transaction", 1);
    assert!(!format!("{spans:?}").contains("secret"));
    assert!(!bouncer.log().contains("secret"));
    assert!(!bouncer.show("CONFIG", "value").iter().any(|value| value.contains("secret")));
    assert!(collector.heads()[0].to_lowercase().contains("x-api-key: secret key"));
    let requests = collector.requests();
    let resource = &requests[0].resource_spans[0].resource.as_ref().unwrap().attributes;
    assert_eq!(text(resource, "service.name").as_deref(), Some("orders-pooler"));
    assert_eq!(text(resource, "deployment.environment.name").as_deref(), Some("test"));
}

#[test]
fn otlp_the_parent_is_the_span_in_a_comment() {
    let collector = Collector::start();
    let bouncer = pooler(&collector, &[]);
    let mut client = bouncer.client();
    let comment = |flags: &str| format!("/*db_driver='x',traceparent='00-{TRACE_ID}-{SPAN_ID}-{flags}'*/");
    let sql = format!("SELECT 1 {}", comment("01"));
    let encoded = format!("SELECT 4 /*traceparent=%2700-{TRACE_ID}-{SPAN_ID}-01%27*/");
    let batch = |name: &str, sql: &str| {
        [raw::parse(name, sql), raw::bind("", name, &[]), raw::execute(), raw::sync()].concat()
    };
    client.query(&sql);
    for message in [batch("", &sql), batch("named", &sql), query(&encoded)] {
        client.send(&message);
        client.until_ready();
    }
    // The parent of a transaction may be in any of its queries; the first one counts.
    client.query("BEGIN");
    client.query(&sql);
    client.query("COMMIT");
    // Malformed, and of a trace that is not exported.
    client.query(&format!("SELECT 2 /*traceparent='00-{TRACE_ID}-{SPAN_ID}'*/"));
    client.query(&format!("SELECT 3 {}", comment("00")));
    client.query("SELECT 'the last one'");
    let spans = collector.wait_for("transaction", 7);
    let roots: Vec<&Span> = spans.iter().filter(|span| span.name == "transaction").collect();
    assert_eq!(roots.len(), 7, "that with the flag unset is not exported");
    for (at, root) in roots.iter().enumerate() {
        let is_child = at < 5;
        assert_eq!(hex(&root.trace_id) == TRACE_ID, is_child, "{at}");
        assert_eq!(hex(&root.parent_span_id), if is_child { SPAN_ID } else { "" }, "{at}");
        child(&spans, root, "server");
    }
}

#[test]
fn otlp_waiting_for_a_server_is_a_span() {
    let collector = Collector::start();
    let bouncer = pooler(&collector, &["default_pool_size = 1", "query_wait_timeout = 600"]);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut waiting = bouncer.client();
    let mut canceled = bouncer.client();
    let mut console = bouncer.console();
    waiting.send_query("SELECT 1");
    eventually("one waits", || console.pools("cl_waiting") == ["1"]);
    canceled.send_query("SELECT 2");
    eventually("two wait", || console.pools("cl_waiting") == ["2"]);
    let (pid, key) = canceled.cancel_key();
    let mut request = Vec::new();
    wire::encode::cancel_request(&mut request, pid, &key);
    Client::connect(bouncer.port).send(&request);
    assert_eq!(canceled.until_ready()[0].error().0, "57014");
    holder.query("COMMIT");
    assert_eq!(tags(&waiting.until_ready()), "TDCZ");
    // It got a server at once: the wait that was canceled is not its wait.
    canceled.query("SELECT 3");
    let spans = collector.wait_for("transaction", 4);
    let failed = |span: &&Span| text(&span.attributes, "db.response.status_code").as_deref() == Some("57014");
    let root = spans.iter().filter(|span| span.name == "transaction").find(failed).unwrap();
    child(&spans, root, "wait");
    assert!(!spans.iter().any(|span| span.name == "server" && span.trace_id == root.trace_id));
    let waits = spans.iter().filter(|span| span.name == "wait" && span.trace_id != root.trace_id);
    let parents: Vec<_> = waits.map(|span| span.parent_span_id.clone()).collect();
    let of_waits = |span: &&Span| span.name == "transaction" && parents.contains(&span.span_id);
    let with_server = spans.iter().filter(of_waits).filter(|root| {
        let (wait, server) = (child(&spans, root, "wait"), child(&spans, root, "server"));
        assert_eq!(wait.start_time_unix_nano, root.start_time_unix_nano);
        assert!(wait.end_time_unix_nano <= server.start_time_unix_nano, "first the wait, then the server");
        true
    });
    // The holder may have waited for the first login.
    assert!((1..=2).contains(&with_server.count()));
}

#[test]
fn otlp_a_login_is_a_trace_with_its_phases() {
    let collector = Collector::start();
    let sim = Sim::in_front_of(postgres());
    let endpoint = format!("otlp_endpoint = {}", collector.url());
    let bouncer = sim.pooler(&[&endpoint]);
    bouncer.client().query("SELECT 1");
    let spans = collector.wait_for("login", 1);
    let login = spans.iter().find(|span| span.name == "login").unwrap();
    assert_eq!((login.kind(), login.parent_span_id.len()), (SpanKind::Client, 0));
    assert_eq!(text(&login.attributes, "server.address").as_deref(), Some("localhost"));
    let phases = ["dns", "token", "tcp", "tls", "auth"].map(|phase| child(&spans, login, phase));
    let starts = phases.map(|span| span.start_time_unix_nano);
    assert!(starts.is_sorted(), "in the order in which they took place: {starts:?}");
    assert!(!format!("{spans:?}").contains("X-Amz"), "no token");
}

#[test]
fn otlp_a_login_that_fails_is_a_trace_with_its_code() {
    let collector = Collector::start();
    let line = format!("app = host=127.0.0.1 port={} dbname=no_such_database", postgres().port());
    let endpoint = format!("otlp_endpoint = {}", collector.url());
    let bouncer = Start::databases(&line).set(&endpoint).set("query_wait_timeout = 2").start();
    Client::start(bouncer.port, &[("user", "app"), ("database", "app")]).until_end();
    let spans = collector.wait_for("login", 1);
    let login = spans.iter().find(|span| span.name == "login").unwrap();
    assert_eq!(text(&login.attributes, "db.response.status_code").as_deref(), Some("3D000"));
    assert_eq!(login.status.as_ref().unwrap().code, 2);
    child(&spans, login, "tcp");
}
