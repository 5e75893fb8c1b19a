//! Metrics, SHOW TOKENS and the log report credentials that expire with correct values; and the login rate
//! limit applies to all workers together.

use crate::support::bouncer::Start;
use crate::support::http::{Scrape, scrape};
use crate::support::sim::Sim;
use crate::support::workers::worker_of_client;
use crate::support::{Bouncer, Client, eventually, postgres};
use rds_sim::{CredentialServer, CredentialSettings};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const ARN: &str = "arn:aws:sts::123456789012:assumed-role/rds-sim-role/rds-sim";
const LIFE: Duration = Duration::from_secs(2 * 3600);
/// Tolerance between two readings of the clock.
const SLOWEST_SECONDS: f64 = 30.0;
const IDENTITY: (&str, &str) = ("identity", "default");

/// An ECS task, which may call STS.
fn task<'a>(sim: &Sim, endpoint: &CredentialServer, line: &'a str) -> Start<'a> {
    let authorization = sim.dir().join("authorization");
    std::fs::write(&authorization, CredentialSettings::default().authorization).unwrap();
    let mut variables = endpoint.container_environment(&authorization);
    variables.extend(endpoint.sts_environment());
    let start = sim.keyless(line).set("http_port = auto");
    variables.into_iter().fold(start, |start, (key, value)| start.env(key, &value))
}

fn endpoint(sim: &Sim) -> CredentialServer {
    sim.credentials(CredentialSettings { life: LIFE, ..CredentialSettings::default() })
}

/// Seconds until the issued key expires.
fn seconds_left(sim: &Sim) -> f64 {
    let end = sim.last_key().ends_at.expect("an end");
    end.duration_since(sim.simulator.clock().now()).unwrap().as_secs_f64()
}

fn scrape_when_identified(bouncer: &Bouncer) -> Scrape {
    let info = |scrape: &Scrape| scrape.sum("iambouncer_aws_identity_info", &[("arn", ARN)]);
    let mut last = scrape(bouncer.http_port());
    eventually("STS has reported the identity", || {
        last = scrape(bouncer.http_port());
        info(&last).is_some()
    });
    last
}

#[test]
fn metrics_report_expiry_provider_and_clock_skew_of_credentials() {
    for ahead_seconds in [-120, 0, 120] {
        let sim = Sim::in_front_of(postgres());
        // The AWS clock is off in the opposite direction.
        sim.simulator.clock().advance(-ahead_seconds);
        let endpoint = endpoint(&sim);
        let line = sim.database();
        let bouncer = task(&sim, &endpoint, &line).start();
        assert_eq!(bouncer.client().value("SELECT 1"), "1");
        let shown = scrape_when_identified(&bouncer);

        let labels = [IDENTITY, ("arn", ARN), ("provider", "container")];
        assert_eq!(shown.sum("iambouncer_aws_identity_info", &labels), Some(1.0), "{}", shown.text);
        let skew = shown.sum("iambouncer_aws_clock_skew_seconds", &[IDENTITY]).expect("a clock");
        assert!((skew - ahead_seconds as f64).abs() <= SLOWEST_SECONDS, "{skew}, not {ahead_seconds}");
        // The expiry is a time on AWS's clock; the remaining seconds are counted on the local clock.
        let expected = seconds_left(&sim) - ahead_seconds as f64;
        let left = shown.sum("iambouncer_aws_credentials_expires_seconds", &[IDENTITY]).expect("an end");
        assert!((left - expected).abs() <= SLOWEST_SECONDS, "{left}, not {expected}");
    }
}

