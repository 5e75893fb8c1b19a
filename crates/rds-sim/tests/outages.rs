//! Outages of STS and instance metadata, with the real SDK in rds-iam's engine. Until the cached credentials
//! expire, there is no effect; afterwards the reason is reported; after the outage everything works again.
//!
//! As in `credentials`, the SDK runs in a child process: this test program again. It has a clock that it
//! moves on command, in step with the simulator's.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod support;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rds_iam::{AwsCredentials, Identity, OffsetClock, TokenEngine, TokenKey};
use rds_sim::{CredentialServer, CredentialSettings, Simulator, TokenTarget, verify};
use support::{HOST, REGION};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Set in the child.
const CHILD_VARIABLE: &str = "RDS_SIM_TEST_OUTAGE";
const PORT: u16 = 5432;
const TIMEOUT: Duration = Duration::from_secs(60);
const MINUTE: i64 = 60;
/// Half of it is left when they are renewed.
const LIFE: Duration = Duration::from_secs(40 * 60);
/// Number of users that request tokens in a row; each needs its own token, and therefore credentials.
const USERS: usize = 30;
/// Maximum number of attempts of the SDK for one fetch of the engine.
const MAX_TRIES_PER_FETCH: u64 = 4;

/// An engine in a child process.
struct Engine {
    simulator: Simulator,
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    requests: usize,
}

impl Engine {
    fn start(simulator: &Simulator, environment: Vec<(&'static str, String)>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).kill_on_drop(true).env_clear();
        command.env(CHILD_VARIABLE, "yes").env("AWS_CONFIG_FILE", "/dev/null").envs(environment);
        command.env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let answers = BufReader::new(answers).lines();
        Self { simulator: simulator.clone(), child, commands, answers, requests: 0 }
    }

    async fn command(&mut self, text: &str) -> String {
        self.commands.write_all(format!("{text}\n").as_bytes()).await.unwrap();
        loop {
            let line = tokio::time::timeout(TIMEOUT, self.answers.next_line()).await.expect("an answer");
            // The output of the test harness is in between.
            if let Some(answer) = line.unwrap().expect("the child is running").strip_prefix("answer: ") {
                return answer.to_owned();
            }
        }
    }

    /// Advances both clocks.
    async fn advance(&mut self, minutes: i64) {
        self.simulator.clock().advance(minutes * MINUTE);
        self.command(&format!("advance {}", minutes * MINUTE)).await;
    }

    /// A token for a new user, or the error.
    async fn request_token(&mut self) -> Result<String, String> {
        self.requests += 1;
        let user = format!("user{}", self.requests);
        let answer = self.command(&format!("token {user}")).await;
        let Some(token) = answer.strip_prefix("token=") else { return Err(answer) };
        let target = TokenTarget { hosts: vec![HOST.to_owned()], port: PORT, region: REGION.to_owned() };
        let now = self.simulator.clock().now();
        Ok(verify(token, &user, &target, self.simulator.keys(), now).expect("a good token").access_key_id)
    }

    /// Expects that all users get tokens signed by this key.
    async fn expect_tokens_of(&mut self, key_id: &str) {
        for _ in 0..USERS {
            assert_eq!(self.request_token().await.as_deref(), Ok(key_id));
        }
    }

    /// Expects that no user gets a token, and the same error for all.
    async fn expect_error(&mut self) -> String {
        let error = self.request_token().await.unwrap_err();
        for _ in 1..USERS {
            assert_eq!(self.request_token().await.as_ref(), Err(&error));
        }
        error
    }

    async fn end(mut self) {
        drop(self.commands);
        assert!(tokio::time::timeout(TIMEOUT, self.child.wait()).await.unwrap().unwrap().success());
    }
}

/// Not a test by itself: what the child does.
#[tokio::test]
async fn child() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let clock = Arc::new(OffsetClock::default());
    let engine = TokenEngine::with_clock(AwsCredentials::shared(), Arc::<OffsetClock>::clone(&clock));
    // Background fetches continue between commands.
    let (sender, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| sender.send(line.unwrap())));
    println!();
    while let Some(command) = commands.recv().await {
        let answer = match command.split_once(' ').unwrap_or((&command, "")) {
            ("advance", seconds) => {
                clock.advance(seconds.parse().unwrap());
                "done".to_owned()
            }
            ("token", user) => {
                let key = TokenKey::new(HOST, PORT, user, None, Identity::default()).unwrap();
                match engine.token(&key).await {
                    Ok(token) => format!("token={}", token.expose()),
                    Err(error) => format!("{} {error}", error.label()),
                }
            }
            ("provider", _) => engine.credentials_snapshot().remove(0).provider.unwrap_or_default(),
            (other, _) => panic!("{other}"),
        };
        println!("answer: {answer}");
    }
}

async fn start(settings: CredentialSettings) -> (Simulator, CredentialServer) {
    let simulator = Simulator::default();
    let server = CredentialServer::start(&simulator, "127.0.0.1:0".parse().unwrap(), settings).await.unwrap();
    (simulator, server)
}

