//! The cache of secrets with a scripted source and a controlled clock.
#![cfg(feature = "secrets-manager")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rds_iam::secrets::{DatabaseSecret, SecretCache, SecretError, SecretFuture, SecretKey, SecretSource};
use rds_iam::{Clock, Identity};

/// Does not move by itself, so a slow machine makes nothing due.
#[derive(Debug)]
struct TestClock(Mutex<SystemTime>);

impl TestClock {
    fn advance(&self, seconds: u64) {
        *self.0.lock().unwrap() += Duration::from_secs(seconds);
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

const REFRESH_SECONDS: u64 = 600;

struct Store {
    answer: Mutex<Result<(String, String), SecretError>>,
    version: AtomicU64,
    reads: AtomicU64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl SecretSource for Store {
    fn fetch<'a>(&'a self, _key: &'a SecretKey) -> SecretFuture<'a> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            // Gives other tasks a chance to run while this read is in progress.
            tokio::task::yield_now().await;
            let (user, password) = self.answer.lock().unwrap().clone()?;
            let version = format!("v{}", self.version.load(Ordering::SeqCst));
            Ok(DatabaseSecret::new(user, password.into(), version))
        })
    }
}

struct Fixture {
    store: Arc<Store>,
    clock: Arc<TestClock>,
    cache: SecretCache,
}

impl Fixture {
    fn new() -> Self {
        let store = Arc::new(Store {
            answer: Mutex::new(Ok(("app".to_owned(), "first".to_owned()))),
            version: AtomicU64::new(1),
            reads: AtomicU64::new(0),
        });
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_322_096);
        let clock = Arc::new(TestClock(Mutex::new(start)));
        let cache = SecretCache::new(store.clone(), clock.clone());
        Self { store, clock, cache }
    }

    fn rotate(&self, user: &str, password: &str) {
        *self.store.answer.lock().unwrap() = Ok((user.to_owned(), password.to_owned()));
        self.store.version.fetch_add(1, Ordering::SeqCst);
    }

    fn fail(&self) {
        let arn = key().arn.to_string();
        *self.store.answer.lock().unwrap() =
            Err(SecretError::Unavailable { arn, reason: "unreachable".to_owned() });
    }

    async fn password(&self) -> Result<String, SecretError> {
        self.cache.get(&key()).await.map(|secret| secret.expose().to_owned())
    }

    fn reads(&self) -> u64 {
        self.store.reads.load(Ordering::SeqCst)
    }

    /// Waits until a background read has completed.
    async fn settle(&self, reads: u64) {
        while self.cache.snapshot()[0].reads < reads {
            tokio::task::yield_now().await;
        }
    }
}

fn key() -> SecretKey {
    let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app-a1B2c3".parse().unwrap();
    SecretKey { arn, identity: Identity::default() }
}

#[tokio::test]
async fn concurrent_requests_read_once_and_a_secret_is_used_until_it_is_due() {
    let fixture = Fixture::new();
    let all: Vec<_> = (0..20)
        .map(|_| {
            let cache = fixture.cache.clone();
            tokio::spawn(async move { cache.get(&key()).await.unwrap().expose().to_owned() })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), "first");
    }
    fixture.clock.advance(REFRESH_SECONDS * 9 / 10 - 1);
    assert_eq!(fixture.password().await.unwrap(), "first");
    assert_eq!(fixture.reads(), 1);
}

#[tokio::test]
async fn a_due_secret_is_used_during_the_next_read_and_the_previous_one_is_accepted_for_a_while() {
    let fixture = Fixture::new();
    fixture.password().await.unwrap();
    fixture.rotate("app_clone", "second");
    fixture.clock.advance(REFRESH_SECONDS);
    assert_eq!(fixture.password().await.unwrap(), "first", "the request does not wait");
    fixture.settle(2).await;
    assert_eq!(fixture.password().await.unwrap(), "second");
    let names = |all: Vec<Arc<DatabaseSecret>>| -> Vec<String> {
        all.into_iter().map(|secret| format!("{}:{}", secret.username, secret.expose())).collect()
    };
    let both = fixture.cache.get_with_previous(&key()).await.unwrap();
    assert_eq!(names(both), ["app_clone:second", "app:first"]);
    fixture.clock.advance(3600);
    fixture.cache.get_with_previous(&key()).await.unwrap();
    fixture.settle(3).await;
    assert_eq!(names(fixture.cache.get_with_previous(&key()).await.unwrap()), ["app_clone:second"]);
    assert_eq!(fixture.cache.snapshot()[0].rotations, 1);
}

