//! Probes and metrics as Kubernetes and Prometheus read them: from startup to shutdown, under load, with IAM,
//! and with malformed requests.

use crate::support::bouncer::Start;
use crate::support::http::{connect, get, request, scrape, send};
use crate::support::program;
use crate::support::sim::{SECRET, Sim};
use crate::support::{Bouncer, Client, Workers, eventually, postgres};
use iambouncer::http::{MetricKind, table};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const AUTO: &str = "http_port = auto";

/// The HTTP status of a probe.
fn status(port: u16, path: &str) -> u16 {
    get(port, path).status
}

/// A pooler whose only database line sets a user.
fn with_named_user(settings: &[&str]) -> Bouncer {
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app password=secret", postgres().port());
    settings.iter().fold(Start::databases(&line).set(AUTO), |start, line| start.set(line)).start()
}

/// A proxy to a server that can be opened and shut. Shutting it closes its connections.
struct Gate {
    port: u16,
    is_open: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    /// In front of a server, initially shut.
    fn in_front_of(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            is_open: Arc::default(),
            open: Arc::default(),
        };
        let (is_open, open) = (gate.is_open.clone(), gate.open.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                open.lock().unwrap().extend([stream.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (mut from, mut to) in
                    [(stream.try_clone().unwrap(), server.try_clone().unwrap()), (server, stream)]
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        gate
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }

    fn shut(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn probes_follow_the_pooler_from_its_start_to_its_drain() {
    let mut bouncer = with_named_user(&[]);
    let port = bouncer.http_port();
    for path in ["/startup", "/startupz", "/liveness", "/livez", "/healthz"] {
        assert_eq!(status(port, path), 200, "{path}");
    }
    // Without any client, the pooler has logged in to a server.
    eventually("ready", || status(port, "/readyz") == 200);
    assert_eq!(scrape(port).sum("iambouncer_server_logins_total", &[]), Some(1.0));
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    bouncer.signal(Signal::TERM);
    eventually("no longer ready", || status(port, "/readiness") == 503);
    let readiness = get(port, "/readiness");
    assert!(
        readiness.body.contains("FAIL draining") && readiness.body.contains("ok   started"),
        "{readiness:?}"
    );
    assert_eq!((status(port, "/liveness"), status(port, "/startup")), (200, 200));
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    let draining = scrape(port);
    let flags = ["iambouncer_draining", "iambouncer_ready"].map(|name| draining.sum(name, &[]));
    assert_eq!(flags, [Some(1.0), Some(0.0)]);
    drop(client);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn readiness_does_not_wait_for_a_login_if_no_line_has_a_user() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    eventually("ready", || status(port, "/readyz") == 200);
    assert!(get(port, "/readyz").body.contains("ok   no login at start"));
    assert_eq!(scrape(port).sum("iambouncer_server_logins_total", &[]), Some(0.0));
}

#[test]
fn readiness_does_not_wait_for_a_login_that_needs_a_clients_scram_keys() {
    let secret = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\
                  AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = Start::databases(&line)
        .users(&format!("\"app\" \"{secret}\"\n\"postgres\" \"\"\n"))
        .set(AUTO)
        .start();
    eventually("ready", || status(bouncer.http_port(), "/readyz") == 200);
}

#[test]
fn an_unreachable_database_affects_readiness_only_at_startup() {
    let gate = Gate::in_front_of(postgres().port());
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app password=secret", gate.port);
    let bouncer = Start::databases(&line).set(AUTO).set("server_tls_sslmode = disable").start();
    let port = bouncer.http_port();
    // The first request for readiness causes the first login.
    assert_eq!(status(port, "/readyz"), 503);
    eventually("a login has failed", || {
        scrape(port).sum("iambouncer_server_login_failures_total", &[]).is_some_and(|count| count >= 1.0)
    });
    let readiness = get(port, "/readyz");
    assert!(readiness.status == 503 && readiness.body.contains("FAIL no login"), "{readiness:?}");
    assert_eq!((status(port, "/startup"), status(port, "/livez")), (200, 200));
    gate.open();
    eventually("ready", || status(port, "/readyz") == 200);
    let failures = scrape(port).sum("iambouncer_server_login_failures_total", &[]);
    gate.shut();
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    eventually("another login has failed", || {
        scrape(port).sum("iambouncer_server_login_failures_total", &[]) > failures
    });
    assert_eq!(status(port, "/readyz"), 200);
}

#[test]
fn many_unreachable_databases_do_not_hide_a_reachable_one() {
    let away = Gate::in_front_of(postgres().port());
    let line = |name: &str, port: u16| {
        format!("{name} = host=127.0.0.1 port={port} dbname=app user=app password=secret\n")
    };
    // They are tried first, and not again during this test.
    let mut lines: String = (0..20).map(|i| line(&format!("away{i}"), away.port)).collect();
    lines.push_str(&line("there", postgres().port()));
    let start = Start::databases(&lines).set(AUTO).set("server_login_retry = 600");
    let bouncer = start.set("server_tls_sslmode = disable").start();
    eventually("ready", || status(bouncer.http_port(), "/readyz") == 200);
}

#[test]
fn a_full_pool_is_reported_and_the_pooler_stays_ready() {
    let bouncer = with_named_user(&["default_pool_size = 1"]);
    let port = bouncer.http_port();
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut waiting = bouncer.client();
    waiting.send_query("SELECT 1");
    let pool = [("database", "app"), ("user", "app")];
    eventually("a client waits", || scrape(port).sum("iambouncer_pool_waiting", &pool) == Some(1.0));
    eventually("it has waited for a while", || {
        scrape(port).sum("iambouncer_pool_maxwait_seconds", &pool).is_some_and(|seconds| seconds > 0.1)
    });
    let full = scrape(port);
    for (state, clients) in [("active", 1.0), ("waiting", 1.0), ("idle", 0.0)] {
        let labels = [pool[0], pool[1], ("state", state)];
        assert_eq!(full.sum("iambouncer_client_connections", &labels), Some(clients), "{state}");
    }
    assert_eq!(full.sum("iambouncer_pool_size", &pool), Some(1.0));
    assert_eq!(full.sum("iambouncer_server_connections", &[("state", "active")]), Some(1.0));
    assert_eq!(status(port, "/readyz"), 200);
    holder.query("COMMIT");
    waiting.until_ready();
    let after = scrape(port);
    let count = |name: &str| after.sum(name, &pool);
    // One assignment waited more than 100 ms, the other did not wait.
    assert_eq!(count("iambouncer_pool_wait_seconds_count"), Some(2.0));
    let quick = [pool[0], pool[1], ("le", "0.065536")];
    assert_eq!(after.sum("iambouncer_pool_wait_seconds_bucket", &quick), Some(1.0));
    assert!(count("iambouncer_pool_wait_seconds_sum") > Some(0.1));
}

#[test]
fn every_metric_exists_and_counters_are_correct_and_monotonic() {
    let bouncer = with_named_user(&[]);
    let port = bouncer.http_port();
    let mut client = bouncer.client();
    for _ in 0..20 {
        client.value("SELECT 1");
    }
    client.query("BEGIN");
    client.value("SELECT pg_sleep(0.2)");
    client.query("COMMIT");
    let before = scrape(port);
    for metric in table() {
        let name = metric.full_name();
        let family = name.trim_end_matches("_total").trim_end_matches("_info");
        assert!(before.kinds.contains_key(family), "{name}");
        let example =
            if metric.kind == MetricKind::Histogram { format!("{name}_count") } else { name.clone() };
        // These have one series per token, identity, secret or certificate.
        let optional = ["endpoint", "identity", "secret", "kind"];
        let may_be_empty = metric.labels.iter().any(|label| optional.contains(label));
        assert_eq!(before.sum(&example, &[]).is_some(), !may_be_empty, "{name}");
    }
    let pool = [("database", "app"), ("user", "app")];
    let count = |name: &str| before.sum(name, &pool).unwrap();
    assert_eq!(count("iambouncer_queries_total"), 23.0);
    assert_eq!(count("iambouncer_transactions_total"), 21.0);
    let everything = [pool[0], pool[1], ("le", "+Inf")];
    for (name, events) in [("query_duration", 23.0), ("transaction_duration", 21.0), ("pool_wait", 21.0)] {
        assert_eq!(count(&format!("iambouncer_{name}_seconds_count")), events, "{name}");
        let bucket = before.sum(&format!("iambouncer_{name}_seconds_bucket"), &everything);
        assert_eq!(bucket, Some(events), "{name}");
    }
    // The transaction contains the only slow query.
    for name in ["query_duration", "transaction_duration"] {
        let sum = count(&format!("iambouncer_{name}_seconds_sum"));
        assert!((0.2..20.0).contains(&sum), "{name}: {sum}");
        let quick = [pool[0], pool[1], ("le", "0.131072")];
        let bucket = before.sum(&format!("iambouncer_{name}_seconds_bucket"), &quick).unwrap();
        assert!(bucket < count(&format!("iambouncer_{name}_seconds_count")), "{name}: {bucket}");
    }
    client.value("SELECT 2");
    let after = scrape(port);
    for (series, value) in before.counters() {
        assert!(after.values[series] >= value, "{series}: {value}, then {}", after.values[series]);
    }
    assert_eq!(after.sum("iambouncer_queries_total", &pool), Some(24.0));
}

#[test]
fn concurrent_scrapes_are_consistent_while_two_workers_are_busy() {
    const CLIENTS: usize = 4;
    const QUERIES: usize = 400;
    let workers = Workers::start("http_scraped", 2, &[AUTO, "default_pool_size = 4"]);
    let port = workers.bouncer.http_port();
    let mut clients = workers.clients_at(&[0, 1, 0, 1]);
    let pool = [("database", "app"), ("user", workers.user.as_str())];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 0.0;
                    while !is_over.load(Ordering::SeqCst) {
                        let now = scrape(port);
                        let queries = now.sum("iambouncer_queries_total", &pool).unwrap_or(0.0);
                        assert!(queries >= last, "{last}, then {queries}");
                        let count = now.sum("iambouncer_query_duration_seconds_count", &pool).unwrap_or(0.0);
                        assert_eq!(count, queries);
                        last = queries;
                    }
                })
            })
            .collect();
        let busy: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(|| (0..QUERIES).for_each(|_| drop(client.query("SELECT 1")))))
            .collect();
        let outcomes: Vec<_> = busy.into_iter().map(|thread| thread.join()).collect();
        is_over.store(true, Ordering::SeqCst);
        assert!(outcomes.iter().all(Result::is_ok));
        scrapers.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let last = scrape(port);
    assert_eq!(last.sum("iambouncer_queries_total", &pool), Some((CLIENTS * QUERIES) as f64));
    assert_eq!(last.sum("iambouncer_workers", &[("state", "answered")]), Some(2.0));
    assert_eq!(last.sum("iambouncer_scrape_errors_total", &[]), Some(0.0));
    assert_eq!(get(port, "/livez").body, "ok   worker 0\nok   worker 1\n");
}