fn settings() -> CredentialSettings {
    CredentialSettings { life: LIFE, ..CredentialSettings::default() }
}

fn service_account() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a token of the cluster").unwrap();
    file
}

async fn wait_for_refused(server: &CredentialServer, count: u64) {
    let deadline = Instant::now() + TIMEOUT;
    while server.calls().refused < count {
        assert!(Instant::now() < deadline, "only {:?}", server.calls());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An outage of twenty minutes and more, past the expiry of the credentials, and the recovery. Returns the
/// error during the outage.
async fn run_through_an_outage(engine: &mut Engine, server: &CredentialServer) -> String {
    let first = engine.request_token().await.unwrap();
    server.set(|settings| settings.fail_with = Some(500));
    // Half of their life is over, so each request finds them due.
    engine.advance(20).await;
    engine.expect_tokens_of(&first).await;
    wait_for_refused(server, 1).await;
    engine.advance(15).await;
    engine.expect_tokens_of(&first).await;
    engine.advance(5).await;
    let error = engine.expect_error().await;
    let refused = server.calls().refused;
    assert!(refused <= 4 * MAX_TRIES_PER_FETCH, "{refused} calls for {} requests", engine.requests);

    server.set(|settings| settings.fail_with = None);
    engine.advance(1).await;
    let second = engine.request_token().await.unwrap();
    assert_ne!(first, second);
    engine.expect_tokens_of(&second).await;
    error
}

#[tokio::test]
async fn an_sts_outage_has_no_effect_until_the_credentials_expire() {
    let (simulator, server) = start(settings()).await;
    let file = service_account();
    let mut engine = Engine::start(&simulator, server.web_identity_environment(file.path()));
    let error = run_through_an_outage(&mut engine, &server).await;
    assert!(
        error.starts_with("unavailable AWS credentials of identity default could not be fetched: ")
            && error.ends_with(". Check the network path to the metadata service or STS"),
        "{error}"
    );
    assert_eq!(server.calls().assume_role_with_web_identity, 2);
    engine.end().await;
}

#[tokio::test]
async fn a_metadata_outage_has_no_effect_until_the_credentials_expire() {
    let (simulator, server) = start(settings()).await;
    let mut engine = Engine::start(&simulator, server.imds_environment());
    let error = run_through_an_outage(&mut engine, &server).await;
    // The SDK keeps returning its cached credentials.
    assert!(
        error.starts_with("expired_credentials expired AWS credentials for identity default: ")
            && error.contains("instance metadata that no longer refreshes")
            && error.ends_with(". Check the clock and the credential source"),
        "{error}"
    );
    assert_eq!(server.calls().imds_credentials, 2);
    engine.end().await;
}

#[tokio::test]
async fn credentials_cached_by_the_sdk_keep_their_provider() {
    let (simulator, server) = start(settings()).await;
    let mut engine = Engine::start(&simulator, server.imds_environment());
    let first = engine.request_token().await.unwrap();
    assert_eq!(engine.command("provider").await, "instance metadata");
    server.set(|settings| settings.fail_with = Some(500));
    engine.advance(20).await;
    engine.expect_tokens_of(&first).await;
    wait_for_refused(&server, MAX_TRIES_PER_FETCH).await;
    engine.advance(10).await;
    engine.expect_tokens_of(&first).await;
    assert_eq!(engine.command("provider").await, "instance metadata");
    engine.end().await;
}

#[tokio::test]
async fn expired_credentials_cached_by_the_sdk_are_rejected() {
    let issue_ended = Some(Duration::from_secs(60));
    let (simulator, server) = start(CredentialSettings { issue_ended, reissue: false, ..settings() }).await;
    let mut engine = Engine::start(&simulator, server.imds_environment());
    let error = engine.request_token().await.unwrap_err();
    assert!(error.starts_with("expired_credentials "), "{error}");
    // From now on the SDK answers from its cache, without the source of the credentials, and with the
    // extended expiry.
    server.set(|settings| settings.fail_with = Some(500));
    let refused = server.calls().refused;
    engine.advance(2).await;
    let error = engine.request_token().await.unwrap_err();
    assert!(error.starts_with("expired_credentials "), "{error}");
    assert!(server.calls().refused > refused, "the SDK did not send a request");
    engine.end().await;
}

#[tokio::test]
async fn an_unreachable_sts_has_no_effect_until_the_credentials_expire() {
    let (simulator, server) = start(settings()).await;
    let file = service_account();
    let mut engine = Engine::start(&simulator, server.web_identity_environment(file.path()));
    let first = engine.request_token().await.unwrap();
    drop(server);
    engine.advance(20).await;
    engine.expect_tokens_of(&first).await;
    engine.advance(15).await;
    engine.expect_tokens_of(&first).await;
    engine.advance(5).await;
    let error = engine.expect_error().await;
    assert!(error.starts_with("unavailable ") && error.contains("Connection refused"), "{error}");
    engine.end().await;
}
