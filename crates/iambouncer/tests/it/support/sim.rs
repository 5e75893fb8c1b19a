//! The RDS simulator in front of PostgreSQL, and a pooler that logs in through it. Owns the simulator's
//! runtime, its certificate file and the AWS key; tests control it through [`Sim::simulator`].

use super::Bouncer;
use super::bouncer::Start;
use rds_sim::postgres::Postgres;
use rds_sim::{
    AccessKey, Backend, Certificates, CredentialServer, CredentialSettings, DnsServer, IamFrontend,
    IamFrontendOptions, LoginOutcome, Simulator, TokenTarget,
};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The endpoint's name; connections are made to `localhost`.
pub const RDS_HOST: &str = "db.c9akciq32rgh.eu-west-1.rds.amazonaws.com";
pub const REGION: &str = "eu-west-1";
pub const KEY_ID: &str = "AKIDTESTS";
pub const SECRET: &str = "a/secret+of-the-tests";

/// A simulated endpoint with one access key. It closes when dropped.
pub struct Sim {
    pub simulator: Simulator,
    door: IamFrontend,
    key: AccessKey,
    dir: tempfile::TempDir,
    /// Declared last, so that it is dropped last.
    runtime: Runtime,
}

impl Sim {
    /// An endpoint for user `app`, with a static key.
    pub fn in_front_of(server: &Postgres) -> Self {
        Self::for_users(server, RDS_HOST, REGION, &["app"])
    }

    /// An endpoint with this host name and these IAM users.
    pub fn for_users(server: &Postgres, host: &str, region: &str, users: &[&str]) -> Self {
        Self::with_certificate_until(None, server, host, region, users)
    }

    /// Like `for_users`, with a certificate that expires in this many days, or expired if negative.
    pub fn with_certificate_until(
        days_left: Option<i64>,
        server: &Postgres,
        host: &str,
        region: &str,
        users: &[&str],
    ) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::listening_at(listen, days_left, server, host, region, users)
    }

    /// Like `with_certificate_until`, at this address.
    pub fn listening_at(
        listen: SocketAddr,
        days_left: Option<i64>,
        server: &Postgres,
        host: &str,
        region: &str,
        users: &[&str],
    ) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let hosts = vec!["localhost".to_owned(), host.to_owned()];
        let certificates = Certificates::generate_until(&hosts, days_left).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificates.ca_pem()).unwrap();
        let simulator = Simulator::default();
        let key = AccessKey::parse(&format!("{KEY_ID}:{SECRET}")).unwrap();
        simulator.keys().add(key.clone());
        let options = IamFrontendOptions {
            listen,
            target: TokenTarget { hosts, port: 0, region: region.to_owned() },
            iam_users: users.iter().map(|&user| user.to_owned()).collect(),
            backend: Backend::from(server),
            force_ssl: false,
            certificates,
        };
        let door = runtime.block_on(IamFrontend::open(&simulator, options)).unwrap();
        Self { simulator, door, key, dir, runtime }
    }

    /// Replaces the key in the environment with a temporary one whose session token has this length.
    pub fn use_session_token(&mut self, bytes: usize) -> String {
        let now = self.simulator.clock().now();
        self.key = self.simulator.keys().issue(now, Duration::from_secs(3600), bytes);
        self.key.session_token.as_ref().unwrap().to_string()
    }

    /// The port of the endpoint.
    pub fn port(&self) -> u16 {
        self.door.address().port()
    }

    /// The file with the CA of the endpoint's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A directory for files of the test.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// The environment through which the pooler finds its AWS key.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), self.key.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.key.secret.to_string()),
        ];
        if let Some(token) = &self.key.session_token {
            variables.push(("AWS_SESSION_TOKEN".to_owned(), token.to_string()));
        }
        variables
    }

    /// The line of database `app`.
    pub fn database(&self) -> String {
        let port = self.port();
        format!(
            "app = host=localhost port={port} dbname=app server_auth=iam iam_host={RDS_HOST} iam_port={port}"
        )
    }

    /// A start of a pooler without an AWS key.
    pub fn keyless<'a>(&self, databases: &'a str) -> Start<'a> {
        Start::databases(databases)
            .set("server_tls_sslmode = verify-full")
            .set(&format!("server_tls_ca_file = {}", self.ca_file().display()))
    }

    /// A start of a pooler with the AWS key.
    pub fn start<'a>(&self, databases: &'a str) -> Start<'a> {
        let start = self.keyless(databases);
        self.environment().iter().fold(start, |start, (key, value)| start.env(key, value))
    }

    /// Starts a pooler with database `app` and these settings.
    pub fn pooler(&self, settings: &[&str]) -> Bouncer {
        let line = self.database();
        settings.iter().fold(self.start(&line), |start, setting| start.set(setting)).start()
    }

    /// Starts a name server without entries.
    pub fn dns(&self) -> DnsServer {
        self.runtime.block_on(DnsServer::start()).unwrap()
    }

    /// Starts endpoints that issue credentials valid at this simulator.
    pub fn credentials(&self, settings: CredentialSettings) -> CredentialServer {
        let listen = "127.0.0.1:0".parse().unwrap();
        self.runtime.block_on(CredentialServer::start(&self.simulator, listen, settings)).unwrap()
    }

    /// Signing times of the tokens of all accepted logins, in seconds since 1970.
    pub fn signed_at(&self) -> Vec<i64> {
        let attempts = self.simulator.log().attempts();
        let times = attempts.iter().filter_map(|attempt| match &attempt.outcome {
            LoginOutcome::Accepted { age_seconds, .. } => Some(attempt.at_seconds - age_seconds),
            _ => None,
        });
        times.collect()
    }

    /// The key of the last accepted login.
    pub fn last_key(&self) -> AccessKey {
        let attempts = self.simulator.log().attempts();
        let last = attempts.into_iter().rev().find_map(|attempt| match attempt.outcome {
            LoginOutcome::Accepted { access_key_id, .. } => Some(access_key_id),
            _ => None,
        });
        self.simulator.keys().get(&last.unwrap()).unwrap()
    }

    /// The reasons of refused logins.
    pub fn refusals(&self) -> Vec<String> {
        let attempts = self.simulator.log().attempts();
        let reasons = attempts.into_iter().filter_map(|attempt| match attempt.outcome {
            LoginOutcome::Refused { reason } => Some(reason),
            _ => None,
        });
        reasons.collect()
    }

    /// The simulator's clock in seconds since 1970.
    pub fn now(&self) -> i64 {
        let since = self.simulator.clock().now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs() as i64
    }
}