#[test]
fn metrics_count_failed_fetches_and_report_no_expiry_without_credentials() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = endpoint(&sim);
    endpoint.set(|settings| settings.fail_with = Some(403));
    let line = sim.database();
    let bouncer = task(&sim, &endpoint, &line).set("query_wait_timeout = 30").start();
    let mut waiting = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    bouncer.wait_for_line("cause=\"IAM015\"");
    let fetches = |scrape: &Scrape, result| {
        scrape.sum("iambouncer_aws_credentials_refresh_total", &[IDENTITY, ("result", result)])
    };
    let shown = scrape(bouncer.http_port());
    assert!(fetches(&shown, "failed") >= Some(1.0) && fetches(&shown, "ok") == Some(0.0), "{}", shown.text);
    assert_eq!(shown.sum("iambouncer_aws_credentials_expires_seconds", &[]), None);
    let labels = [IDENTITY, ("arn", ""), ("provider", "")];
    assert_eq!(shown.sum("iambouncer_aws_identity_info", &labels), Some(1.0), "{}", shown.text);
    let (error, shown_error) = ("could not be fetched", bouncer.show("TOKENS", "last_error"));
    assert!(shown_error.len() == 1 && shown_error[0].contains(error), "{shown_error:?}");

    endpoint.set(|settings| settings.fail_with = None);
    waiting.until_ready();
    assert_eq!(fetches(&scrape(bouncer.http_port()), "ok"), Some(1.0));
    assert_eq!(bouncer.show("TOKENS", "last_error"), [""]);
}

#[test]
fn show_tokens_and_the_startup_log_report_when_the_credentials_expire() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = endpoint(&sim);
    let line = sim.database();
    let bouncer = task(&sim, &endpoint, &line).start();
    bouncer.client().value("SELECT 1");
    scrape_when_identified(&bouncer);
    let key = sim.last_key();
    let end = iambouncer::identities::text_of_time(whole_seconds(key.ends_at.unwrap()));
    let column = |name: &str| bouncer.show("TOKENS", name).remove(0);
    assert_eq!(
        (column("credentials_until"), column("access_key_id")),
        (end.clone(), key.access_key_id.clone())
    );
    assert_eq!((column("provider").as_str(), column("last_error").as_str()), ("container", ""));
    let line = bouncer.wait_for_line("AWS identity identity=default");
    let expected =
        format!("arn={ARN} provider=\"container\" access_key_id=\"{}\" until=\"{end}\"", key.access_key_id);
    assert!(line.ends_with(&expected), "{line}");
}

/// Expiry times are issued in whole seconds.
fn whole_seconds(at: std::time::SystemTime) -> std::time::SystemTime {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
    std::time::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[test]
fn show_tokens_counts_the_logins_of_the_last_second() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&[]);
    let (mut client, mut console) = (bouncer.client(), bouncer.console());
    let recent_logins = |console: &mut Client| {
        console.column("SHOW TOKENS", "logins_per_second").remove(0).parse::<usize>().unwrap()
    };
    eventually("the first login is more than a second ago", || recent_logins(&mut console) == 0);
    eventually("logins are counted", || {
        console.query("RECONNECT app");
        client.value("SELECT 1");
        let (counted, (all, _)) = (recent_logins(&mut console), sim.simulator.log().accepted_and_refused());
        assert!(counted <= all, "{counted} of {all}");
        counted > 1
    });
    eventually("they are more than a second ago", || recent_logins(&mut console) == 0);
}

#[test]
fn the_login_rate_limit_covers_all_workers() {
    const CLIENTS_PER_WORKER: usize = 2;
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&["workers = 2", "iam_login_rate = 1"]);
    let began = Instant::now();
    let mut at: BTreeMap<usize, Vec<Client>> = BTreeMap::new();
    eventually("clients at both workers", || {
        let client = bouncer.client();
        at.entry(worker_of_client(&client)).or_default().push(client);
        at.len() == 2 && at.values().all(|clients| clients.len() >= CLIENTS_PER_WORKER)
    });
    let mut clients: Vec<Client> =
        at.into_values().flat_map(|clients| clients.into_iter().take(CLIENTS_PER_WORKER)).collect();
    for client in &mut clients {
        client.send_query("BEGIN");
    }
    for client in &mut clients {
        client.until_ready();
    }
    let (accepted, refused) = sim.simulator.log().accepted_and_refused();
    let elapsed = began.elapsed();
    assert!(accepted >= 2 * CLIENTS_PER_WORKER && refused == 0, "{accepted} {refused}");
    // The first login is free. Workers that counted separately would allow two at a time.
    assert!(elapsed >= Duration::from_secs(accepted as u64 - 1), "{accepted} in {elapsed:?}");
}
