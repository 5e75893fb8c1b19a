//! The engine with scripted credentials and a controlled clock: nothing here sleeps or calls AWS.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rds_iam::{
    Clock, CredentialError, CredentialFuture, CredentialSource, Credentials, Identity, TokenEngine,
    TokenError, TokenKey,
};
use tokio::sync::Semaphore;

const HOST: &str = "db.c1.eu-west-1.rds.amazonaws.com";
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct TestClock(Mutex<SystemTime>);

impl TestClock {
    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

/// Result of the next fetch: a key with a lifetime, or an error.
#[derive(Clone, Debug)]
enum Step {
    Key(&'static str, Option<Duration>),
    Fails,
    Refused,
    Panics,
}

#[derive(Debug)]
struct Script {
    steps: Mutex<VecDeque<Step>>,
    calls: AtomicUsize,
    clock: Arc<TestClock>,
    /// Each fetch takes a permit; initially without permits in tests of concurrent fetches.
    gate: Semaphore,
}

impl CredentialSource for Script {
    fn fetch<'a>(&'a self, _identity: &'a Identity) -> CredentialFuture<'a> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            let step = {
                let mut steps = self.steps.lock().unwrap();
                if steps.len() > 1 { steps.pop_front() } else { steps.front().cloned() }
            };
            match step.unwrap() {
                Step::Key(id, life) => {
                    let end = life.map(|life| self.clock.now() + life);
                    Ok(Credentials::new(id, "SECRET-KEY", Some("SESSION-TOKEN".into()), end, "script"))
                }
                Step::Fails => Err(CredentialError::Unavailable { reason: "STS is unreachable".into() }),
                Step::Panics => panic!("SECRET-KEY is not a path"),
                Step::Refused => Err(CredentialError::Refused { reason: "AccessDenied".into() }),
            }
        })
    }
}

struct Fixture {
    engine: TokenEngine,
    clock: Arc<TestClock>,
    script: Arc<Script>,
    key: TokenKey,
}

fn fixture(steps: &[Step]) -> Fixture {
    gated_fixture(steps, Semaphore::MAX_PERMITS)
}

fn gated_fixture(steps: &[Step], permits: usize) -> Fixture {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_322_096);
    let clock = Arc::new(TestClock(Mutex::new(start)));
    let script = Arc::new(Script {
        steps: Mutex::new(steps.iter().cloned().collect()),
        calls: AtomicUsize::new(0),
        clock: Arc::clone(&clock),
        gate: Semaphore::new(permits),
    });
    let source: Arc<dyn CredentialSource> = Arc::<Script>::clone(&script);
    let engine = TokenEngine::with_clock(source, Arc::<TestClock>::clone(&clock));
    let key = TokenKey::new(HOST, 5432, "app", None, Identity::default()).unwrap();
    Fixture { engine, clock, script, key }
}

impl Fixture {
    fn calls(&self) -> usize {
        self.script.calls.load(Ordering::SeqCst)
    }

    /// Lets background fetches run; the script never waits for a timer.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn one_token_is_reused_for_about_ten_minutes() {
    let fixture = fixture(&[Step::Key("AK1", None)]);
    let first = fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(8 * MINUTE);
    assert!(Arc::ptr_eq(&first, &fixture.engine.token(&fixture.key).await.unwrap()));
    fixture.clock.advance(3 * MINUTE);
    let second = fixture.engine.token(&fixture.key).await.unwrap();
    assert_ne!(first.expose(), second.expose());
    assert_eq!(fixture.calls(), 1);
}

#[tokio::test]
async fn the_expiry_is_the_earlier_of_age_and_credentials() {
    let fixture = fixture(&[Step::Key("AK1", Some(4 * MINUTE)), Step::Key("AK2", Some(60 * MINUTE))]);
    let token = fixture.engine.token(&fixture.key).await.unwrap();
    assert_eq!(token.expires_at(), fixture.clock.now() + 4 * MINUTE);
    // Past half of the credentials' life, a request starts the refresh; the next due token is signed by the new key.
    fixture.clock.advance(Duration::from_secs(170));
    fixture.engine.token(&fixture.key).await.unwrap();
    fixture.settle().await;
    fixture.clock.advance(Duration::from_secs(50));
    let next = fixture.engine.token(&fixture.key).await.unwrap();
    assert_eq!(next.access_key_id(), "AK2");
    assert_eq!(next.expires_at(), fixture.clock.now() + 15 * MINUTE);
}

#[tokio::test]
async fn concurrent_requests_make_one_fetch_and_one_token() {
    let fixture = gated_fixture(&[Step::Key("AK1", None)], 0);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (engine, key) = (fixture.engine.clone(), fixture.key.clone());
            tokio::spawn(async move { engine.token(&key).await.unwrap() })
        })
        .collect();
    fixture.settle().await;
    // Abort the task that started the fetch: the others must not be affected.
    waiting[0].abort();
    fixture.script.gate.add_permits(50);
    let mut texts = Vec::new();
    for task in waiting.into_iter().skip(1) {
        texts.push(task.await.unwrap().expose().to_owned());
    }
    texts.dedup();
    assert_eq!((texts.len(), fixture.calls()), (1, 1));
}

