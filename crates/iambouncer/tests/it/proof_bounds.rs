//! Limits on verifying clients' AWS identities, and the requests to STS: their number, timeout, form and
//! destination. STS is a listener of the test where the form of the request matters.

use crate::client_proofs::{Rds, Sts, proof_aged};
use crate::support::tls_client::TlsClient;
use crate::support::{Bouncer, Client, eventually};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An STS with a fixed answer that records the requests it receives.
struct Listener {
    port: u16,
    recorded: Arc<Recorded>,
}

#[derive(Default)]
struct Recorded {
    requests: Mutex<Vec<(Instant, String)>>,
}

impl Listener {
    /// `answer` is sent back as is; with None no request is ever answered.
    fn answering(answer: Option<String>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let listener = Self { port, recorded: Arc::default() };
        let recorded = listener.recorded.clone();
        std::thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let (recorded, answer) = (recorded.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &recorded, answer));
            }
        });
        listener
    }

    fn requests(&self) -> Vec<String> {
        self.recorded.requests.lock().unwrap().iter().map(|(_, request)| request.clone()).collect()
    }

    fn pooler(&self) -> (Sts, String) {
        (Sts::with_endpoint(&format!("http://127.0.0.1:{}", self.port)), proof_aged(Duration::ZERO))
    }
}

fn serve(mut stream: TcpStream, recorded: &Recorded, answer: Option<String>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        request.push(byte[0]);
    }
    // The pooler's own GetCallerIdentity request is a POST and is ignored here.
    if !request.starts_with(b"GET ") {
        return;
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    recorded.requests.lock().unwrap().push((Instant::now(), text));
    match answer {
        Some(answer) => drop(stream.write_all(answer.as_bytes())),
        // Wait until the pooler closes the connection.
        None => drop(stream.read(&mut byte)),
    }
}