#[test]
fn metrics_of_tokens_and_credentials_contain_no_secret() {
    let mut sim = Sim::in_front_of(postgres());
    let session_token = sim.use_session_token(700);
    let bouncer = sim.pooler(&[AUTO]);
    let port = bouncer.http_port();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let shown = scrape(port);
    let value = |name: &str, labels: &[(&str, &str)]| shown.sum(name, labels);
    let left = value("iambouncer_iam_token_expires_seconds", &[("user", "app"), ("identity", "default")]);
    assert!(left.is_some_and(|seconds| (800.0..=900.0).contains(&seconds)), "{left:?}");
    let age = value("iambouncer_iam_token_age_seconds", &[("user", "app")]);
    assert!(age.is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{age:?}");
    assert_eq!(value("iambouncer_iam_token_requests_total", &[("result", "ok")]), Some(1.0));
    assert_eq!(value("iambouncer_iam_token_refusals_total", &[]), Some(0.0));
    let refreshes = [("ok", 1.0), ("failed", 0.0)];
    for (result, count) in refreshes {
        let labels = [("identity", "default"), ("result", result)];
        assert_eq!(value("iambouncer_aws_credentials_refresh_total", &labels), Some(count), "{result}");
    }
    assert_eq!(value("iambouncer_aws_identity_info", &[("identity", "default")]), Some(1.0));
    for secret in [SECRET, &session_token, "X-Amz-Signature", "X-Amz-Security-Token"] {
        assert!(!shown.text.contains(secret), "{secret} in\n{}", shown.text);
    }

    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    bouncer.console().query("RECONNECT app");
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    client.until_end();
    let refused = scrape(port);
    let failures = "iambouncer_server_login_failures_total";
    assert_eq!(refused.sum(failures, &[]), Some(1.0), "{}", refused.text);
    assert_eq!(refused.sum("iambouncer_iam_token_refusals_total", &[("user", "app")]), Some(1.0));
    assert_eq!(refused.sum("iambouncer_iam_token_requests_total", &[("result", "ok")]), Some(3.0));
}

#[test]
fn a_port_in_use_is_an_error_only_if_it_was_configured() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pooler.ini");
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 0\n\
         unix_socket_dir =\nauth_type = trust\nworkers = 1\n",
        postgres().port()
    );
    std::fs::write(&file, &ini).unwrap();
    let arguments = [file.display().to_string()];
    let variables = [("IAMBOUNCER_HTTP_PORT".to_owned(), port.clone())];
    let output = program::run(&[&arguments[0]], &variables);
    assert_eq!(output.code, Some(1), "{output:?}");
    let expected = format!("error: no dashboard, probes and metrics: cannot listen on 127.0.0.1:{port}: ");
    assert!(output.stderr.contains(&expected), "{output:?}");

    // The port is in use, by this listener or by another process.
    let _taken = TcpListener::bind("127.0.0.1:9127");
    let bouncer = Bouncer::spawn(&arguments, &[], dir);
    let log = bouncer.log();
    let warning =
        log.lines().find(|line| line.contains("cannot listen on 127.0.0.1:9127")).expect("a warning");
    assert!(warning.contains("WARN") && warning.contains("set http_port to another port"), "{warning}");
}

