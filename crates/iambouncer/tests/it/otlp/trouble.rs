//! Collectors that are down, slow, overloaded or wrong: clients are served, the queue is bounded, and what is lost is
//! counted.

use super::collector::{Collector, answer};
use super::pooler;
use crate::support::http::scrape;
use crate::support::raw::{self, tags};
use crate::support::{Bouncer, eventually, postgres};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use rustix::process::Signal;
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn counter(bouncer: &Bouncer, name: &str) -> f64 {
    scrape(bouncer.http_port()).sum(name, &[]).unwrap()
}

fn dropped(bouncer: &Bouncer) -> f64 {
    counter(bouncer, "iambouncer_traces_dropped_total")
}

fn lines(bouncer: &Bouncer) -> usize {
    bouncer.log().matches("traces cannot be exported").count()
}

/// The pooler serves, drops two batches, and logs one line.
fn expect_drops(bouncer: &Bouncer) {
    let mut client = bouncer.client();
    assert_eq!(tags(&client.query("SELECT 1")), "TDCZ");
    eventually("the first batch is dropped", || dropped(bouncer) >= 2.0);
    bouncer.wait_for_line("traces cannot be exported to http://127.0.0.1:");
    let before = dropped(bouncer);
    assert_eq!(tags(&client.query("SELECT 2")), "TDCZ");
    eventually("the second batch is dropped", || dropped(bouncer) > before);
    assert_eq!(lines(bouncer), 1);
    assert_eq!(counter(bouncer, "iambouncer_traces_exported_total"), 0.0);
}

#[test]
fn otlp_a_collector_that_is_down_costs_only_its_traces() {
    // The port of a listener that is closed before the start.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = [
        &format!("otlp_endpoint = http://127.0.0.1:{port}"),
        "trace_sample = 1",
        "http_port = auto",
        "server_tls_sslmode = disable",
    ];
    expect_drops(&Bouncer::in_front_of(postgres(), &settings));
}

#[test]
fn otlp_an_overloaded_collector_is_asked_three_times() {
    let collector = Collector::answering(|| Some(answer("503 Service Unavailable", b"secret reason")));
    let bouncer = pooler(&collector, &[]);
    expect_drops(&bouncer);
    let requests = collector.requests();
    assert_eq!(requests.len(), 6);
    assert_eq!(requests[0], requests[2], "the same spans");
    assert!(!bouncer.log().contains("secret"));
}

#[test]
fn otlp_a_refusal_is_final() {
    let collector = Collector::answering(|| Some(answer("400 Bad Request", b"")));
    expect_drops(&pooler(&collector, &[]));
    assert_eq!(collector.requests().len(), 2);
}

#[test]
fn otlp_a_collector_that_speaks_no_http_costs_only_its_traces() {
    let collector = Collector::answering(|| Some(b"\0\x01garbage\r\n\r\n".to_vec()));
    expect_drops(&pooler(&collector, &[]));
}

#[test]
fn otlp_the_body_of_an_answer_counts_rejected_spans_and_may_be_garbage() {
    let garbage = Collector::answering(|| Some(answer("200 OK", &[0xff; 100])));
    let bouncer = pooler(&garbage, &[]);
    bouncer.client().query("SELECT 1");
    eventually("both are accepted", || counter(&bouncer, "iambouncer_traces_exported_total") == 2.0);

    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "no".to_owned() };
    let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let collector = Collector::answering(move || Some(answer("200 OK", &body)));
    let bouncer = pooler(&collector, &[]);
    bouncer.client().query("SELECT 1");
    eventually("one is not", || dropped(&bouncer) >= 1.0);
}

#[test]
fn otlp_the_queue_is_bounded_while_the_collector_does_not_answer() {
    let collector = Collector::answering(|| None);
    let mut bouncer = pooler(&collector, &[]);
    let mut client = bouncer.client();
    client.query("SELECT 1");
    eventually("the collector is asked", || !collector.requests().is_empty());
    // More than the queue and a batch hold.
    for _ in 0..60 {
        client.send(&raw::query("SELECT 1").repeat(100));
        for _ in 0..100 {
            assert_eq!(tags(&client.until_ready()), "TDCZ");
        }
    }
    assert!(dropped(&bouncer) > 1000.0, "{}", dropped(&bouncer));
    assert!(lines(&bouncer) <= 1);
    let began = Instant::now();
    bouncer.signal(Signal::INT);
    bouncer.wait_for_end();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn otlp_the_end_of_the_process_exports_the_rest_at_once() {
    let collector = Collector::start();
    let mut bouncer = pooler(&collector, &[]);
    let mut client = bouncer.client();
    // The login, so that the transactions are in a batch that has not been sent.
    collector.wait_for("login", 1);
    for _ in 0..20 {
        client.query("SELECT 1");
    }
    drop(client);
    let began = Instant::now();
    bouncer.signal(Signal::INT);
    bouncer.wait_for_end();
    assert_eq!(collector.count("transaction"), 20);
    // Not later than without traces: the period of a batch is not waited for.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