#[test]
fn the_request_is_composed_by_the_pooler() {
    let sts = Listener::answering(Some(
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
    ));
    let (pooler, proof) = sts.pooler();
    assert_eq!(pooler.refused(&proof).0, "28000");
    let requests = sts.requests().remove(0).to_ascii_lowercase();
    assert!(requests.starts_with("get /?action=getcalleridentity&"), "{requests}");
    for line in
        ["accept: application/json", "host: sts.eu-west-1.amazonaws.com", "x-iambouncer-audience: tests"]
    {
        assert!(requests.lines().any(|given| given == line), "{line}\n{requests}");
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Listener::answering(Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()));
    let location = format!("http://127.0.0.1:{}/", elsewhere.port);
    let sts = Listener::answering(Some(format!(
        "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )));
    let (pooler, proof) = sts.pooler();
    let (code, text) = pooler.refused(&proof);
    assert_eq!(code, "08006");
    assert!(text.contains("a redirection"), "{text}");
    assert_eq!((sts.requests().len(), elsewhere.requests().len()), (1, 0));
}

#[test]
fn a_request_to_an_unresponsive_sts_times_out() {
    let sts = Listener::answering(None);
    let (pooler, proof) = sts.pooler();
    let began = Instant::now();
    let (code, text) = pooler.refused(&proof);
    assert_eq!(code, "08006");
    assert!(text.contains("did not answer in time"), "{text}");
    assert!(began.elapsed() >= Duration::from_secs(4), "the timeout was not reached");
}

#[test]
fn a_throttled_request_is_tried_three_times() {
    let answer = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let sts = Listener::answering(Some(answer.into()));
    let (pooler, proof) = sts.pooler();
    assert_eq!(pooler.refused(&proof).0, "08006");
    assert_eq!(sts.requests().len(), 3);
}

#[test]
fn at_most_sixteen_sts_requests_are_open_at_a_time() {
    let sts = Listener::answering(None);
    let (pooler, _) = sts.pooler();
    let clients: Vec<_> = (0..24)
        .map(|age| {
            let (port, config) = (pooler.bouncer.port, pooler.side.config());
            let proof = proof_aged(Duration::from_secs(10 * age));
            std::thread::spawn(move || TlsClient::log_in_with(port, config, "app", "app", &proof).is_err())
        })
        .collect();
    for client in clients {
        assert!(client.join().unwrap());
    }
    let mut times: Vec<Instant> = sts.recorded.requests.lock().unwrap().iter().map(|(at, _)| *at).collect();
    times.sort_unstable();
    assert_eq!(times.len(), 24);
    // The seventeenth had to wait until the first timed out.
    let waited = times[16] - times[0];
    assert!(waited >= Duration::from_secs(4), "{waited:?}");
}

#[test]
fn at_most_eight_tokens_are_verified_by_the_database_at_a_time() {
    let rds = Rds::with(|start| start.set("default_pool_size = 1"));
    rds.sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_millis(300));
    let clients: Vec<_> = (0..20)
        .map(|age| {
            let (port, config) = (rds.bouncer.port, rds.side.config());
            let token = rds.signed_ago(Duration::from_secs(10 * age)).token();
            std::thread::spawn(move || TlsClient::log_in_with(port, config, "app", "app", &token).is_ok())
        })
        .collect();
    for client in clients {
        assert!(client.join().unwrap());
    }
    // The pool's own login is in addition to the probes.
    let most = rds.sim.simulator.most_logins_at_once();
    assert!(most <= 8 + 1, "{most}");
    assert_eq!(proofs(&rds.bouncer, "accepted"), 20.0);
}

/// A result applies to one database: another line of the same endpoint is verified separately.
#[test]
fn a_token_is_verified_separately_for_each_database() {
    let rds = Rds::with_lines(|line| {
        format!("{line}\n{}", line.replacen("app = ", "other = ", 1).replace("dbname=app", "dbname=postgres"))
    });
    let token = rds.signed_ago(Duration::ZERO).token();
    for (database, sts_requests) in [("app", 1), ("app", 1), ("other", 2), ("other", 2)] {
        let client = TlsClient::log_in_with(rds.bouncer.port, rds.side.config(), "app", database, &token);
        assert!(client.is_ok(), "{database}");
        assert_eq!(proofs(&rds.bouncer, "accepted"), f64::from(sts_requests), "{database}");
    }
}

#[test]
fn a_proof_for_a_previous_audience_is_refused() {
    let sts = Sts::start();
    let proof = proof_aged(Duration::ZERO);
    assert!(sts.log_in(&proof).is_ok());
    let ini = std::fs::read_to_string(sts.bouncer.ini()).unwrap();
    std::fs::write(sts.bouncer.ini(), ini.replace("iam_sts_audience = tests", "iam_sts_audience = others"))
        .unwrap();
    sts.bouncer.signal(rustix::process::Signal::HUP);
    eventually("a proof for the old audience is refused", || sts.log_in(&proof).is_err());
}

/// Different from the age of every other proof here: a proof made a second later with an age one second
/// higher is the same proof.
const AGED: Duration = Duration::from_secs(200);

#[test]
fn proofs_are_counted_by_result() {
    let sts = Sts::start();
    let proof = proof_aged(Duration::ZERO);
    for _ in 0..3 {
        assert!(sts.log_in(&proof).is_ok());
    }
    sts.refused("a password");
    sts.refused(&proof_aged(Duration::from_secs(1000)));
    assert!(sts.log_in_as("admin", &proof).is_err());
    let mut plain = Client::start(sts.bouncer.port, &[("user", "app"), ("database", "app")]);
    plain.read().unwrap();
    sts.endpoint.set(|settings| settings.fail_with = Some(500));
    sts.refused(&proof_aged(Duration::from_secs(100)));
    sts.endpoint.set(|settings| (settings.fail_with, settings.deny) = (None, true));
    let denied = proof_aged(AGED);
    sts.refused(&denied);
    sts.refused(&denied);
    let counted = ["accepted", "remembered", "malformed", "not_mapped", "no_tls", "unavailable", "refused"]
        .map(|result| proofs(&sts.bouncer, result));
    assert_eq!(counted, [1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0]);
}

#[test]
fn a_token_is_never_sent_to_a_server_that_requests_scram() {
    let hba = "local all postgres trust\nlocal all all scram-sha-256\n".to_owned();
    let options = rds_sim::postgres::PostgresOptions { hba: Some(hba), ..Default::default() };
    let server = crate::support::postgres::start(options);
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    let rds = Rds::in_front_of(&server, &["other_user"]);
    let (code, text, hint) = rds.log_in(&rds.signed_ago(Duration::ZERO).token()).err().unwrap();
    assert_eq!(code, "28000");
    assert!(text.contains("SCRAM") && hint.ends_with("[IAM004]"), "{text} {hint}");
    assert!(!server.log().contains("X-Amz"));
    let log = rds.bouncer.wait_for_line("probe login with the IAM token of a client failed");
    assert!(log.contains("cause=\"IAM004\" reason=\"not_rds_iam\""), "{log}");
}

fn proofs(bouncer: &Bouncer, result: &str) -> f64 {
    let scrape = crate::support::http::scrape(bouncer.http_port());
    scrape.sum("iambouncer_client_proofs_total", &[("result", result)]).unwrap()
}

#[test]
fn a_proof_of_sixty_kilobytes_is_refused_without_an_sts_request() {
    let sts = Sts::start();
    let (_, text) = sts.refused(&"x".repeat(60_000));
    assert!(text.contains("longer than"), "{text}");
    assert_eq!(sts.sts_requests(), 0);
}
