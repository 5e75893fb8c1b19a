//! Metrics of logins, waits, errors, workers and certificates, next to what a pooler did.

use crate::support::bouncer::Start;
use crate::support::http::{Scrape, scrape};
use crate::support::sim::Sim;
use crate::support::{Bouncer, Client, Workers, eventually, postgres};
use rds_sim::Certificates;
use std::io::Write as _;
use std::net::TcpStream;

const AUTO: &str = "http_port = auto";
const POOL: [(&str, &str); 2] = [("database", "app"), ("user", "app")];

/// The values of a counter by a label.
fn by_label<const N: usize>(shown: &Scrape, name: &str, label: &str, values: [&str; N]) -> [f64; N] {
    values.map(|value| shown.sum(name, &[(label, value)]).unwrap_or_else(|| panic!("{name} {label}={value}")))
}

const PHASES: [&str; 5] = ["dns", "tcp", "tls", "token", "auth"];

fn phases(port: u16) -> [f64; 5] {
    by_label(&scrape(port), "iambouncer_server_login_phase_seconds_count", "phase", PHASES)
}

#[test]
fn phases_of_logins_are_counted_if_they_took_place_and_completed() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&[AUTO, "server_login_retry = 600"]);
    let port = bouncer.http_port();
    assert_eq!(phases(port), [0.0; 5]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    assert_eq!(phases(port), [1.0; 5]);
    // Refused twice: the login gets another token and another connection, but the name is not looked up again.
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    bouncer.console().query("RECONNECT app");
    let mut client = bouncer.client();
    client.send_query("SELECT 1");
    client.until_end();
    assert_eq!(phases(port), [2.0, 3.0, 3.0, 3.0, 1.0]);
    let shown = scrape(port);
    let sum = |phase| shown.sum("iambouncer_server_login_phase_seconds_sum", &[("phase", phase)]);
    assert!(PHASES.iter().all(|phase| sum(phase).is_some_and(|seconds| (0.0..20.0).contains(&seconds))));

    let plain = Bouncer::in_front_of(postgres(), &[AUTO, "server_tls_sslmode = disable"]);
    plain.client().query("SELECT 1");
    assert_eq!(phases(plain.http_port()), [0.0, 1.0, 0.0, 0.0, 1.0], "an address, without TLS and token");
}

#[test]
fn logins_of_clients_are_counted_by_result() {
    let settings = [AUTO, "auth_type = plain", "client_login_timeout = 2", "max_client_conn = 2"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let results = || {
        let names = ["ok", "refused", "abandoned", "timeout", "evicted", "unknown"];
        by_label(&scrape(bouncer.http_port()), "iambouncer_client_logins_total", "result", names)
    };
    let asked = || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.expect(b'R');
        client
    };
    let password = |text: &str| [b"p\0\0\0", &[5 + text.len() as u8][..], text.as_bytes(), b"\0"].concat();
    let mut admitted = asked();
    admitted.send(&password("secret"));
    admitted.until_ready();
    assert_eq!(results(), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let mut refused = asked();
    refused.send(&password("wrong"));
    refused.until_end();
    assert_eq!(results()[..2], [1.0, 1.0]);
    drop(asked());
    eventually("a client has left", || results()[2] == 1.0);
    // A connection of a health check, and a cancel request for no client.
    drop(TcpStream::connect(("127.0.0.1", bouncer.port)).unwrap());
    let mut cancel = Vec::new();
    wire::encode::cancel_request(&mut cancel, 1, &[0; 4]);
    let mut canceling = Client::connect(bouncer.port);
    canceling.send(&cancel);
    canceling.until_end();
    asked().until_end();
    assert_eq!(results(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    // One address may have 51 logins while one of two clients is logged in.
    let half_open: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", bouncer.port)).unwrap();
            stream.write_all(&[0]).unwrap();
            stream
        })
        .collect();
    eventually("logins are evicted", || results()[4] >= 1.0);
    drop(half_open);
    eventually("all are counted", || results().iter().sum::<f64>() == 64.0);
    let errors =
        by_label(&scrape(bouncer.http_port()), "iambouncer_client_errors_total", "class", ["28", "53"]);
    assert_eq!((errors[0], errors[1]), (1.0, results()[4]), "a wrong password, and each evicted client");
}

#[test]
fn waits_that_end_without_a_server_are_counted_by_pool() {
    let bouncer =
        Bouncer::in_front_of(postgres(), &[AUTO, "default_pool_size = 1", "query_wait_timeout = 1"]);
    let port = bouncer.http_port();
    let count = |name: &str| scrape(port).sum(&format!("iambouncer_{name}_total"), &POOL);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut leaving = bouncer.client();
    leaving.send_query("SELECT 1");
    eventually("it waits", || scrape(port).sum("iambouncer_pool_waiting", &POOL) == Some(1.0));
    assert_eq!((count("client_abandoned"), count("query_wait_timeouts")), (Some(0.0), Some(0.0)));
    drop(leaving);
    eventually("its end is noticed", || count("client_abandoned") == Some(1.0));
    let mut patient = bouncer.client();
    patient.send_query("SELECT 1");
    patient.until_end();
    assert_eq!((count("client_abandoned"), count("query_wait_timeouts")), (Some(1.0), Some(1.0)));
    // A client without a wait is neither.
    drop(bouncer.client());
    holder.query("COMMIT");
    assert_eq!((count("client_abandoned"), count("query_wait_timeouts")), (Some(1.0), Some(1.0)));
}

#[test]
fn a_client_that_leaves_before_the_first_server_is_counted_as_a_wait_and_as_a_login() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let line = format!("app = host=127.0.0.1 port={port} dbname=app");
    let bouncer = Start::databases(&line).set(AUTO).start();
    let client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let http = bouncer.http_port();
    eventually("it waits", || scrape(http).sum("iambouncer_pool_waiting", &POOL) == Some(1.0));
    drop(client);
    eventually("its end is noticed", || {
        scrape(http).sum("iambouncer_client_abandoned_total", &POOL) == Some(1.0)
    });
    let abandoned = scrape(http).sum("iambouncer_client_logins_total", &[("result", "abandoned")]);
    assert_eq!(abandoned, Some(1.0));
}

