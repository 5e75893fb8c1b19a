//! A cache of values that are fetched by key and kept fresh.
//!
//! Owns: when a value is fetched (once at a time per key, in the background while another is usable, with
//! backoff after failures), and the values and errors kept. What differs is the [`Refresh`] of each cache.
//! Never: returns a value that its `Refresh` calls expired.

use std::fmt::Debug;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::backoff::Failures;
use crate::clock::Clock;
use crate::single_flight::SingleFlight;
use crate::slots::{Slots, lock};

/// Timeout of a fetch; allows for chains of several sources with retries.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which a source is asked for a replacement of a value that is about to expire.
const EXPIRING_RECHECK: Duration = Duration::from_secs(5);

/// What is cached, and the rules for its age.
pub(crate) trait Refresh: Debug + Send + Sync + 'static {
    type Key: Clone + Debug + Eq + Hash + Send + Sync;
    /// What the source returns.
    type Fetched: Send;
    /// What is kept and returned.
    type Value: Clone + Debug + Send;
    type Error: Clone + Debug + Send;
    /// What else is known about a key.
    type Record: Debug + Default + Send;

    /// Asks the source, which does not cache.
    fn fetch(&self, key: &Self::Key) -> impl Future<Output = Result<Self::Fetched, Self::Error>> + Send;

    /// The error of a fetch that did not complete.
    fn unavailable(key: &Self::Key, reason: String) -> Self::Error;

    /// Checks what was fetched, and makes the next value of it; `held` is the present one.
    fn accept(
        &self,
        fetched: Self::Fetched,
        held: Option<&Self::Value>,
        record: &mut Self::Record,
        now: SystemTime,
    ) -> Result<Self::Value, Self::Error>;

    /// How a value may be used at this time.
    fn freshness(&self, value: &Self::Value, now: SystemTime) -> Freshness;

    /// Logs the outcome of a fetch.
    fn log(&self, key: &Self::Key, outcome: Result<&Self::Value, &Self::Error>);
}

/// How a value may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Without a fetch.
    Fresh,
    /// While a fetch runs in the background.
    Due,
    /// Only if the source, asked again, has no other.
    Expiring,
    /// Not any more.
    Expired,
}

/// What a caller does with an entry.
enum CacheAnswer<R: Refresh> {
    Fresh(R::Value),
    Due(R::Value),
    Expiring(R::Value),
    Missing,
    /// Nothing usable, and in backoff.
    Quiet(R::Error),
}

/// What is known for one key.
#[derive(Debug)]
pub(crate) struct Entry<R: Refresh> {
    pub(crate) held: Option<R::Value>,
    failures: Option<Failures<R::Error>>,
    last_fetch_at: Option<SystemTime>,
    /// Number of fetches.
    pub(crate) fetches: u64,
    /// Number of failed fetches.
    pub(crate) failed_fetches: u64,
    pub(crate) record: R::Record,
}

impl<R: Refresh> Entry<R> {
    /// The error of the last fetch, if it failed.
    pub(crate) fn last_error(&self) -> Option<&R::Error> {
        self.failures.as_ref().map(|failures| &failures.last_error)
    }

    /// The error that ended the last fetch, while it is too early for another one.
    pub(crate) fn quiet_error(&self, now: SystemTime) -> Option<&R::Error> {
        self.last_error().filter(|_| self.failures.as_ref().is_some_and(|failures| failures.is_quiet(now)))
    }

