//! Delays after failures, and jitter to spread simultaneous requests.
//!
//! Owns: exponential backoff and jitter. Never: sleeps; callers compare times.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

/// Delay after the first failure.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Maximum delay, and therefore the longest that a recovery of AWS goes unnoticed.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Consecutive failures of one operation, and the end of its backoff.
#[derive(Clone, Debug)]
pub(crate) struct Failures<E> {
    pub(crate) last_error: E,
    consecutive: u32,
    quiet_until: SystemTime,
}

impl<E> Failures<E> {
    /// Counts one more failure at `now`, in addition to `previous`.
    pub(crate) fn after(previous: Option<&Self>, last_error: E, now: SystemTime) -> Self {
        let consecutive = previous.map_or(1, |failures| failures.consecutive.saturating_add(1));
        Self { last_error, consecutive, quiet_until: now + backoff(consecutive) }
    }

    /// True if it is too early to try again.
    pub(crate) fn is_quiet(&self, now: SystemTime) -> bool {
        // A clock that was set back must not stretch the wait beyond its bound.
        now < self.quiet_until && self.quiet_until <= now + MAX_BACKOFF
    }
}

/// The delay after this number of consecutive failures: doubling, minus up to a quarter at random.
fn backoff(consecutive: u32) -> Duration {
    let doublings = consecutive.saturating_sub(1).min(16);
    let full = FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    full - jitter(full / 4)
}

/// A random duration between zero and `span`.
pub(crate) fn jitter(span: Duration) -> Duration {
    // `RandomState` is seeded by the system; good enough to keep processes from synchronizing.
    let random = RandomState::new().build_hasher().finish();
    span.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_a_limit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let mut failures = Failures::after(None, "x", now);
        for expected_seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = failures.quiet_until.duration_since(now).unwrap();
            let full = Duration::from_secs(expected_seconds);
            assert!(wait <= full && wait >= full * 3 / 4, "{wait:?} for {full:?}");
            failures = Failures::after(Some(&failures), "x", now);
        }
    }

    #[test]
    fn a_clock_set_back_ends_the_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let failures = Failures::after(None, "x", now);
        assert!(failures.is_quiet(now));
        assert!(!failures.is_quiet(now + Duration::from_secs(1)));
        assert!(!failures.is_quiet(now - Duration::from_secs(3600)));
    }

    #[test]
    fn jitter_stays_within_its_span() {
        let span = Duration::from_secs(10);
        for _ in 0..100 {
            assert!(jitter(span) <= span);
        }
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