#[tokio::test]
async fn keys_of_one_identity_share_its_credentials() {
    let fixture = fixture(&[Step::Key("AK1", None)]);
    fixture.engine.token(&fixture.key).await.unwrap();
    let other = TokenKey { user: "report".into(), ..fixture.key.clone() };
    fixture.engine.token(&other).await.unwrap();
    assert_eq!(fixture.calls(), 1);
    let role = Identity { role_arn: Some("arn:aws:iam::1:role/x".into()), ..Identity::default() };
    fixture.engine.token(&TokenKey { identity: role, ..other }).await.unwrap();
    assert_eq!(fixture.calls(), 2);
    assert_eq!(fixture.engine.snapshot().len(), 3);
}

#[tokio::test]
async fn a_failed_refresh_keeps_unexpired_credentials_and_tokens() {
    let fixture = fixture(&[Step::Key("AK1", Some(30 * MINUTE)), Step::Fails]);
    let first = fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(20 * MINUTE);
    // Credentials are due and the refresh fails, but they last for ten more minutes.
    let second = fixture.engine.token(&fixture.key).await.unwrap();
    fixture.settle().await;
    assert_eq!(second.access_key_id(), "AK1");
    assert!(second.expires_at() > first.expires_at());
    assert_eq!(fixture.calls(), 2);
    // 9:20 later they have too little time left, but the cached token is used until its expiry.
    fixture.clock.advance(Duration::from_secs(560));
    let third = fixture.engine.token(&fixture.key).await.unwrap();
    assert!(third.expires_at() >= fixture.clock.now() + Duration::from_secs(20));
    fixture.settle().await;
    fixture.clock.advance(Duration::from_secs(100));
    let error = fixture.engine.token(&fixture.key).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn failures_cause_backoff_and_are_returned_from_the_cache() {
    let fixture = fixture(&[Step::Refused, Step::Refused, Step::Key("AK1", None)]);
    for _ in 0..10 {
        let error = fixture.engine.token(&fixture.key).await.unwrap_err();
        assert!(error.to_string().contains("AccessDenied") && !error.is_transient());
    }
    assert_eq!(fixture.calls(), 1);
    fixture.clock.advance(Duration::from_secs(1));
    fixture.engine.token(&fixture.key).await.unwrap_err();
    fixture.clock.advance(Duration::from_secs(1));
    fixture.engine.token(&fixture.key).await.unwrap_err();
    assert_eq!(fixture.calls(), 2);
    fixture.clock.advance(Duration::from_secs(1));
    fixture.engine.token(&fixture.key).await.unwrap();
    assert_eq!(fixture.calls(), 3);
    assert_eq!(fixture.engine.snapshot()[0].last_error, None);
}

#[tokio::test]
async fn a_panic_of_a_source_is_a_failure() {
    let fixture = fixture(&[Step::Panics, Step::Key("AK1", Some(60 * MINUTE)), Step::Panics]);
    for _ in 0..10 {
        let text = fixture.engine.token(&fixture.key).await.unwrap_err().to_string();
        assert!(text.contains("did not expect") && !text.contains("SECRET-KEY"), "{text}");
    }
    assert_eq!(fixture.calls(), 1);
    fixture.clock.advance(MINUTE);
    fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(45 * MINUTE);
    for _ in 0..10 {
        assert_eq!(fixture.engine.token(&fixture.key).await.unwrap().access_key_id(), "AK1");
        fixture.engine.refresh_due().await;
        fixture.settle().await;
    }
    assert_eq!(fixture.engine.credentials_snapshot()[0].failed_fetches, 2);
}

#[tokio::test]
async fn a_refusal_drops_the_token_and_fetches_at_a_limited_rate() {
    let hour = Some(60 * MINUTE);
    let fixture = fixture(&[Step::Key("AK1", hour), Step::Key("AK2", hour), Step::Key("AK3", hour)]);
    let first = fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(MINUTE);
    let second = fixture.engine.fresh_after_refusal(&fixture.key, &first).await.unwrap();
    assert_eq!(second.access_key_id(), "AK2");
    // Other callers with the first token get the second, without another fetch.
    let again = fixture.engine.fresh_after_refusal(&fixture.key, &first).await.unwrap();
    assert!(Arc::ptr_eq(&second, &again));
    // A refusal right after a fetch is not caused by the credentials.
    fixture.clock.advance(Duration::from_secs(5));
    let third = fixture.engine.fresh_after_refusal(&fixture.key, &second).await.unwrap();
    assert_eq!((third.access_key_id(), fixture.calls()), ("AK2", 2));
    assert_ne!(third.expose(), second.expose());
    assert_eq!(fixture.engine.snapshot()[0].refusals, 3);
}

#[tokio::test]
async fn a_refusal_while_aws_is_unreachable_signs_with_cached_credentials() {
    let fixture = fixture(&[Step::Key("AK1", Some(60 * MINUTE)), Step::Fails]);
    let first = fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(MINUTE);
    let second = fixture.engine.fresh_after_refusal(&fixture.key, &first).await.unwrap();
    assert_eq!((second.access_key_id(), fixture.calls()), ("AK1", 2));
    assert_ne!(first.expose(), second.expose());
}

#[tokio::test]
async fn the_expiry_of_a_key_never_changes() {
    // Stale instance metadata: the SDK returns the same key with a later expiry each time.
    let fixture = fixture(&[Step::Key("AK1", Some(10 * MINUTE))]);
    let first_expiry = fixture.clock.now() + 10 * MINUTE;
    fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(7 * MINUTE);
    let token = fixture.engine.token(&fixture.key).await.unwrap();
    fixture.settle().await;
    assert_eq!(token.expires_at(), first_expiry);
    fixture.clock.advance(4 * MINUTE);
    let error = fixture.engine.token(&fixture.key).await.unwrap_err();
    assert!(matches!(error, TokenError::ExpiredCredentials { .. }), "{error}");
}

#[tokio::test]
async fn credentials_that_expire_soon_are_used_until_they_expire() {
    let life = Duration::from_secs(59);
    let fixture = fixture(&[Step::Key("AK1", Some(life))]);
    let token = fixture.engine.token(&fixture.key).await.unwrap();
    assert_eq!(token.access_key_id(), "AK1");
    fixture.clock.advance(life);
    let error = fixture.engine.token(&fixture.key).await.unwrap_err();
    assert!(matches!(error, TokenError::ExpiredCredentials { .. }) && error.to_string().contains("AK1"));
}

#[tokio::test]
async fn a_clock_set_back_makes_a_new_token() {
    let fixture = fixture(&[Step::Key("AK1", None)]);
    let first = fixture.engine.token(&fixture.key).await.unwrap();
    *fixture.clock.0.lock().unwrap() -= 60 * MINUTE;
    let second = fixture.engine.token(&fixture.key).await.unwrap();
    assert_eq!(second.signed_at(), first.signed_at() - 60 * MINUTE);
}

#[tokio::test]
async fn background_renewal_keeps_the_next_login_from_waiting() {
    let fixture = fixture(&[Step::Key("AK1", Some(60 * MINUTE)), Step::Key("AK2", Some(60 * MINUTE))]);
    fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(45 * MINUTE);
    fixture.engine.refresh_due().await;
    fixture.settle().await;
    assert_eq!(fixture.calls(), 2);
    // The token was not requested for more than an hour: it is not renewed.
    fixture.clock.advance(16 * MINUTE);
    fixture.engine.refresh_due().await;
    fixture.settle().await;
    assert_eq!(fixture.calls(), 2);
}

#[test]
fn a_missing_region_is_a_specific_error() {
    let error = TokenKey::new("db.example.com", 5432, "app", None, Identity::default()).unwrap_err();
    assert!(matches!(&error, TokenError::UnknownRegion { host } if host == "db.example.com"));
    assert!(error.to_string().contains("set the region"));
    let given = Some("eu-west-1".parse().unwrap());
    assert!(TokenKey::new("db.example.com", 5432, "app", given, Identity::default()).is_ok());
}

#[tokio::test]
async fn debug_output_does_not_contain_the_token() {
    let fixture = fixture(&[Step::Key("AK1", None)]);
    let token = fixture.engine.token(&fixture.key).await.unwrap();
    let shown = format!("{:?} {:?} {:?}", fixture.engine, fixture.engine.snapshot(), token);
    let shown = shown + &format!("{:?}", fixture.engine.credentials_snapshot());
    assert!(!shown.contains("X-Amz-Signature") && !shown.contains("SESSION-") && !shown.contains("SECRET-"));
}

#[tokio::test]
async fn fetches_and_failed_fetches_are_counted() {
    let fixture = fixture(&[Step::Refused, Step::Key("AK1", None)]);
    fixture.engine.token(&fixture.key).await.unwrap_err();
    fixture.clock.advance(10 * MINUTE);
    fixture.engine.token(&fixture.key).await.unwrap();
    let status = &fixture.engine.credentials_snapshot()[0];
    assert_eq!((status.fetches, status.failed_fetches), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_background_task_renews_what_is_due_and_ends_with_the_engine() {
    let fixture = fixture(&[Step::Key("AK1", Some(60 * MINUTE)), Step::Key("AK2", Some(60 * MINUTE))]);
    let refresher = fixture.engine.spawn_refresher();
    fixture.engine.token(&fixture.key).await.unwrap();
    fixture.clock.advance(45 * MINUTE);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(fixture.calls(), 2);
    fixture.clock.advance(11 * MINUTE);
    tokio::time::sleep(MINUTE).await;
    let status = fixture.engine.snapshot().remove(0);
    let made = (status.access_key_id.as_deref(), status.signed_at);
    assert_eq!(made, (Some("AK2"), Some(fixture.clock.now())), "a token is signed without a request");
    drop(fixture);
    tokio::time::timeout(MINUTE, refresher).await.expect("the task ends with the last clone").unwrap();
}