    /// Many causes of a refused login are not fixed by a fetch; refusals must not cause a stream of calls.
    pub(crate) fn was_fetched_within(&self, interval: Duration, now: SystemTime) -> bool {
        self.last_fetch_at.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < interval))
    }

    fn answer(&self, rules: &R, now: SystemTime) -> CacheAnswer<R> {
        let quiet = self.quiet_error(now);
        match self.held.as_ref().map(|held| (held.clone(), rules.freshness(held, now))) {
            Some((held, Freshness::Due)) if quiet.is_none() => CacheAnswer::Due(held),
            Some((held, Freshness::Fresh | Freshness::Due)) => CacheAnswer::Fresh(held),
            Some((held, Freshness::Expiring)) => {
                if quiet.is_some() || self.was_fetched_within(EXPIRING_RECHECK, now) {
                    CacheAnswer::Fresh(held)
                } else {
                    CacheAnswer::Expiring(held)
                }
            }
            Some((_, Freshness::Expired)) | None => match quiet {
                Some(error) => CacheAnswer::Quiet(error.clone()),
                None => CacheAnswer::Missing,
            },
        }
    }

    /// Stores the result of a fetch.
    fn store(
        &mut self,
        rules: &R,
        fetched: Result<R::Fetched, R::Error>,
        now: SystemTime,
    ) -> Result<R::Value, R::Error> {
        self.fetches += 1;
        self.last_fetch_at = Some(now);
        let Self { held, record, .. } = self;
        match fetched.and_then(|fetched| rules.accept(fetched, held.as_ref(), record, now)) {
            Ok(value) => {
                self.held = Some(value.clone());
                self.failures = None;
                Ok(value)
            }
            Err(error) => {
                self.failed_fetches += 1;
                self.failures = Some(Failures::after(self.failures.as_ref(), error.clone(), now));
                Err(error)
            }
        }
    }
}

#[derive(Debug)]
struct CacheSlot<R: Refresh> {
    entry: Mutex<Entry<R>>,
    single_flight: SingleFlight,
}

impl<R: Refresh> Default for CacheSlot<R> {
    fn default() -> Self {
        let entry = Entry {
            held: None,
            failures: None,
            last_fetch_at: None,
            fetches: 0,
            failed_fetches: 0,
            record: R::Record::default(),
        };
        Self { entry: Mutex::new(entry), single_flight: SingleFlight::default() }
    }
}

/// Values by key. Shared in an `Arc`, since fetches outlive the callers that start them.
#[derive(Debug)]
pub(crate) struct RefreshingCache<R: Refresh> {
    pub(crate) rules: R,
    clock: Arc<dyn Clock>,
    slots: Slots<R::Key, CacheSlot<R>>,
}

