//! Counters of exported traces. Owns atomics that workers and the exporter update, once for each sampled transaction.

use std::sync::atomic::{AtomicU64, Ordering};

/// All counters of traces; zero in a build without the feature `otlp`.
#[derive(Debug, Default)]
pub struct TraceCounters {
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl TraceCounters {
    /// Counts traces that a collector has accepted.
    pub fn count_exported(&self, traces: u64) {
        self.exported.fetch_add(traces, Ordering::Relaxed);
    }

    /// Counts traces that no collector has received.
    pub fn count_dropped(&self, traces: u64) {
        self.dropped.fetch_add(traces, Ordering::Relaxed);
    }

    /// Accepted traces.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Traces that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