#[test]
fn a_failed_reload_is_reported() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    let reload_succeeded = |port| scrape(port).sum("iambouncer_config_last_reload_successful", &[]);
    assert_eq!(reload_succeeded(port), Some(1.0));
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    std::fs::write(bouncer.ini(), format!("{text}\ndefault_pool_size = many\n")).unwrap();
    bouncer.signal(Signal::HUP);
    eventually("the mistake is shown", || reload_succeeded(port) == Some(0.0));
    std::fs::write(bouncer.ini(), text).unwrap();
    bouncer.signal(Signal::HUP);
    eventually("it is gone", || reload_succeeded(port) == Some(1.0));
}

#[test]
fn only_existing_paths_can_be_read_and_no_other_methods_are_allowed() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    let missing = get(port, "/nothing");
    assert!(missing.status == 404 && missing.body.contains("/metrics"), "{missing:?}");
    assert_eq!(status(port, "/metrics/"), 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = request(port, method, "/metrics");
        assert_eq!(refused.status, 405, "{method}");
        assert!(refused.head.contains("allow: GET, HEAD"), "{refused:?}");
    }
    let head = request(port, "HEAD", "/metrics");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // A query string is ignored.
    assert_eq!(status(port, "/livez?verbose"), 200);
}

#[test]
fn malformed_requests_and_slow_clients_do_not_block_others() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    let began = Instant::now();
    let mut slow_clients: Vec<TcpStream> = (0..40).map(|_| connect(port)).collect();
    for slow_client in slow_clients.iter_mut().take(20) {
        slow_client.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
    }
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"Q\0\0\0\x0dSELECT 1\0", b"nonsense\r\n\r\n"]
    {
        if let Some(answer) = send(port, garbage) {
            assert_eq!(answer.status, 400, "{answer:?}");
        }
    }
    let header = format!("GET /livez HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X-Many: 1\r\n".repeat(200));
    for oversized in [header, many] {
        if let Some(answer) = send(port, oversized.as_bytes()) {
            assert_eq!(answer.status, 431, "{answer:?}");
        }
    }
    assert_eq!(status(port, "/livez"), 200);
    // Connections without a complete request are closed, with at most a 408 answer.
    for mut slow_client in slow_clients {
        let mut rest = String::new();
        let _ = slow_client.read_to_string(&mut rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    }
    assert!(began.elapsed() < Duration::from_secs(19), "{:?}", began.elapsed());
    assert_eq!(status(port, "/livez"), 200);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn without_a_request_for_readiness_no_server_is_opened_before_a_client_needs_it() {
    let bouncer = with_named_user(&["client_login_timeout = 1"]);
    let port = bouncer.http_port();
    assert_eq!((status(port, "/startup"), status(port, "/livez"), status(port, "/metrics")), (200, 200, 200));
    // After the time limit of this client, the janitor has run several times.
    Client::connect(bouncer.port).until_end();
    assert_eq!(scrape(port).sum("iambouncer_ready", &[]), Some(1.0));
    assert_eq!(bouncer.show("SERVERS", "state").len(), 0);
    eventually("ready", || status(port, "/readyz") == 200);
    assert_eq!(bouncer.show("SERVERS", "state").len(), 1);
}
