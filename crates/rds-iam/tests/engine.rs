//! The engine with scripted credentials and a clock that the tests move: nothing here sleeps or calls AWS.
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

/// What the next fetch brings: a key with a life, or an error.
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
    /// Each fetch takes a permit; closed at first in tests that look at what happens meanwhile.
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
                Step::Fails => Err(CredentialError::Unavailable { reason: "STS is away".into() }),
                Step::Panics => panic!("SECRET-KEY is no path"),
                Step::Refused => Err(CredentialError::Refused { reason: "AccessDenied".into() }),
            }
        })
    }
}

struct Bench {
    engine: TokenEngine,
    clock: Arc<TestClock>,
    script: Arc<Script>,
    key: TokenKey,
}

fn bench(steps: &[Step]) -> Bench {
    gated_bench(steps, Semaphore::MAX_PERMITS)
}

fn gated_bench(steps: &[Step], permits: usize) -> Bench {
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
    Bench { engine, clock, script, key }
}

impl Bench {
    fn calls(&self) -> usize {
        self.script.calls.load(Ordering::SeqCst)
    }

    /// Lets background fetches run; the script is never waiting for a timer.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn one_token_is_reused_for_about_ten_minutes() {
    let bench = bench(&[Step::Key("AK1", None)]);
    let first = bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(8 * MINUTE);
    assert!(Arc::ptr_eq(&first, &bench.engine.token(&bench.key).await.unwrap()));
    bench.clock.advance(3 * MINUTE);
    let second = bench.engine.token(&bench.key).await.unwrap();
    assert_ne!(first.expose(), second.expose());
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn the_end_is_the_earlier_of_age_and_credentials() {
    let bench = bench(&[Step::Key("AK1", Some(4 * MINUTE)), Step::Key("AK2", Some(60 * MINUTE))]);
    let token = bench.engine.token(&bench.key).await.unwrap();
    assert_eq!(token.expires_at(), bench.clock.now() + 4 * MINUTE);
    // Past half of the credentials' life, asking starts the refresh; the next due token is signed by the new key.
    bench.clock.advance(Duration::from_secs(170));
    bench.engine.token(&bench.key).await.unwrap();
    bench.settle().await;
    bench.clock.advance(Duration::from_secs(50));
    let next = bench.engine.token(&bench.key).await.unwrap();
    assert_eq!(next.access_key_id(), "AK2");
    assert_eq!(next.expires_at(), bench.clock.now() + 15 * MINUTE);
}

#[tokio::test]
async fn many_at_once_make_one_fetch_and_one_token() {
    let bench = gated_bench(&[Step::Key("AK1", None)], 0);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (engine, key) = (bench.engine.clone(), bench.key.clone());
            tokio::spawn(async move { engine.token(&key).await.unwrap() })
        })
        .collect();
    bench.settle().await;
    // The one that fetches gives up: those behind it must not notice.
    waiting[0].abort();
    bench.script.gate.add_permits(50);
    let mut texts = Vec::new();
    for task in waiting.into_iter().skip(1) {
        texts.push(task.await.unwrap().expose().to_owned());
    }
    texts.dedup();
    assert_eq!((texts.len(), bench.calls()), (1, 1));
}

#[tokio::test]
async fn keys_of_one_identity_share_its_credentials() {
    let bench = bench(&[Step::Key("AK1", None)]);
    bench.engine.token(&bench.key).await.unwrap();
    let other = TokenKey { user: "report".into(), ..bench.key.clone() };
    bench.engine.token(&other).await.unwrap();
    assert_eq!(bench.calls(), 1);
    let role = Identity { role_arn: Some("arn:aws:iam::1:role/x".into()), ..Identity::default() };
    bench.engine.token(&TokenKey { identity: role, ..other }).await.unwrap();
    assert_eq!(bench.calls(), 2);
    assert_eq!(bench.engine.snapshot().len(), 3);
}

