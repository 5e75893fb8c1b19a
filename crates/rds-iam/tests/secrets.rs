//! The cache of secrets over a source of the test's own and a clock that is moved by hand.
#![cfg(feature = "secrets-manager")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rds_iam::secrets::{DatabaseSecret, SecretCache, SecretError, SecretFuture, SecretKey, SecretSource};
use rds_iam::{Clock, Identity};

/// Stands still between moves: a busy machine makes nothing due.
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
            // Long enough for others to come and find somebody reading.
            tokio::task::yield_now().await;
            let (user, password) = self.answer.lock().unwrap().clone()?;
            let version = format!("v{}", self.version.load(Ordering::SeqCst));
            Ok(DatabaseSecret::new(user, password.into(), version))
        })
    }
}

struct Bench {
    store: Arc<Store>,
    clock: Arc<TestClock>,
    cache: SecretCache,
}

impl Bench {
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
        *self.store.answer.lock().unwrap() = Err(SecretError::Unavailable { arn, reason: "away".to_owned() });
    }

    async fn password(&self) -> Result<String, SecretError> {
        self.cache.get(&key()).await.map(|secret| secret.expose().to_owned())
    }

    fn reads(&self) -> u64 {
        self.store.reads.load(Ordering::SeqCst)
    }

    /// Lets a read in the background come to its end.
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
async fn many_at_once_read_once_and_a_secret_serves_until_it_is_due() {
    let bench = Bench::new();
    let all: Vec<_> = (0..20)
        .map(|_| {
            let cache = bench.cache.clone();
            tokio::spawn(async move { cache.get(&key()).await.unwrap().expose().to_owned() })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), "first");
    }
    bench.clock.advance(REFRESH_SECONDS * 9 / 10 - 1);
    assert_eq!(bench.password().await.unwrap(), "first");
    assert_eq!(bench.reads(), 1);
}

#[tokio::test]
async fn a_due_secret_serves_while_the_next_is_read_and_the_one_before_counts_for_a_while() {
    let bench = Bench::new();
    bench.password().await.unwrap();
    bench.rotate("app_clone", "second");
    bench.clock.advance(REFRESH_SECONDS);
    assert_eq!(bench.password().await.unwrap(), "first", "nobody waits");
    bench.settle(2).await;
    assert_eq!(bench.password().await.unwrap(), "second");
    let names = |all: Vec<Arc<DatabaseSecret>>| -> Vec<String> {
        all.into_iter().map(|secret| format!("{}:{}", secret.username, secret.expose())).collect()
    };
    let both = bench.cache.get_with_previous(&key()).await.unwrap();
    assert_eq!(names(both), ["app_clone:second", "app:first"]);
    bench.clock.advance(3600);
    bench.cache.get_with_previous(&key()).await.unwrap();
    bench.settle(3).await;
    assert_eq!(names(bench.cache.get_with_previous(&key()).await.unwrap()), ["app_clone:second"]);
    assert_eq!(bench.cache.snapshot()[0].rotations, 1);
}

#[tokio::test]
async fn while_secrets_manager_is_away_what_was_read_serves_on_and_on() {
    let bench = Bench::new();
    bench.password().await.unwrap();
    bench.fail();
    for days in 1..5 {
        bench.clock.advance(24 * 3600);
        assert_eq!(bench.password().await.unwrap(), "first");
        bench.settle(1 + days).await;
    }
    assert!(bench.cache.snapshot()[0].last_error.is_some());
    bench.rotate("app", "second");
    bench.clock.advance(REFRESH_SECONDS);
    bench.password().await.unwrap();
    bench.settle(6).await;
    assert_eq!(bench.password().await.unwrap(), "second");
}

#[tokio::test]
async fn what_was_never_read_fails_and_is_not_asked_for_at_once_again() {
    let bench = Bench::new();
    bench.fail();
    assert!(bench.password().await.unwrap_err().is_transient());
    assert!(bench.password().await.is_err());
    assert_eq!(bench.reads(), 1);
    bench.clock.advance(2);
    bench.rotate("app", "second");
    assert_eq!(bench.password().await.unwrap(), "second");
}

#[tokio::test]
async fn a_refusal_reads_again_once_in_a_while() {
    let bench = Bench::new();
    let first = bench.cache.get(&key()).await.unwrap();
    assert_eq!(bench.cache.after_refusal(&key(), &first).await, None, "it was read a moment ago");
    bench.clock.advance(10);
    assert_eq!(bench.cache.after_refusal(&key(), &first).await, None, "it is still the same");
    assert_eq!(bench.reads(), 2);
    bench.rotate("app", "second");
    bench.clock.advance(10);
    let key = key();
    let ask = || bench.cache.after_refusal(&key, &first);
    let (one, other) = tokio::join!(ask(), ask());
    assert_eq!((one.unwrap().expose(), other.unwrap().expose()), ("second", "second"));
    assert_eq!(bench.reads(), 3, "one read for all who were refused");
}

#[tokio::test]
async fn many_who_are_refused_at_once_read_once_although_nothing_has_changed() {
    let bench = Bench::new();
    let first = bench.cache.get(&key()).await.unwrap();
    bench.clock.advance(10);
    let all: Vec<_> = (0..50)
        .map(|_| {
            let (cache, first) = (bench.cache.clone(), first.clone());
            tokio::spawn(async move { cache.after_refusal(&key(), &first).await.is_none() })
        })
        .collect();
    for one in all {
        assert!(one.await.unwrap());
    }
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn the_times_in_force_count_for_what_was_read_before() {
    let bench = Bench::new();
    bench.password().await.unwrap();
    bench.rotate("app", "second");
    bench.cache.set_times(Duration::from_secs(5), Duration::from_secs(3600));
    bench.clock.advance(5);
    bench.password().await.unwrap();
    bench.settle(2).await;
    assert_eq!(bench.cache.get_with_previous(&key()).await.unwrap().len(), 2);
    bench.cache.set_times(Duration::from_secs(5), Duration::ZERO);
    assert_eq!(bench.cache.get_with_previous(&key()).await.unwrap().len(), 1, "the grace is over at once");
    bench.cache.keep_only(&Default::default());
    assert_eq!(bench.cache.snapshot().len(), 0);
}

/// Many processes that start together must not ask together for ever.
#[tokio::test]
async fn reads_are_spread() {
    let mut due_early = 0;
    for _ in 0..200 {
        let bench = Bench::new();
        bench.password().await.unwrap();
        bench.clock.advance(REFRESH_SECONDS * 95 / 100);
        bench.password().await.unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        due_early += bench.reads() - 1;
    }
    assert!((20..180).contains(&due_early), "{due_early} of 200");
}

#[tokio::test]
async fn a_refused_password_is_a_rotation_only_if_it_has_worked_and_not_for_long() {
    let bench = Bench::new();
    bench.password().await.unwrap();
    let may_be = |server: &str| bench.cache.may_be_in_rotation(&key(), server);
    assert!(!may_be("db:5432"), "it never worked");
    bench.cache.worked(&key(), "db:5432");
    assert!(may_be("db:5432") && !may_be("other:5432"));
    bench.clock.advance(119);
    assert!(may_be("db:5432"));
    bench.clock.advance(2);
    bench.cache.worked(&key(), "another:5432");
    assert!(!may_be("db:5432"), "another server's word does not count");
    bench.cache.worked(&key(), "db:5432");
    assert!(may_be("db:5432"));
    assert!(!format!("{:?}", bench.cache).contains("first"));
}
