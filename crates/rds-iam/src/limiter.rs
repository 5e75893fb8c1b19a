//! How many logins may begin in a second: AWS throttles IAM logins above 200 a second and instance, and tells nobody
//! but the one who is refused.
//!
//! Owns: a moment for each login of a target, handed out in advance. `governor` would do the same and answers yes or
//! no; here whoever comes needs to know how long to wait, and how many came lately.
//! Never: waits itself; time is an argument.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::slots::lock;

/// Below AWS's 200, with room for others who log in to the same instance.
pub const DEFAULT_LOGINS_PER_SECOND: u32 = 150;
/// Longest wait that is handed out; beyond it a login is better told no.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Targets that are kept apart. Beyond it those without recent logins go.
const MAX_TARGETS: usize = 4096;
const SECOND: Duration = Duration::from_secs(1);
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Shared by whoever logs in. Clones share everything.
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
    /// When the next login would begin if logins were evenly spaced.
    next: Instant,
    /// Logins that were let go in the second that began then, and in the one before.
    second: Instant,
    count: u32,
    last_count: u32,
}

/// So many wait already that a login would begin too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many logins to this server are waiting for their turn")]
pub struct Overloaded;

impl LoginLimiter {
    /// At most so many logins begin in any second; 0 means no limit.
    pub fn new(per_second: u32) -> Self {
        Self { inner: Arc::new(Mutex::new(LimiterInner { per_second, targets: HashMap::new() })) }
    }

    /// Changes the limit for logins to come.
    pub fn set_rate(&self, per_second: u32) {
        lock(&self.inner).per_second = per_second;
    }

    /// Takes the next free moment for a login to `target` (host and port). Returns how long it is until then.
    ///
    /// # Errors
    /// It is too far away; nothing is taken.
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
        // Who has not come for a while may come a few at a time.
        let earliest = now.checked_sub(pace.slack).unwrap_or(now);
        let turn = entry.next.max(earliest);
        let wait = turn.saturating_duration_since(now);
        if wait > MAX_WAIT {
            return Err(Overloaded);
        }
        entry.next = turn + pace.interval;
        entry.note(now);
        Ok(wait)
    }

    /// Logins to `target` that were let go within the last second or so, for metrics and explanations.
    pub fn lately(&self, target: &str, now: Instant) -> u32 {
        let inner = lock(&self.inner);
        inner.targets.get(target).map_or(0, |target| target.lately(now))
    }
}

/// Spacing of logins, and how much of it may be made up for at once: together never more than the limit in a second.
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
        // Rounded up, or one too many would fit.
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
    fn a_burst_is_spread_and_targets_do_not_share() {
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
    fn too_long_a_queue_is_told_and_takes_no_place() {
        let limiter = LoginLimiter::new(1);
        let now = Instant::now();
        let taken = (0..100).filter(|_| limiter.reserve("a", now).is_ok()).count();
        assert_eq!(taken, 11);
        assert_eq!(limiter.reserve("a", now + SECOND), Ok(10 * SECOND));
    }

    #[test]
    fn without_a_limit_nobody_waits_and_all_are_counted() {
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
        fn never_more_than_the_limit_begin_in_any_second(
            per_second in 1_u32..300,
            pauses_ms in prop::collection::vec(0_u64..400, 1..400),
        ) {
            let limiter = LoginLimiter::new(per_second);
            let mut now = Instant::now();
            let mut begun = Vec::new();
            for pause_ms in pauses_ms {
                now += Duration::from_millis(pause_ms / 20);
                if let Ok(wait) = limiter.reserve("a", now) {
                    begun.push(now + wait);
                }
            }
            for (at, first) in begun.iter().enumerate() {
                let within = begun[at..].iter().take_while(|moment| **moment < *first + SECOND).count();
                prop_assert!(within <= per_second as usize, "{within} in a second at {per_second}");
            }
        }
    }
}
