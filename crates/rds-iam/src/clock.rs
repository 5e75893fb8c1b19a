//! Wall-clock time behind a trait.
//!
//! Owns: the [`Clock`] trait and its two implementations.
//! Never: sleeps or schedules; tokens expire by wall-clock time, so monotonic time is not used.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// The engine's source of time. Tests pass one that they control.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current wall-clock time.
    fn now(&self) -> SystemTime;
}

/// The system clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The system clock plus an offset that may change at any time.
#[derive(Debug, Default)]
pub struct OffsetClock {
    offset_seconds: AtomicI64,
}

impl OffsetClock {
    /// A clock that differs from the system clock by `offset_seconds`.
    pub fn new(offset_seconds: i64) -> Self {
        Self { offset_seconds: AtomicI64::new(offset_seconds) }
    }

    /// Moves the clock forward (or back, if negative) by `seconds`.
    pub fn advance(&self, seconds: i64) {
        self.offset_seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    /// The difference from the system clock, in seconds.
    pub fn offset_seconds(&self) -> i64 {
        self.offset_seconds.load(Ordering::SeqCst)
    }
}

impl Clock for OffsetClock {
    fn now(&self) -> SystemTime {
        let offset_seconds = self.offset_seconds();
        let distance = Duration::from_secs(offset_seconds.unsigned_abs());
        let now = SystemTime::now();
        let moved = if offset_seconds >= 0 { now.checked_add(distance) } else { now.checked_sub(distance) };
        // An offset that the platform cannot represent is a mistake; the real time is the safe result.
        moved.unwrap_or(now)
    }
}

/// The time from `from` to `to`; zero if `to` has passed.
pub(crate) fn until(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or(Duration::ZERO)
}

/// By how many seconds `ours` is later than `theirs`.
pub(crate) fn seconds_ahead(ours: SystemTime, theirs: SystemTime) -> i64 {
    match ours.duration_since(theirs) {
        Ok(ahead) => ahead.as_secs() as i64,
        Err(behind) => -(behind.duration().as_secs() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_clock_moves_both_ways() {
        let clock = OffsetClock::new(3600);
        assert!(clock.now() > SystemTime::now() + Duration::from_secs(3500));
        clock.advance(-7200);
        assert_eq!(clock.offset_seconds(), -3600);
        assert!(clock.now() < SystemTime::now() - Duration::from_secs(3500));
    }

    #[test]
    fn until_never_goes_below_zero() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(until(start, start + Duration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(until(start, start - Duration::from_secs(5)), Duration::ZERO);
    }

    #[test]
    fn a_clock_ahead_is_positive() {
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(seconds_ahead(theirs + Duration::from_secs(7), theirs), 7);
        assert_eq!(seconds_ahead(theirs - Duration::from_secs(7), theirs), -7);
    }
}
