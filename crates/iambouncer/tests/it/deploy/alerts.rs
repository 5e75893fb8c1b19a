//! Each alert whose condition can be produced in seconds fires in a real Prometheus that scrapes real poolers.

use super::monitoring::{AUTO, container, file, with_certificate, with_tokens};
use super::prometheus::{Prometheus, Target};
use super::stopped_thread::StoppedThread;
use crate::support::bouncer::Start;
use crate::support::sim::Sim;
use crate::support::{Bouncer, Client, answering, eventually, postgres};
use rds_sim::CredentialSettings;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Tokens and credentials that expire in less than two minutes.
const SHORT_LIFE: Duration = Duration::from_secs(100);
/// The longest wait of a client must exceed ten seconds.
const LIMIT: Duration = Duration::from_secs(40);

/// Alerts about load, with lower thresholds: a busy host gives no thread a whole CPU, and a debug build makes fewer logins per
/// second.
const LOAD: [(&str, &str, &str); 2] = [
    ("IambouncerWorkerBusy", "[10s]) > 0.9", "[10s]) > 0.2"),
    ("IambouncerServerLoginRate", "> 160", "> 10"),
];

/// The rules with times of seconds.
fn fast_rules() -> String {
    let text = file("alerts.yaml");
    let mut fast = String::new();
    for line in text.lines() {
        match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => fast.push_str(&format!("{indent}for: 1s")),
            _ => fast.push_str(line),
        }
        fast.push('\n');
    }
    ["[2m]", "[5m]", "[15m]", "[1h]"].iter().fold(fast, |fast, window| fast.replace(window, "[10s]"))
}

