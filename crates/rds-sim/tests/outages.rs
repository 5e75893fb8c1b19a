//! STS and instance metadata that are away for a while, with the real SDK in the pooler's own engine. While the
//! credentials at hand last, nobody notices; past their end the reason is told; afterwards all is as before.
//!
//! As in `credentials`, the SDK runs in a child process: this test program once more. It has a clock that it moves when
//! told to, in step with the simulator's.
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
const PATIENCE: Duration = Duration::from_secs(60);
const MINUTE: i64 = 60;
/// Half of it is left when they are renewed.
const LIFE: Duration = Duration::from_secs(40 * 60);
/// Users that ask in a row; each needs a token of its own, and thus looks for credentials.
const USERS: usize = 30;
/// Tries of the SDK for one fetch of ours, at most.
const MAX_TRIES_PER_FETCH: u64 = 4;

/// An engine in a process of its own.
struct Engine {
    simulator: Simulator,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    asked: usize,
}

impl Engine {
    fn start(simulator: &Simulator, environment: Vec<(&'static str, String)>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]).kill_on_drop(true).env_clear();
        command.env(CHILD_VARIABLE, "yes").env("AWS_CONFIG_FILE", "/dev/null").envs(environment);
        command.env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let answers = BufReader::new(answers).lines();
        Self { simulator: simulator.clone(), child, orders, answers, asked: 0 }
    }

    async fn order(&mut self, text: &str) -> String {
        self.orders.write_all(format!("{text}\n").as_bytes()).await.unwrap();
        loop {
            let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await.expect("an answer");
            // The test's own output is between.
            if let Some(answer) = line.unwrap().expect("the child lives").strip_prefix("answer: ") {
                return answer.to_owned();
            }
        }
    }

    /// Moves both clocks.
    async fn advance(&mut self, minutes: i64) {
        self.simulator.clock().advance(minutes * MINUTE);
        self.order(&format!("advance {}", minutes * MINUTE)).await;
    }

    /// A token for somebody who has none yet, or the error.
    async fn ask(&mut self) -> Result<String, String> {
        self.asked += 1;
        let user = format!("user{}", self.asked);
        let answer = self.order(&format!("token {user}")).await;
        let Some(token) = answer.strip_prefix("token=") else { return Err(answer) };
        let target = TokenTarget { hosts: vec![HOST.to_owned()], port: PORT, region: REGION.to_owned() };
        let now = self.simulator.clock().now();
        Ok(verify(token, &user, &target, self.simulator.keys(), now).expect("a good token").access_key_id)
    }

    /// All get tokens, which this key has signed.
    async fn expect_tokens_of(&mut self, key_id: &str) {
        for _ in 0..USERS {
            assert_eq!(self.ask().await.as_deref(), Ok(key_id));
        }
    }

    /// Nobody gets a token; the reason is the same for all.
    async fn expect_error(&mut self) -> String {
        let error = self.ask().await.unwrap_err();
        for _ in 1..USERS {
            assert_eq!(self.ask().await.as_ref(), Err(&error));
        }
        error
    }

    async fn end(mut self) {
        drop(self.orders);
        assert!(tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().success());
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
    // Fetches in the background go on while no order comes.
    let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| sender.send(line.unwrap())));
    println!();
    while let Some(order) = orders.recv().await {
        let answer = match order.split_once(' ').unwrap_or((&order, "")) {
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
    let deadline = Instant::now() + PATIENCE;
    while server.calls().refused < count {
        assert!(Instant::now() < deadline, "only {:?}", server.calls());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Twenty minutes and more without the source, past the end of the credentials, and back. The answer is the error of
/// the time between.
async fn live_through_an_outage(engine: &mut Engine, server: &CredentialServer) -> String {
    let first = engine.ask().await.unwrap();
    server.set(|settings| settings.fail_with = Some(500));
    // Half of their life is over, so each question finds them due.
    engine.advance(20).await;
    engine.expect_tokens_of(&first).await;
    wait_for_refused(server, 1).await;
    engine.advance(15).await;
    engine.expect_tokens_of(&first).await;
    engine.advance(5).await;
    let error = engine.expect_error().await;
    let refused = server.calls().refused;
    assert!(refused <= 4 * MAX_TRIES_PER_FETCH, "{refused} calls for {} questions", engine.asked);

    server.set(|settings| settings.fail_with = None);
    engine.advance(1).await;
    let second = engine.ask().await.unwrap();
    assert_ne!(first, second);
    engine.expect_tokens_of(&second).await;
    error
}

#[tokio::test]
async fn sts_that_is_away_is_noticed_when_the_credentials_have_ended_and_not_before() {
    let (simulator, server) = start(settings()).await;
    let file = service_account();
    let mut engine = Engine::start(&simulator, server.web_identity_environment(file.path()));
    let error = live_through_an_outage(&mut engine, &server).await;
    assert!(
        error.starts_with("unavailable AWS credentials of identity default could not be fetched: ")
            && error.ends_with(". Check the network path to the metadata service or STS"),
        "{error}"
    );
    assert_eq!(server.calls().assume_role_with_web_identity, 2);
    engine.end().await;
}

#[tokio::test]
async fn metadata_that_is_away_is_noticed_when_the_credentials_have_ended_and_not_before() {
    let (simulator, server) = start(settings()).await;
    let mut engine = Engine::start(&simulator, server.imds_environment());
    let error = live_through_an_outage(&mut engine, &server).await;
    // The SDK goes on handing out what it had.
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
async fn credentials_the_sdk_remembers_keep_their_origin() {
    let (simulator, server) = start(settings()).await;
    let mut engine = Engine::start(&simulator, server.imds_environment());
    let first = engine.ask().await.unwrap();
    assert_eq!(engine.order("provider").await, "instance metadata");
    server.set(|settings| settings.fail_with = Some(500));
    engine.advance(20).await;
    engine.expect_tokens_of(&first).await;
    wait_for_refused(&server, MAX_TRIES_PER_FETCH).await;
    engine.advance(10).await;
    engine.expect_tokens_of(&first).await;
    assert_eq!(engine.order("provider").await, "instance metadata");
    engine.end().await;
}

#[tokio::test]
async fn ended_credentials_that_the_sdk_remembers_are_not_believed() {
    let issue_ended = Some(Duration::from_secs(60));
    let (simulator, server) = start(CredentialSettings { issue_ended, reissue: false, ..settings() }).await;
    let mut engine = Engine::start(&simulator, server.imds_environment());
    let error = engine.ask().await.unwrap_err();
    assert!(error.starts_with("expired_credentials "), "{error}");
    // From now on the SDK answers from its memory, without a word about whose credentials they are, and with the end it
    // made up.
    server.set(|settings| settings.fail_with = Some(500));
    let refused = server.calls().refused;
    engine.advance(2).await;
    let error = engine.ask().await.unwrap_err();
    assert!(error.starts_with("expired_credentials "), "{error}");
    assert!(server.calls().refused > refused, "the SDK did not even ask");
    engine.end().await;
}

#[tokio::test]
async fn an_sts_that_nobody_listens_for_is_invisible_while_credentials_last() {
    let (simulator, server) = start(settings()).await;
    let file = service_account();
    let mut engine = Engine::start(&simulator, server.web_identity_environment(file.path()));
    let first = engine.ask().await.unwrap();
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