impl<R: Refresh> RefreshingCache<R> {
    /// A cache for at most `capacity` keys.
    pub(crate) fn new(rules: R, clock: Arc<dyn Clock>, capacity: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self { rules, clock, slots: Slots::new(capacity) })
    }

    /// A usable value. Waits only if there is none that is not about to expire. Requires a tokio runtime.
    pub(crate) async fn get(self: &Arc<Self>, key: &R::Key) -> Result<R::Value, R::Error> {
        let slot = self.slots.get(key);
        match self.answer(&slot) {
            CacheAnswer::Fresh(value) => Ok(value),
            CacheAnswer::Due(value) => {
                self.fetch_in_background(key, &slot);
                Ok(value)
            }
            CacheAnswer::Quiet(error) => Err(error),
            CacheAnswer::Missing => {
                self.fetch_and_wait(key, &slot, |entry, now| self.settled(entry, now)).await
            }
            CacheAnswer::Expiring(value) => {
                let fetched = self.fetch_and_wait(key, &slot, |entry, now| self.settled(entry, now)).await;
                let is_usable = || self.rules.freshness(&value, self.clock.now()) != Freshness::Expired;
                fetched.or_else(|error| if is_usable() { Ok(value.clone()) } else { Err(error) })
            }
        }
    }

    /// Like [`get`](Self::get), but never waits: `None` if nothing is cached (a fetch is then in progress).
    pub(crate) fn get_now(self: &Arc<Self>, key: &R::Key) -> Option<R::Value> {
        let slot = self.slots.get(key);
        let (value, is_due) = match self.answer(&slot) {
            CacheAnswer::Fresh(value) => (Some(value), false),
            CacheAnswer::Due(value) | CacheAnswer::Expiring(value) => (Some(value), true),
            CacheAnswer::Missing => (None, true),
            CacheAnswer::Quiet(_) => (None, false),
        };
        if is_due {
            self.fetch_in_background(key, &slot);
        }
        value
    }

    /// Fetches and waits, unless `known` has an answer by now, or once the fetch of another task has ended.
    pub(crate) async fn fetch_unless(
        self: &Arc<Self>,
        key: &R::Key,
        known: impl Fn(&Entry<R>, SystemTime) -> Option<Result<R::Value, R::Error>>,
    ) -> Result<R::Value, R::Error> {
        let slot = self.slots.get(key);
        let answer = known(&lock(&slot.entry), self.clock.now());
        match answer {
            Some(answer) => answer,
            None => self.fetch_and_wait(key, &slot, known).await,
        }
    }

    /// Reads or changes what is known for a key.
    pub(crate) fn with_entry<T>(
        &self,
        key: &R::Key,
        use_entry: impl FnOnce(&mut Entry<R>, SystemTime) -> T,
    ) -> T {
        let (slot, now) = (self.slots.get(key), self.clock.now());
        use_entry(&mut lock(&slot.entry), now)
    }

    /// Reads all entries, for display.
    pub(crate) fn read_all<T>(&self, read: impl Fn(R::Key, &Entry<R>, SystemTime) -> T) -> Vec<T> {
        let now = self.clock.now();
        self.slots.entries().into_iter().map(|(key, slot)| read(key, &lock(&slot.entry), now)).collect()
    }

    /// Drops the entries of all other keys.
    #[cfg(feature = "secrets-manager")]
    pub(crate) fn retain(&self, is_kept: impl Fn(&R::Key) -> bool) {
        self.slots.retain(is_kept);
    }

    fn answer(&self, slot: &CacheSlot<R>) -> CacheAnswer<R> {
        lock(&slot.entry).answer(&self.rules, self.clock.now())
    }

    /// The answer that needs no fetch, if there is one.
    fn settled(&self, entry: &Entry<R>, now: SystemTime) -> Option<Result<R::Value, R::Error>> {
        match entry.answer(&self.rules, now) {
            CacheAnswer::Fresh(value) | CacheAnswer::Due(value) => Some(Ok(value)),
            CacheAnswer::Quiet(error) => Some(Err(error)),
            CacheAnswer::Missing | CacheAnswer::Expiring(_) => None,
        }
    }

    fn fetch_in_background(self: &Arc<Self>, key: &R::Key, slot: &Arc<CacheSlot<R>>) {
        let Some(permit) = slot.single_flight.try_acquire() else { return };
        let (cache, key, slot) = (Arc::clone(self), key.clone(), Arc::clone(slot));
        permit.spawn(async move { cache.fetch(&key, &slot).await });
    }

    /// Waits for the single fetch of this key.
    async fn fetch_and_wait(
        self: &Arc<Self>,
        key: &R::Key,
        slot: &Arc<CacheSlot<R>>,
        known: impl Fn(&Entry<R>, SystemTime) -> Option<Result<R::Value, R::Error>>,
    ) -> Result<R::Value, R::Error> {
        let permit = slot.single_flight.acquire().await;
        // Another task may have fetched it in the meantime.
        let answer = known(&lock(&slot.entry), self.clock.now());
        if let Some(answer) = answer {
            return answer;
        }
        let (cache, owned_key, slot) = (Arc::clone(self), key.clone(), Arc::clone(slot));
        let fetched = permit.run(async move { cache.fetch(&owned_key, &slot).await }).await;
        fetched.unwrap_or_else(|stopped| Err(R::unavailable(key, stopped.to_string())))
    }

    async fn fetch(&self, key: &R::Key, slot: &CacheSlot<R>) -> Result<R::Value, R::Error> {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, self.rules.fetch(key)).await;
        let fetched = fetched.unwrap_or_else(|_elapsed| {
            Err(R::unavailable(key, format!("no answer within {} s", FETCH_TIMEOUT.as_secs())))
        });
        let outcome = lock(&slot.entry).store(&self.rules, fetched, self.clock.now());
        self.rules.log(key, outcome.as_ref());
        outcome
    }
}