#[test]
fn errors_are_counted_by_class_of_sqlstate() {
    let settings = [AUTO, "pool_mode = statement", "query_wait_timeout = 1", "default_pool_size = 1"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let classes = || {
        let names = ["08", "25", "28", "3D", "57", "unknown"];
        by_label(&scrape(bouncer.http_port()), "iambouncer_client_errors_total", "class", names)
    };
    let mut client = bouncer.client();
    let refused = client.query("BEGIN");
    let code = refused.iter().find(|message| message.tag == b'E').unwrap().error().0;
    let before = classes();
    assert_eq!(before.iter().sum::<f64>(), 1.0, "{code}: {before:?}");
    Client::start(bouncer.port, &[("user", "app"), ("database", "missing")]).until_end();
    let after = classes();
    assert_eq!((after[3], after.iter().sum::<f64>()), (1.0, 2.0), "{after:?}");
    // An error of the server is not the pooler's.
    client.query("SELECT 1 / 0");
    assert_eq!(classes(), after);
    client.send(b"\x01nonsense");
    client.until_end();
    assert_eq!((classes()[0], classes().iter().sum::<f64>()), (1.0 + after[0], 3.0));
}

#[test]
fn each_worker_reports_its_cpu_time_and_paused_databases_are_shown() {
    let workers = Workers::start("http_cpu", 2, &[AUTO]);
    let port = workers.bouncer.http_port();
    let cpu =
        |worker| scrape(port).sum("iambouncer_worker_cpu_seconds_total", &[("worker", worker)]).unwrap();
    let mut client = workers.client_at(1);
    let (first, second) = (cpu("0"), cpu("1"));
    assert!(first > 0.0 && second > 0.0);
    eventually("its time increases with its work", || {
        client.query("SELECT 1");
        cpu("1") > second + 0.02
    });
    let paused = || scrape(port).sum("iambouncer_database_paused", &[("database", "app")]);
    assert_eq!(paused(), Some(0.0));
    drop(client);
    let mut console = workers.bouncer.console();
    for (pause, resume) in [("PAUSE app", "RESUME app"), ("PAUSE", "RESUME")] {
        console.query(pause);
        assert_eq!(paused(), Some(1.0), "{pause}");
        console.query(resume);
        assert_eq!(paused(), Some(0.0), "{resume}");
    }
}

#[test]
fn the_expiry_of_the_listeners_certificate_is_shown_and_follows_reload() {
    const DAY: f64 = 86_400.0;
    let dir = tempfile::tempdir().unwrap();
    let write = |days| {
        let certificates = Certificates::generate_until(&["localhost".to_owned()], Some(days)).unwrap();
        let files = certificates.for_postgres();
        std::fs::write(dir.path().join("cert.pem"), &files.certificate_pem).unwrap();
        std::fs::write(dir.path().join("key.pem"), &files.key_pem).unwrap();
    };
    write(10);
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let bouncer = Start::databases(&line)
        .set(AUTO)
        .set("client_tls_sslmode = allow")
        .set(&format!("client_tls_cert_file = {}", file("cert.pem")))
        .set(&format!("client_tls_key_file = {}", file("key.pem")))
        .start();
    let left = || {
        let kind = [("kind", "client_listener")];
        scrape(bouncer.http_port()).sum("iambouncer_tls_certificate_expires_seconds", &kind).unwrap()
    };
    assert!((9.0 * DAY..=10.0 * DAY).contains(&left()), "{}", left());
    write(-1);
    bouncer.console().query("RELOAD");
    assert!((-2.0 * DAY..=0.0).contains(&left()), "{}", left());
}