#[tokio::test]
async fn a_failing_refresh_keeps_what_still_lasts() {
    let bench = bench(&[Step::Key("AK1", Some(30 * MINUTE)), Step::Fails]);
    let first = bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(20 * MINUTE);
    // Credentials are due and the refresh fails, but they last for ten more minutes.
    let second = bench.engine.token(&bench.key).await.unwrap();
    bench.settle().await;
    assert_eq!(second.access_key_id(), "AK1");
    assert!(second.expires_at() > first.expires_at());
    assert_eq!(bench.calls(), 2);
    // 9:20 later they are refused as too short, but the token at hand serves until its end.
    bench.clock.advance(Duration::from_secs(560));
    let third = bench.engine.token(&bench.key).await.unwrap();
    assert!(third.expires_at() >= bench.clock.now() + Duration::from_secs(20));
    bench.settle().await;
    bench.clock.advance(Duration::from_secs(100));
    let error = bench.engine.token(&bench.key).await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn failures_back_off_and_answer_meanwhile() {
    let bench = bench(&[Step::Refused, Step::Refused, Step::Key("AK1", None)]);
    for _ in 0..10 {
        let error = bench.engine.token(&bench.key).await.unwrap_err();
        assert!(error.to_string().contains("AccessDenied") && !error.is_transient());
    }
    assert_eq!(bench.calls(), 1);
    bench.clock.advance(Duration::from_secs(1));
    bench.engine.token(&bench.key).await.unwrap_err();
    bench.clock.advance(Duration::from_secs(1));
    bench.engine.token(&bench.key).await.unwrap_err();
    assert_eq!(bench.calls(), 2);
    bench.clock.advance(Duration::from_secs(1));
    bench.engine.token(&bench.key).await.unwrap();
    assert_eq!(bench.calls(), 3);
    assert_eq!(bench.engine.snapshot()[0].last_error, None);
}

#[tokio::test]
async fn a_source_that_panics_has_failed_like_any_other() {
    let bench = bench(&[Step::Panics, Step::Key("AK1", Some(60 * MINUTE)), Step::Panics]);
    for _ in 0..10 {
        let text = bench.engine.token(&bench.key).await.unwrap_err().to_string();
        assert!(text.contains("did not expect") && !text.contains("SECRET-KEY"), "{text}");
    }
    assert_eq!(bench.calls(), 1);
    bench.clock.advance(MINUTE);
    bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(45 * MINUTE);
    for _ in 0..10 {
        assert_eq!(bench.engine.token(&bench.key).await.unwrap().access_key_id(), "AK1");
        bench.engine.refresh_due().await;
        bench.settle().await;
    }
    assert_eq!(bench.engine.credentials_snapshot()[0].failed_fetches, 2);
}

#[tokio::test]
async fn a_refusal_drops_that_token_and_fetches_once_in_a_while() {
    let hour = Some(60 * MINUTE);
    let bench = bench(&[Step::Key("AK1", hour), Step::Key("AK2", hour), Step::Key("AK3", hour)]);
    let first = bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(MINUTE);
    let second = bench.engine.fresh_after_refusal(&bench.key, &first).await.unwrap();
    assert_eq!(second.access_key_id(), "AK2");
    // Others who used the first one get the second, without another fetch.
    let again = bench.engine.fresh_after_refusal(&bench.key, &first).await.unwrap();
    assert!(Arc::ptr_eq(&second, &again));
    // A refusal right after it is not the credentials' fault.
    bench.clock.advance(Duration::from_secs(5));
    let third = bench.engine.fresh_after_refusal(&bench.key, &second).await.unwrap();
    assert_eq!((third.access_key_id(), bench.calls()), ("AK2", 2));
    assert_ne!(third.expose(), second.expose());
    assert_eq!(bench.engine.snapshot()[0].refusals, 3);
}

#[tokio::test]
async fn a_refusal_while_aws_is_away_signs_with_what_is_at_hand() {
    let bench = bench(&[Step::Key("AK1", Some(60 * MINUTE)), Step::Fails]);
    let first = bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(MINUTE);
    let second = bench.engine.fresh_after_refusal(&bench.key, &first).await.unwrap();
    assert_eq!((second.access_key_id(), bench.calls()), ("AK1", 2));
    assert_ne!(first.expose(), second.expose());
}

#[tokio::test]
async fn the_end_of_a_key_never_moves() {
    // Instance metadata that is out of order: the SDK hands out the same key with a later end each time.
    let bench = bench(&[Step::Key("AK1", Some(10 * MINUTE))]);
    let told = bench.clock.now() + 10 * MINUTE;
    bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(7 * MINUTE);
    let token = bench.engine.token(&bench.key).await.unwrap();
    bench.settle().await;
    assert_eq!(token.expires_at(), told);
    bench.clock.advance(4 * MINUTE);
    let error = bench.engine.token(&bench.key).await.unwrap_err();
    assert!(matches!(error, TokenError::ExpiredCredentials { .. }), "{error}");
}

#[tokio::test]
async fn credentials_that_expire_soon_are_used_until_they_expire() {
    let life = Duration::from_secs(59);
    let bench = bench(&[Step::Key("AK1", Some(life))]);
    let token = bench.engine.token(&bench.key).await.unwrap();
    assert_eq!(token.access_key_id(), "AK1");
    bench.clock.advance(life);
    let error = bench.engine.token(&bench.key).await.unwrap_err();
    assert!(matches!(error, TokenError::ExpiredCredentials { .. }) && error.to_string().contains("AK1"));
}

#[tokio::test]
async fn a_clock_set_back_makes_a_new_token() {
    let bench = bench(&[Step::Key("AK1", None)]);
    let first = bench.engine.token(&bench.key).await.unwrap();
    *bench.clock.0.lock().unwrap() -= 60 * MINUTE;
    let second = bench.engine.token(&bench.key).await.unwrap();
    assert_eq!(second.signed_at(), first.signed_at() - 60 * MINUTE);
}

#[tokio::test]
async fn background_renewal_spares_the_next_login_the_wait() {
    let bench = bench(&[Step::Key("AK1", Some(60 * MINUTE)), Step::Key("AK2", Some(60 * MINUTE))]);
    bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(45 * MINUTE);
    bench.engine.refresh_due().await;
    bench.settle().await;
    assert_eq!(bench.calls(), 2);
    // Nobody has asked for more than an hour: the key is left alone.
    bench.clock.advance(16 * MINUTE);
    bench.engine.refresh_due().await;
    bench.settle().await;
    assert_eq!(bench.calls(), 2);
}

#[test]
fn no_region_is_an_error_that_says_so() {
    let error = TokenKey::new("db.example.com", 5432, "app", None, Identity::default()).unwrap_err();
    assert!(matches!(&error, TokenError::UnknownRegion { host } if host == "db.example.com"));
    assert!(error.to_string().contains("set the region"));
    let given = Some("eu-west-1".parse().unwrap());
    assert!(TokenKey::new("db.example.com", 5432, "app", given, Identity::default()).is_ok());
}

#[tokio::test]
async fn nothing_printable_holds_the_token() {
    let bench = bench(&[Step::Key("AK1", None)]);
    let token = bench.engine.token(&bench.key).await.unwrap();
    let shown = format!("{:?} {:?} {:?}", bench.engine, bench.engine.snapshot(), token);
    let shown = shown + &format!("{:?}", bench.engine.credentials_snapshot());
    assert!(!shown.contains("X-Amz-Signature") && !shown.contains("SESSION-") && !shown.contains("SECRET-"));
}

#[tokio::test]
async fn fetches_are_counted_with_those_that_failed() {
    let bench = bench(&[Step::Refused, Step::Key("AK1", None)]);
    bench.engine.token(&bench.key).await.unwrap_err();
    bench.clock.advance(10 * MINUTE);
    bench.engine.token(&bench.key).await.unwrap();
    let status = &bench.engine.credentials_snapshot()[0];
    assert_eq!((status.fetches, status.failed_fetches), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_background_task_renews_what_is_due_and_ends_with_the_engine() {
    let bench = bench(&[Step::Key("AK1", Some(60 * MINUTE)), Step::Key("AK2", Some(60 * MINUTE))]);
    let refresher = bench.engine.spawn_refresher();
    bench.engine.token(&bench.key).await.unwrap();
    bench.clock.advance(45 * MINUTE);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(bench.calls(), 2);
    bench.clock.advance(11 * MINUTE);
    tokio::time::sleep(MINUTE).await;
    let status = bench.engine.snapshot().remove(0);
    let made = (status.access_key_id.as_deref(), status.signed_at);
    assert_eq!(made, (Some("AK2"), Some(bench.clock.now())), "a token is made without being asked for");
    drop(bench);
    tokio::time::timeout(MINUTE, refresher).await.expect("it ends with the last clone").unwrap();
}