fn names() -> BTreeSet<String> {
    let text = file("alerts.yaml");
    text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// A server that answers, and after one query sends a second ReadyForQuery.
fn server_out_of_step() -> u16 {
    let has_misbehaved = AtomicBool::new(false);
    answering::server(move |message| {
        (message.tag == b'Q').then(|| {
            let mut answer = answering::usual_answer(b'Q');
            if !has_misbehaved.swap(true, Ordering::SeqCst) {
                wire::encode::ready_for_query(&mut answer);
            }
            answer
        })
    })
}

/// Poolers with one condition each, or several.
struct Poolers {
    sim: Sim,
    _credentials: rds_sim::CredentialServer,
    /// Tokens and credentials of a short life; refused logins.
    tokens: Bouncer,
    /// Databases `app` (one server), `short` (one server, a short timeout), `other` (paused), `mute` (a server that does
    /// not answer), `odd` (a server out of step) and `secret`.
    various: Bouncer,
    /// Stops.
    stopping: Bouncer,
    /// Has a worker that stops.
    silent: Bouncer,
    _mute: TcpListener,
    _dir: tempfile::TempDir,
}

impl Poolers {
    fn start() -> Self {
        let sim = Sim::in_front_of(postgres());
        let credentials = sim.credentials(CredentialSettings { life: SHORT_LIFE, ..Default::default() });
        let tokens = with_tokens(&sim, &sim.database(), &container(&sim, &credentials), &[]);
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let refusing = unused.local_addr().unwrap();
        drop(unused);
        let server = postgres().port();
        let line = |name: &str, port: u16, more: &str| {
            format!("{name} = host=127.0.0.1 port={port} dbname=app {more}\n")
        };
        let arn = "secret_arn=arn:aws:secretsmanager:eu-west-1:123456789012:secret:app-AbCdEf";
        let databases = [
            line("app", server, "pool_size=1"),
            line("short", server, "pool_size=1 query_wait_timeout=1"),
            line("other", server, ""),
            line("mute", mute.local_addr().unwrap().port(), ""),
            line("odd", server_out_of_step(), "pool_size=1"),
            line("secret", server, arn),
        ]
        .concat();
        let dir = tempfile::tempdir().unwrap();
        let start =
            Start::databases(&databases).set(AUTO).set("workers = 2").set("server_tls_sslmode = disable");
        let various = with_certificate(start, dir.path())
            .set("query_wait_timeout = 60")
            .env("AWS_ACCESS_KEY_ID", "AKIDTESTS")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_ENDPOINT_URL_SECRETS_MANAGER", &format!("http://{refusing}"))
            .start();
        let stopping = Bouncer::in_front_of(postgres(), &[AUTO]);
        let silent = Bouncer::in_front_of(postgres(), &[AUTO, "workers = 2"]);
        Self { sim, _credentials: credentials, tokens, various, stopping, silent, _mute: mute, _dir: dir }
    }

    fn log_in(&self, database: &str) -> Client {
        Client::start(self.various.port, &[("user", "app"), ("database", database)])
    }
}

#[test]
#[ignore = "needs Prometheus: make test-deploy"]
fn alerts_fire() {
    let mut poolers = Poolers::start();
    let targets = [
        Target::new("tokens", &poolers.tokens, "prometheus"),
        Target::new("various", &poolers.various, "prometheus"),
        Target::new("stopping", &poolers.stopping, "prometheus"),
        // The pooler waits a second for the worker, so a scrape takes longer.
        Target { interval_s: 2, ..Target::new("silent", &poolers.silent, "prometheus") },
    ];
    let prometheus = Prometheus::start(&targets, &fast_rules());
    // At least the certificate expires from the start. Of the others none fires.
    let mut fired = prometheus.firing();
    assert!(fired.iter().all(|name| name == "IambouncerCertificateExpires"), "{fired:?}");

    let various = &poolers.various;
    various.console().query("PAUSE other");
    let mut holder = Client::log_in(various.port, "app", "app");
    holder.query("BEGIN");
    let mut waiting = Client::log_in(various.port, "app", "app");
    waiting.send_query("SELECT 1");
    let text = std::fs::read_to_string(various.ini()).unwrap();
    std::fs::write(various.ini(), format!("{text}\ndefault_pool_size = many\n")).unwrap();
    various.console().query("RELOAD");
    let mut odd = Client::log_in(various.port, "app", "odd");
    odd.send_query("SELECT 1");
    odd.until_end();
    poolers.stopping.signal(rustix::process::Signal::INT);
    poolers.stopping.wait_for_end();
    let _stopped = StoppedThread::of(poolers.silent.pid(), "worker-1");
    drop(poolers.tokens.client());

    let mut expected = names();
    for (name, ..) in LOAD {
        assert!(expected.remove(name), "{name}");
    }
    let began = Instant::now();
    while !expected.is_subset(&fired) {
        let missing: Vec<_> = expected.difference(&fired).collect();
        assert!(began.elapsed() < LIMIT, "did not fire: {missing:?}");
        poolers.repeat();
        fired.extend(prometheus.firing());
    }
    drop((holder, waiting));
    let over = "IambouncerClientsWaiting";
    eventually("an alert ends with its condition", || !prometheus.firing().contains(over));
}

#[test]
#[ignore = "needs Prometheus: make test-deploy"]
fn alerts_about_load_fire() {
    let rules = LOAD.iter().fold(fast_rules(), |rules, (name, threshold, lower)| {
        assert_eq!(rules.matches(threshold).count(), 1, "{name}");
        rules.replace(threshold, lower)
    });
    // Each transaction has a login of its own.
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO, "server_lifetime = 0"]);
    let prometheus = Prometheus::start(&[Target::new("busy", &bouncer, "prometheus")], &rules);
    let (mut client, mut console) = (bouncer.client(), bouncer.console());
    let (began, mut fired) = (Instant::now(), BTreeSet::new());
    while !LOAD.iter().all(|(name, ..)| fired.contains(*name)) {
        assert!(began.elapsed() < LIMIT, "{fired:?}");
        for _ in 0..50 {
            client.query("SELECT 1");
            console.query("SHOW SETTINGS");
        }
        fired.extend(prometheus.firing());
    }
}

impl Poolers {
    /// What has to happen again and again, since an increase is noticed only between two scrapes.
    fn repeat(&self) {
        // A wait of more than half a second that ends with a server, and one that ends with the timeout.
        let mut holder = Client::log_in(self.various.port, "app", "short");
        holder.query("BEGIN");
        let mut waiting = Client::log_in(self.various.port, "app", "short");
        waiting.send_query("SELECT 1");
        waiting.until_end();
        let mut waiting = Client::log_in(self.various.port, "app", "short");
        waiting.send_query("SELECT 1");
        holder.query("SELECT pg_sleep(0.7)");
        holder.query("COMMIT");
        waiting.until_ready();
        for _ in 0..5 {
            drop(self.log_in("mute"));
        }
        drop(self.log_in("secret"));
        self.sim.simulator.faults().set(|faults| faults.refuse_next = 2);
        self.tokens.console().query("RECONNECT app");
        let mut refused = Client::start(self.tokens.port, &[("user", "app"), ("database", "app")]);
        refused.send_query("SELECT 1");
        refused.until_end();
    }
}
