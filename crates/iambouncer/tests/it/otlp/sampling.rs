//! Which transactions are exported.

use super::collector::Collector;
use super::pooler;
use crate::support::Workers;
use crate::support::raw::{self, tags};

#[test]
fn otlp_each_worker_exports_exactly_one_in_n_of_its_transactions() {
    let collector = Collector::start();
    let endpoint = format!("otlp_endpoint = {}", collector.url());
    let settings = [endpoint.as_str(), "trace_sample = 10", "pool_mode = transaction"];
    let workers = Workers::start("otlp_sampling", 2, &settings);
    let mut clients = workers.clients_at(&[0, 1]);
    for client in &mut clients {
        for _ in 0..200 {
            assert_eq!(tags(&client.query("SELECT 1")), "TDCZ");
        }
    }
    collector.wait_for("transaction", 40);
    // One more of each would be too many: the end of the process exports everything.
    let Workers { mut bouncer, .. } = workers;
    drop(clients);
    bouncer.signal(rustix::process::Signal::INT);
    bouncer.wait_for_end();
    assert_eq!(collector.count("transaction"), 40);
    assert!(collector.count("login") > 0, "all logins");
}

#[test]
fn otlp_transactions_of_a_pipeline_and_of_a_session_are_counted() {
    let collector = Collector::start();
    let bouncer = pooler(&collector, &["pool_mode = session", "trace_sample = 5"]);
    let mut client = bouncer.client();
    let pipeline = raw::query("SELECT 1").repeat(50);
    client.send(&pipeline);
    for _ in 0..50 {
        assert_eq!(tags(&client.until_ready()), "TDCZ");
    }
    for _ in 0..50 {
        client.query("SELECT 1");
    }
    let spans = collector.wait_for("transaction", 20);
    assert_eq!(spans.iter().filter(|span| span.name == "server").count(), 20);
}

#[test]
fn otlp_settings_apply_to_a_running_pooler() {
    let collector = Collector::start();
    let bouncer = pooler(&collector, &["otlp_endpoint =", "trace_sample = 0"]);
    let (mut client, mut console) = (bouncer.client(), bouncer.console());
    client.query("SELECT 1");
    console.query(&format!("SET otlp_endpoint = '{}'", collector.url()));
    client.query("SELECT 2");
    console.query("SET trace_sample = 1");
    client.query("SELECT 3 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/");
    let spans = collector.wait_for("transaction", 1);
    assert_eq!(spans.len(), 2, "only the last one, with its server: {spans:?}");
    assert_eq!(spans[0].parent_span_id.len(), 8);
    assert_eq!(console.query("SET otlp_endpoint = 'localhost:4318'")[0].tag, b'E');
    console.query("SET otlp_endpoint = ''");
    client.query("SELECT 4");
    console.query(&format!("SET otlp_endpoint = '{}'", collector.url()));
    client.query("SELECT 5");
    collector.wait_for("transaction", 2);
    assert_eq!(collector.count("transaction"), 2);
}
