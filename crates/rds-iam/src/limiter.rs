//! Login rate limit: AWS throttles IAM logins above 200 per second and instance, and reports it only to the
//! refused client.
//!
//! Owns: the start time of each login to a target, assigned in advance. `governor` only answers yes or no;
//! callers here also need the wait and the number of recent logins.
//! Never: waits; time is an argument.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::slots::lock;

/// Below AWS's 200, leaving room for other clients of the same instance.
pub const DEFAULT_LOGINS_PER_SECOND: u32 = 150;
/// Maximum wait; beyond it a login is refused at once.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Maximum number of targets; targets without recent logins are removed.
const MAX_TARGETS: usize = 4096;
const SECOND: Duration = Duration::from_secs(1);
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The limiter, shared by all tasks that log in. Clones share all state.
#[derive(Clone, Debug)]
pub struct LoginLimiter {
    inner: Arc<Mutex<LimiterInner>>,
}

#[derive(Debug)]
struct LimiterInner {
    per_second: u32,
    targets: HashMap<String, LimiterTarget>,
}

#[derive(Clone, Copy, Debug)]
struct LimiterTarget {
    /// Start time of the next login if logins were evenly spaced.
    next: Instant,
    /// Logins started in the second that began at `second`, and in the one before.
    second: Instant,
    count: u32,
    last_count: u32,
}

/// Too many logins are waiting for this one to start in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many logins to this server are waiting to start")]
pub struct Overloaded;

impl LoginLimiter {
    /// At most `per_second` logins start in any second; 0 means no limit.
    pub fn new(per_second: u32) -> Self {
        Self { inner: Arc::new(Mutex::new(LimiterInner { per_second, targets: HashMap::new() })) }
    }

    /// Changes the limit for future logins.
    pub fn set_rate(&self, per_second: u32) {
        lock(&self.inner).per_second = per_second;
    }

    /// Reserves the next free start time for a login to `target` (host and port). Returns the time until
    /// then.
    ///
    /// # Errors
    /// The wait would be too long; nothing is reserved.
    pub fn reserve(&self, target: &str, now: Instant) -> Result<Duration, Overloaded> {
        let mut inner = lock(&self.inner);
        let pace = Pace::of(inner.per_second);
        if inner.targets.len() >= MAX_TARGETS && !inner.targets.contains_key(target) {
            inner.targets.retain(|_, target| target.next > now);
            if inner.targets.len() >= MAX_TARGETS {
                return Err(Overloaded);
            }
        }
        let fresh = LimiterTarget { next: now, second: now, count: 0, last_count: 0 };
        let entry = inner.targets.entry(target.to_owned()).or_insert(fresh);
        // After a pause, a few logins may start at the same time.
        let earliest = now.checked_sub(pace.slack).unwrap_or(now);
        let start = entry.next.max(earliest);
        let wait = start.saturating_duration_since(now);
        if wait > MAX_WAIT {
            return Err(Overloaded);
        }
        entry.next = start + pace.interval;
        entry.note(now);
        Ok(wait)
    }

    /// Logins to `target` started within about the last second, for metrics and diagnoses.
    pub fn lately(&self, target: &str, now: Instant) -> u32 {
        let inner = lock(&self.inner);
        inner.targets.get(target).map_or(0, |target| target.lately(now))
    }
}

/// Interval between logins, and how many intervals may be made up at once: together never more than the limit
/// in a second.
struct Pace {
    interval: Duration,
    slack: Duration,
}

impl Pace {
    fn of(per_second: u32) -> Self {
        if per_second == 0 {
            return Self { interval: Duration::ZERO, slack: Duration::ZERO };
        }
        let at_once = per_second / 10;
        // Rounded up; otherwise one login too many would fit.
        let interval = Duration::from_nanos(NANOS_PER_SECOND.div_ceil(u64::from(per_second - at_once)));
        Self { interval, slack: interval * at_once.saturating_sub(1) }
    }
}

impl LimiterTarget {
    fn note(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.second);
        if since >= SECOND {
            self.last_count = if since < 2 * SECOND { self.count } else { 0 };
            (self.second, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    fn lately(&self, now: Instant) -> u32 {
        match now.saturating_duration_since(self.second) {
            since if since < SECOND => self.count.max(self.last_count),
            since if since < 2 * SECOND => self.count,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_spread_and_targets_are_limited_separately() {
        let limiter = LoginLimiter::new(10);
        let now = Instant::now();
        let waits: Vec<_> = (0..10).map(|_| limiter.reserve("a", now).unwrap()).collect();
        assert_eq!(waits[0], Duration::ZERO);
        assert!(
            waits.windows(2).all(|pair| pair[0] < pair[1]) && waits[9] <= SECOND + Duration::from_nanos(10),
            "{waits:?}"
        );
        assert_eq!(limiter.reserve("b", now), Ok(Duration::ZERO));
        assert_eq!((limiter.lately("a", now), limiter.lately("b", now)), (10, 1));
        assert_eq!(limiter.lately("a", now + 2 * SECOND), 0);
    }

    #[test]
    fn too_long_a_wait_is_refused_and_reserves_nothing() {
        let limiter = LoginLimiter::new(1);
        let now = Instant::now();
        let taken = (0..100).filter(|_| limiter.reserve("a", now).is_ok()).count();
        assert_eq!(taken, 11);
        assert_eq!(limiter.reserve("a", now + SECOND), Ok(10 * SECOND));
    }

    #[test]
    fn without_a_limit_no_login_waits_and_all_are_counted() {
        let limiter = LoginLimiter::new(0);
        let now = Instant::now();
        assert!((0..1000).all(|_| limiter.reserve("a", now) == Ok(Duration::ZERO)));
        assert_eq!(limiter.lately("a", now), 1000);
        limiter.set_rate(1);
        assert_eq!(limiter.reserve("a", now), Ok(Duration::ZERO));
        assert_eq!(limiter.reserve("a", now), Ok(SECOND));
    }

    proptest! {
        #[test]
        fn at_most_the_limit_start_in_any_second(
            per_second in 1_u32..300,
            pauses_ms in prop::collection::vec(0_u64..400, 1..400),
        ) {
            let limiter = LoginLimiter::new(per_second);
            let mut now = Instant::now();
            let mut started = Vec::new();
            for pause_ms in pauses_ms {
                now += Duration::from_millis(pause_ms / 20);
                if let Ok(wait) = limiter.reserve("a", now) {
                    started.push(now + wait);
                }
            }
            for (at, first) in started.iter().enumerate() {
                let within = started[at..].iter().take_while(|moment| **moment < *first + SECOND).count();
                prop_assert!(within <= per_second as usize, "{within} in a second at {per_second}");
            }
        }
    }
}