#[tokio::test]
async fn a_secret_is_used_indefinitely_while_secrets_manager_is_unreachable() {
    let fixture = Fixture::new();
    fixture.password().await.unwrap();
    fixture.fail();
    for days in 1..5 {
        fixture.clock.advance(24 * 3600);
        assert_eq!(fixture.password().await.unwrap(), "first");
        fixture.settle(1 + days).await;
    }
    assert!(fixture.cache.snapshot()[0].last_error.is_some());
    fixture.rotate("app", "second");
    fixture.clock.advance(REFRESH_SECONDS);
    fixture.password().await.unwrap();
    fixture.settle(6).await;
    assert_eq!(fixture.password().await.unwrap(), "second");
}

#[tokio::test]
async fn a_failed_first_read_is_not_repeated_at_once() {
    let fixture = Fixture::new();
    fixture.fail();
    assert!(fixture.password().await.unwrap_err().is_transient());
    assert!(fixture.password().await.is_err());
    assert_eq!(fixture.reads(), 1);
    fixture.clock.advance(2);
    fixture.rotate("app", "second");
    assert_eq!(fixture.password().await.unwrap(), "second");
}

#[tokio::test]
async fn a_refusal_reads_the_secret_again_at_a_limited_rate() {
    let fixture = Fixture::new();
    let first = fixture.cache.get(&key()).await.unwrap();
    assert_eq!(fixture.cache.after_refusal(&key(), &first).await, None, "the secret was read a moment ago");
    fixture.clock.advance(10);
    assert_eq!(fixture.cache.after_refusal(&key(), &first).await, None, "the secret is unchanged");
    assert_eq!(fixture.reads(), 2);
    fixture.rotate("app", "second");
    fixture.clock.advance(10);
    let key = key();
    let retry = || fixture.cache.after_refusal(&key, &first);
    let (one, other) = tokio::join!(retry(), retry());
    assert_eq!((one.unwrap().expose(), other.unwrap().expose()), ("second", "second"));
    assert_eq!(fixture.reads(), 3, "one read for all refused logins");
}

#[tokio::test]
async fn concurrent_refusals_of_an_unchanged_secret_read_once() {
    let fixture = Fixture::new();
    let first = fixture.cache.get(&key()).await.unwrap();
    fixture.clock.advance(10);
    let all: Vec<_> = (0..50)
        .map(|_| {
            let (cache, first) = (fixture.cache.clone(), first.clone());
            tokio::spawn(async move { cache.after_refusal(&key(), &first).await.is_none() })
        })
        .collect();
    for one in all {
        assert!(one.await.unwrap());
    }
    assert_eq!(fixture.reads(), 2);
}

#[tokio::test]
async fn changed_times_apply_to_secrets_read_before() {
    let fixture = Fixture::new();
    fixture.password().await.unwrap();
    fixture.rotate("app", "second");
    fixture.cache.set_times(Duration::from_secs(5), Duration::from_secs(3600));
    fixture.clock.advance(5);
    fixture.password().await.unwrap();
    fixture.settle(2).await;
    assert_eq!(fixture.cache.get_with_previous(&key()).await.unwrap().len(), 2);
    fixture.cache.set_times(Duration::from_secs(5), Duration::ZERO);
    assert_eq!(
        fixture.cache.get_with_previous(&key()).await.unwrap().len(),
        1,
        "the grace period ends at once"
    );
    fixture.cache.keep_only(&Default::default());
    assert_eq!(fixture.cache.snapshot().len(), 0);
}

/// Many processes that start together must not read at the same time forever.
#[tokio::test]
async fn reads_are_spread_by_jitter() {
    let mut due_early = 0;
    for _ in 0..200 {
        let fixture = Fixture::new();
        fixture.password().await.unwrap();
        fixture.clock.advance(REFRESH_SECONDS * 95 / 100);
        fixture.password().await.unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        due_early += fixture.reads() - 1;
    }
    assert!((20..180).contains(&due_early), "{due_early} of 200");
}

#[tokio::test]
async fn a_refused_password_counts_as_a_rotation_only_for_a_while_after_it_worked() {
    let fixture = Fixture::new();
    fixture.password().await.unwrap();
    let may_be = |server: &str| fixture.cache.may_be_in_rotation(&key(), server);
    assert!(!may_be("db:5432"), "the password never worked");
    fixture.cache.worked(&key(), "db:5432");
    assert!(may_be("db:5432") && !may_be("other:5432"));
    fixture.clock.advance(119);
    assert!(may_be("db:5432"));
    fixture.clock.advance(2);
    fixture.cache.worked(&key(), "another:5432");
    assert!(!may_be("db:5432"), "the result of another server does not count");
    fixture.cache.worked(&key(), "db:5432");
    assert!(may_be("db:5432"));
    assert!(!format!("{:?}", fixture.cache).contains("first"));
}
