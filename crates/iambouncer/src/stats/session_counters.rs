//! Process-wide counters of session state: why clients keep their servers, and changes that were not expected. Owns atomics
//! that all workers update; both are rare.

use super::logins::LabelledCounters;
use sql::Feature;
use std::sync::atomic::{AtomicU64, Ordering};

/// All counters of session state.
pub struct SessionCounters {
    /// Clients that began to keep their server, by reason.
    pub pins: LabelledCounters,
    /// Statements that were refused since their client would have kept its server, by reason.
    pub refused: LabelledCounters,
    mismatches: AtomicU64,
    verifications: AtomicU64,
    differences: AtomicU64,
}

impl Default for SessionCounters {
    fn default() -> Self {
        Self {
            pins: LabelledCounters::new(Feature::ALL.map(Feature::name)),
            refused: LabelledCounters::new(Feature::ALL.map(Feature::name)),
            mismatches: AtomicU64::new(0),
            verifications: AtomicU64::new(0),
            differences: AtomicU64::new(0),
        }
    }
}

impl SessionCounters {
    /// Counts a client that keeps its server for this reason from now on.
    pub fn count_pin(&self, feature: Feature) {
        self.pins.count(feature.name());
    }

    /// Counts a statement that was refused for this reason (`pin = error`).
    pub fn count_refused(&self, feature: Feature) {
        self.refused.count(feature.name());
    }

    /// Counts a change of a session that its statement did not announce.
    pub fn count_mismatch(&self) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a comparison of a server's state with what is recorded (`state_verify`).
    pub fn count_verification(&self) {
        self.verifications.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that has found a difference.
    pub fn count_difference(&self) {
        self.differences.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of comparisons, and of those that have found a difference.
    pub fn verified(&self) -> (u64, u64) {
        (self.verifications.load(Ordering::Relaxed), self.differences.load(Ordering::Relaxed))
    }

    /// Number of such changes.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }
}
