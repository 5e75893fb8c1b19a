//! The simulated RDS that the examples log in to. Owns: PostgreSQL, the simulated endpoint in front of it,
//! one AWS key, and an engine on the simulator's clock. Everything ends with [`Fixture`].

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rds_iam::{Clock, CredentialFuture, CredentialSource, Credentials, Identity, TokenEngine};
use rds_sim::postgres::{Postgres, PostgresOptions};
use rds_sim::{
    AccessKey, Backend, Certificates, IamFrontend, IamFrontendOptions, LoginOutcome, SimClock, Simulator,
    TokenTarget,
};
use tempfile::TempDir;

/// A name in the certificate that resolves to the local machine.
const HOST: &str = "localhost";
const REGION: &str = "eu-west-1";
/// More than the 15 minutes for which a token is valid.
pub(crate) const BEYOND_LIFE_SECONDS: i64 = 16 * 60;
/// Lifetime of the AWS key.
const KEY_LIFE: Duration = Duration::from_secs(12 * 3600);
/// A typical length of STS session tokens.
const SESSION_TOKEN_BYTES: usize = 1200;
/// Time limit of a program and of [`Fixture::eventually`].
const TIME_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) simulator: Simulator,
    door: IamFrontend,
    key: AccessKey,
    dir: TempDir,
    _postgres: Postgres,
}

/// The simulator's clock, for the engine.
#[derive(Debug)]
struct SharedClock(SimClock);

impl Clock for SharedClock {
    fn now(&self) -> SystemTime {
        self.0.now()
    }
}

/// The same key for every identity.
#[derive(Debug)]
struct OneKey(Credentials);

impl CredentialSource for OneKey {
    fn fetch<'a>(&'a self, _: &'a Identity) -> CredentialFuture<'a> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let start = || {
            let postgres = Postgres::start(&PostgresOptions::default()).unwrap();
            postgres.sql("create role app login").unwrap();
            postgres.sql("create database app owner app").unwrap();
            postgres
        };
        let postgres = tokio::task::spawn_blocking(start).await.unwrap();
        let certificates = Certificates::generate(&[HOST.to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificates.ca_pem()).unwrap();
        let simulator = Simulator::default();
        let key = simulator.keys().issue(simulator.clock().now(), KEY_LIFE, SESSION_TOKEN_BYTES);
        let options = IamFrontendOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            target: TokenTarget { hosts: vec![HOST.to_owned()], port: 0, region: REGION.to_owned() },
            iam_users: vec!["app".to_owned()],
            backend: Backend::from(&postgres),
            force_ssl: true,
            certificates,
        };
        let door = IamFrontend::open(&simulator, options).await.unwrap();
        Self { simulator, door, key, dir, _postgres: postgres }
    }

    /// An engine on the simulator's clock, without a refresher.
    pub(crate) fn engine(&self) -> TokenEngine {
        let key = &self.key;
        let session_token = key.session_token.as_ref().map(|token| token.to_string());
        let credentials =
            Credentials::new(&key.access_key_id, key.secret.as_str(), session_token, key.ends_at, "test");
        let clock = SharedClock(self.simulator.clock().clone());
        TokenEngine::with_clock(Arc::new(OneKey(credentials)), Arc::new(clock))
    }

    /// The value of a variable that an example reads.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.variables().into_iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    fn variables(&self) -> [(&'static str, String); 8] {
        let secret = |text: Option<&str>| text.unwrap_or_default().to_owned();
        [
            ("PGHOST", HOST.to_owned()),
            ("PGPORT", self.door.address().port().to_string()),
            ("PGUSER", "app".to_owned()),
            ("PGSSLROOTCERT", self.dir.path().join("ca.pem").display().to_string()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.key.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.key.secret.to_string()),
            ("AWS_SESSION_TOKEN", secret(self.key.session_token.as_ref().map(|token| token.as_str()))),
        ]
    }

    /// Refuses the next valid token.
    pub(crate) fn refuse_once(&self) {
        self.simulator.faults().set(|settings| settings.refuse_next = 1);
    }

    /// Cuts all sessions, as a failover does.
    pub(crate) fn cut_all(&self) {
        self.simulator.faults().cut_now();
    }

    /// Expects `count` accepted logins, each with a different token signed when the login was due, and no
    /// refusal.
    pub(crate) fn assert_fresh_logins(&self, count: usize) {
        let attempts = self.simulator.log().attempts();
        let mut signed_at = Vec::new();
        for attempt in &attempts {
            let LoginOutcome::Accepted { age_seconds, .. } = attempt.outcome else { panic!("{attempts:?}") };
            assert!(age_seconds < BEYOND_LIFE_SECONDS / 2, "{attempts:?}");
            signed_at.push(attempt.at_seconds - age_seconds);
        }
        signed_at.dedup();
        assert_eq!((attempts.len(), signed_at.len()), (count, count), "{attempts:?}");
    }

    /// Expects that one login was refused on demand and the last one accepted.
    pub(crate) fn assert_one_refusal(&self) {
        assert_eq!(self.refusals(), ["refused on demand"]);
        let last = self.simulator.log().attempts().pop().unwrap();
        assert!(matches!(last.outcome, LoginOutcome::Accepted { .. }), "{last:?}");
    }

    /// The reasons of refused logins.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let attempts = self.simulator.log().attempts();
        let reasons = attempts.into_iter().filter_map(|attempt| match attempt.outcome {
            LoginOutcome::Refused { reason } => Some(reason),
            _ => None,
        });
        reasons.collect()
    }

    /// Repeats until true: a pool that returns connections unchecked occasionally returns a lost one.
    pub(crate) async fn eventually(&self, condition: impl AsyncFn() -> bool) {
        let tries = async {
            while !condition().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TIME_LIMIT, tries).await.expect("the condition holds in time");
    }
}

/// Runs an example as a program and returns its output. Cargo builds examples with all tests.
pub(crate) async fn run_program(fixture: &Fixture, example: &str) -> String {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples").join(example);
    assert!(program.is_file(), "cargo build -p rds-iam-examples --examples makes {}", program.display());
    let mut command = tokio::process::Command::new(program);
    command.env_clear().envs(fixture.variables()).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(TIME_LIMIT, command.output()).await.expect("the program exits in time").unwrap();
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
