//! Process-wide counters of session state: why clients keep their servers, and changes that were not expected. Owns atomics
//! that all workers update; both are rare.

use super::logins::LabelledCounters;
use sql::Feature;
use std::sync::atomic::{AtomicU64, Ordering};

/// All counters of session state.
pub struct SessionCounters {
    /// Clients that began to keep their server, by reason.
    pub pins: LabelledCounters,
    mismatches: AtomicU64,
}

impl Default for SessionCounters {
    fn default() -> Self {
        Self { pins: LabelledCounters::new(Feature::ALL.map(Feature::name)), mismatches: AtomicU64::new(0) }
    }
}

impl SessionCounters {
    /// Counts a client that keeps its server for this reason from now on.
    pub fn count_pin(&self, feature: Feature) {
        self.pins.count(feature.name());
    }

    /// Counts a change of a session that its statement did not announce.
    pub fn count_mismatch(&self) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of such changes.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }
}
